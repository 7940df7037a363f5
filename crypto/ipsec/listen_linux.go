package ipsec

import (
	"context"
	"errors"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// What the kernel tells of, see linux/xfrm.h and rtnetlink(7).
const (
	policyGroups = 1<<(2-1) | // associations whose time is over
		1<<(3-1) | // associations
		1<<(4-1) // policies
	routeGroups = unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR |
		unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV6_ROUTE |
		unix.RTMGRP_IPV4_RULE | 1<<(unix.RTNLGRP_IPV6_RULE-1)
)

// charonEvents are those after which a path may be protected by something else.
var charonEvents = [...]string{"child-updown", "child-rekey", "ike-updown"}

// listenAgain is how long to wait before listening again to what has fallen silent.
const listenAgain = time.Second

// listen calls hint after everything that may have changed a path's protection,
// until ctx ends, from goroutines of its own. It tells whether it may hear all of it.
func (d *Detector) listen(ctx context.Context, listeners *sync.WaitGroup, hint func()) bool {
	listeners.Go(func() { d.hearCharon(ctx, hint) })
	hears := true
	for protocol, groups := range map[int]uint32{unix.NETLINK_XFRM: policyGroups, unix.NETLINK_ROUTE: routeGroups} {
		open := func() (*os.File, error) { return subscribe(protocol, groups) }
		notices, err := open()
		if errors.Is(err, unix.EPROTONOSUPPORT) {
			continue // a kernel without IPsec
		}
		if err != nil {
			hears = false
			continue
		}
		listeners.Go(func() { keepHearing(ctx, notices, open, hint) })
	}
	return hears
}

func subscribe(protocol int, groups uint32) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("bind", err)
	}
	return os.NewFile(uintptr(fd), "netlink"), nil
}

// keepHearing hears the kernel until ctx ends, and opens the notices again if they fail.
func keepHearing(ctx context.Context, notices *os.File, open func() (*os.File, error), hint func()) {
	hearKernel(ctx, notices, hint)
	for sleep(ctx, listenAgain) {
		if notices, err := open(); err == nil {
			hearKernel(ctx, notices, hint)
		}
	}
}

// hearKernel passes on that there are notices, and that there may have been some before,
// until they fail or ctx ends. Then it closes them. All but a notice's first byte is
// dropped: keys may be in it. One that the kernel had no room for is a notice too.
func hearKernel(ctx context.Context, notices *os.File, hint func()) {
	defer notices.Close()
	defer context.AfterFunc(ctx, func() { notices.Close() })()
	for b := make([]byte, 1); ; {
		hint()
		if _, err := notices.Read(b); err != nil && !errors.Is(err, unix.ENOBUFS) {
			return
		}
	}
}

// hearCharon passes on what charon tells of, and that it has come or gone.
func (d *Detector) hearCharon(ctx context.Context, hint func()) {
	for again := true; again; again = sleep(ctx, listenAgain) {
		v, err := d.dialCharon(ctx)
		if err != nil {
			continue // it does not run, or we may not
		}
		stop := context.AfterFunc(ctx, v.close)
		v.hear(hint)
		stop()
		v.close()
		hint()
	}
}

// hear calls hint for every event until the connection ends.
func (v *vici) hear(hint func()) {
	if err := v.conn.SetDeadline(time.Now().Add(viciAnswersWithin)); err != nil {
		return
	}
	for _, e := range charonEvents {
		if err := v.register(e); err != nil {
			return
		}
	}
	if err := v.conn.SetDeadline(time.Time{}); err != nil {
		return // its events may be far apart, and it ends with the process
	}
	for {
		hint()
		if _, _, err := v.read(); err != nil {
			return
		}
	}
}
