package server

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/adit-net/adit/tunnel/nowait"
	"github.com/adit-net/adit/tunnel/relay"
	"github.com/adit-net/adit/tunnel/socks"
)

// isPlain tells whether dialPlain may connect to an address: nothing is asked of the
// connection that few ask.
func isPlain(target netip.AddrPort, w wishes) bool {
	return len(w.options) == 0 && target.Addr().Zone() == ""
}

// dialPlain is dial without package net, whose system calls wake the thread of Go's scheduler: see
// package nowait.
func (e *Exit) dialPlain(ctx context.Context, r socks.Request, target netip.AddrPort) (relay.Conn, error) {
	d := dialling{to: addressAt(target), target: target, deadline: time.Now().Add(e.timeout())}
	var conn *nowait.Conn
	var err error
	for range 3 { // as often as package net tries, and for the same reasons
		if conn != nil {
			conn.Reset() // it has connected to itself
		}
		if conn, err = d.dial(ctx, func(raw syscall.RawConn) error {
			if err := e.permits(r, target); err != nil || e.Steer == nil {
				return err
			}
			return e.Steer.control("", target.String(), raw)
		}); err == nil && d.local != target || err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			break
		}
	}
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: networkOf(target), Addr: net.TCPAddrFromAddrPort(target), Err: err}
	}
	return conn, nil
}

// holdPlain keeps what all connections of dialPlain share, until release.
func holdPlain() (release func()) { return nowait.Hold() }

// dialling is an attempt to connect to one address.
type dialling struct {
	to       address
	target   netip.AddrPort
	deadline time.Time
	local    netip.AddrPort // of the connection
}

// dial connects if admit lets it.
func (d *dialling) dial(ctx context.Context, admit func(syscall.RawConn) error) (*nowait.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	fd, err := newSocket(d.target.Addr().Is4())
	if err != nil {
		return nil, err
	}
	errno := unix.Errno(0)
	if err = admit(rawSocket(fd)); err == nil {
		if errno = d.to.connect(fd); underway(errno) {
			errno = d.to.connect(fd) // who is on this host has answered by now
		}
		if !underway(errno) {
			err = came(errno)
		}
	}
	if err != nil {
		nowait.Close(fd)
		return nil, err
	}
	conn, err := nowait.Open(fd, d.target)
	if err != nil {
		return nil, err
	}
	if underway(errno) {
		err = d.await(ctx, conn)
	} else {
		err = ctx.Err()
	}
	if err != nil {
		conn.Reset()
		return nil, err
	}
	d.local = conn.Connected()
	return conn, nil
}

// await waits until the target has answered.
func (d *dialling) await(ctx context.Context, conn *nowait.Conn) error {
	if err := conn.SetWriteDeadline(d.deadline); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { conn.SetWriteDeadline(time.Unix(1, 0)) })
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	to := d.to
	var errno unix.Errno
	err = raw.Write(func(fd uintptr) bool {
		errno = to.connect(int(fd))
		return !underway(errno)
	})
	switch {
	case !stop():
		return ctx.Err()
	case err != nil:
		return err
	case came(errno) != nil:
		return came(errno)
	}
	return conn.SetWriteDeadline(time.Time{})
}

// underway tells whether the target has not answered yet.
func underway(errno unix.Errno) bool {
	return errno == unix.EINPROGRESS || errno == unix.EALREADY || errno == unix.EINTR
}

// came is what has come of a connect that is not under way any more.
func came(errno unix.Errno) error {
	if errno == 0 || errno == unix.EISCONN {
		return nil
	}
	return os.NewSyscallError("connect", errno)
}

// newSocket makes a socket as [relay.TCP] has one in the end. If the process dies the target sees
// a reset.
func newSocket(four bool) (fd int, err error) {
	family := unix.AF_INET6
	if four {
		family = unix.AF_INET
	}
	// The system call has no need of a fork lock: the descriptor is never without CLOEXEC.
	if fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0); err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	for _, o := range [...]struct{ level, name, value int }{
		{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, int(keepAlive.Idle / time.Second)},
		{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, int(keepAlive.Interval / time.Second)},
		{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, keepAlive.Count},
	} {
		_ = nowait.SetOption(fd, o.level, o.name, o.value) // as package net, which goes without
	}
	_ = nowait.SetLinger(fd, true)
	if !four {
		err = nowait.SetOption(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
	}
	if err != nil {
		nowait.Close(fd)
		return -1, err
	}
	return fd, nil
}

// rawSocket is a socket that nothing is waited for yet.
type rawSocket int

func (s rawSocket) Control(f func(fd uintptr)) error { f(uintptr(s)); return nil }

func (rawSocket) Read(func(fd uintptr) bool) error { return errors.ErrUnsupported }

func (rawSocket) Write(func(fd uintptr) bool) error { return errors.ErrUnsupported }

// address is an address as the kernel knows it.
type address struct {
	four unix.RawSockaddrInet4
	six  unix.RawSockaddrInet6 // if four is none
}

func addressAt(at netip.AddrPort) (p address) {
	if at.Addr().Is4() {
		p.four = unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: at.Addr().As4()}
		binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&p.four.Port))[:], at.Port())
		return p
	}
	p.six = unix.RawSockaddrInet6{Family: unix.AF_INET6, Addr: at.Addr().As16()}
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&p.six.Port))[:], at.Port())
	return p
}

// connect is connect(2).
func (p *address) connect(fd int) unix.Errno {
	at, size := unsafe.Pointer(&p.six), unsafe.Sizeof(p.six)
	if p.four.Family != 0 {
		at, size = unsafe.Pointer(&p.four), unsafe.Sizeof(p.four)
	}
	_, _, errno := syscall.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(at), size)
	return errno
}
