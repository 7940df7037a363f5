package tlslink

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

func TestSocketsAreTunedOnBothSides(t *testing.T) {
	client, server, stop := pair(t, "chrome")
	defer stop()
	for name, c := range map[string]net.Conn{"client": client, "server": server} {
		raw, err := asConn(c).wire.Conn.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		for option, want := range map[int]int{
			unix.TCP_NODELAY:       1,
			unix.TCP_NOTSENT_LOWAT: notSent,
			unix.TCP_USER_TIMEOUT:  userTimeout,
			unix.TCP_KEEPIDLE:      25,
			unix.TCP_KEEPINTVL:     5,
			unix.TCP_KEEPCNT:       3,
		} {
			var got int
			if err := raw.Control(func(fd uintptr) { got, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, option) }); err != nil {
				t.Fatal(err)
			}
			if err != nil || got != want {
				t.Errorf("%s: option %d is %d, %v, want %d", name, option, got, err, want)
			}
		}
	}
}
