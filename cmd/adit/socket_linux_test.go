package main

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/adit-net/adit/client"
)

func TestConnectionsToTheServerAreSteered(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	said := 0
	dial := func(c remoteConfig) (net.Conn, error) {
		d := net.Dialer{ControlContext: c.steer(func(context.Context, string, string, syscall.RawConn) error { said++; return nil })}
		return d.Dial("tcp", ln.Addr().String())
	}
	for what, test := range map[string]struct {
		config remoteConfig
		option int
		want   int
	}{
		"interface": {remoteConfig{Interface: "lo"}, unix.SO_BINDTOIFINDEX, loopbackIndex(t)},
		"mark":      {remoteConfig{Mark: 7}, unix.SO_MARK, 7},
	} {
		c, err := dial(test.config)
		if what == "mark" && errors.Is(err, fs.ErrPermission) {
			continue // whoever runs the tests may not
		}
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		raw, err := c.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		got := 0
		if err := raw.Control(func(fd uintptr) { got, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, test.option) }); err != nil || got != test.want {
			t.Errorf("%s: %d, %v; want %d", what, got, err, test.want)
		}
		c.Close()
	}
	before := said
	if c, err := dial(remoteConfig{Interface: "none0"}); !errors.Is(err, unix.ENODEV) || said != before {
		t.Errorf("by an interface that is not there: %v, %v", c, err)
	}
}

func loopbackIndex(t *testing.T) int {
	t.Helper()
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	return lo.Index
}

func TestSegmentsAreSmallAfterNothingCameBack(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var n narrows
	connect := func() (segment int) {
		t.Helper()
		d := net.Dialer{ControlContext: n.control(nil)}
		c, err := d.DialContext(t.Context(), "tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		raw, err := c.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		_ = raw.Control(func(fd uintptr) { segment, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG) })
		if err != nil {
			t.Fatal(err)
		}
		return segment
	}
	fails := func(ctx context.Context, with error) {
		_, _ = n.dial(func(context.Context) (client.Carrier, error) { return nil, with })(ctx)
	}
	over, end := context.WithCancel(t.Context())
	end()
	fails(t.Context(), syscall.ECONNREFUSED)
	fails(over, context.DeadlineExceeded)
	if s := connect(); s <= narrowSegment {
		t.Errorf("after other failures segments have %d bytes", s)
	}
	fails(t.Context(), &net.OpError{Op: "read", Err: os.ErrDeadlineExceeded})
	if s := connect(); s > narrowSegment {
		t.Errorf("after nothing came back segments have %d bytes", s)
	}
}
