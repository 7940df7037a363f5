package tlslink

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/nettest"
	"golang.org/x/sys/unix"
)

// multipathHere tells whether this system has Multipath TCP switched on.
func multipathHere() bool {
	enabled, err := os.ReadFile("/proc/sys/net/mptcp/enabled")
	return err == nil && strings.TrimSpace(string(enabled)) == "1"
}

// multipathPair gives both ends of an open carrier whose client asks for
// Multipath TCP. The server lets it have it or not.
func multipathPair(t *testing.T, allowed bool) (client, server net.Conn, stop func()) {
	t.Helper()
	var config net.ListenConfig
	config.SetMultipathTCP(allowed)
	ln, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e := &exit{address: ln.Addr().String()}
	e.key, e.cert = newCertificate(t, "exit.test")
	served := make(chan net.Conn, 1)
	done := make(chan struct{})
	var serving sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	serving.Go(func() {
		s := &Server{GetCertificate: always(&e.cert)}
		err := s.Serve(ctx, ln, genuine(func(_ context.Context, c net.Conn) {
			served <- c
			<-done
		}))
		if err != nil {
			t.Error(err)
		}
	})
	d := e.dialer("chrome")
	d.Multipath = true
	c, err := d.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if client, _, err = c.Attach(t.Context(), opening()); err != nil {
		t.Fatal(err)
	}
	server = <-served
	return client, server, sync.OnceFunc(func() {
		_ = client.Close()
		_ = server.Close()
		close(done)
		cancel()
		serving.Wait()
	})
}

func TestCarrierUsesMultipathTCPWhereBothEndsHaveIt(t *testing.T) {
	for _, allowed := range []bool{true, false} {
		client, server, stop := multipathPair(t, allowed)
		defer stop()
		for name, c := range map[string]net.Conn{"client": client, "server": server} {
			tcp := asConn(c).wire.Conn.(*net.TCPConn)
			if got, err := tcp.MultipathTCP(); err != nil || got != (allowed && multipathHere()) {
				t.Errorf("the server allows it: %v; the %s uses it: %v, %v", allowed, name, got, err)
			}
			if got := newVigil(tcp) != nil; got != (allowed && multipathHere()) {
				t.Errorf("the server allows it: %v; the %s has a vigil: %v", allowed, name, got)
			}
			if pathless(tcp) {
				t.Errorf("the server allows it: %v; the %s sees no path", allowed, name)
			}
		}
		var echoing sync.WaitGroup
		echoing.Go(func() { echo(t.Context(), server) })
		roundTrip(t, client, 8<<20)
		stop()
		echoing.Wait()
	}
}

func TestMultipathCarrierIsANetConn(t *testing.T) {
	nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
		c, s, stop := multipathPair(t, true)
		return c, s, stop, nil
	})
}

// TCP_USER_TIMEOUT is what Multipath TCP does not have. The session above finds
// dead paths itself.
func TestMultipathSocketsAreTunedToo(t *testing.T) {
	client, server, stop := multipathPair(t, true)
	defer stop()
	for name, c := range map[string]net.Conn{"client": client, "server": server} {
		raw, err := asConn(c).wire.Conn.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		for option, want := range map[int]int{
			unix.TCP_NODELAY:       1,
			unix.TCP_NOTSENT_LOWAT: notSent,
			unix.TCP_KEEPIDLE:      25,
			unix.TCP_KEEPINTVL:     5,
			unix.TCP_KEEPCNT:       3,
		} {
			var got int
			if err := raw.Control(func(fd uintptr) { got, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, option) }); err != nil {
				t.Fatal(err)
			}
			if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOPROTOOPT) {
				continue // Linux before 6.10 lets none of its paths have it
			}
			if err != nil || got != want {
				t.Errorf("%s: option %d is %d, %v, want %d", name, option, got, err, want)
			}
		}
	}
}

func TestMultipathCloseIsNotStuck(t *testing.T) {
	client, server, stop := multipathPair(t, true)
	defer stop()
	for name, c := range map[string]net.Conn{"client": client, "server": server} {
		stuff(t, c) // nobody reads
		begun := time.Now()
		_ = c.Close()
		if took := time.Since(begun); took > closeTimeout+time.Second {
			t.Errorf("%s: Close took %v", name, took)
		}
	}
}

func TestVigilRestsWithoutTraffic(t *testing.T) {
	ln := listen(t)
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	synctest.Test(t, func(t *testing.T) {
		v := watch(c.(*net.TCPConn))
		left := func() int {
			synctest.Wait()
			v.mu.Lock()
			defer v.mu.Unlock()
			return v.looks
		}
		for range 3 {
			v.stir()
			time.Sleep(vigilPeriod * (vigilLooks - 1))
			if left() == 0 {
				t.Error("it rests soon after traffic")
			}
			time.Sleep(vigilPeriod)
			if n := left(); n != 0 || v.timer.Stop() {
				t.Errorf("%d looks are still to come without traffic", n)
			}
		}
		v.stir()
		v.end()
		v.stir()
		if v.timer.Stop() {
			t.Error("it goes on after its end")
		}
	})
}
