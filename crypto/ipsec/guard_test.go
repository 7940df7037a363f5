package ipsec

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"
)

func TestGuardLetsInOnlyWhatIsProtected(t *testing.T) {
	for networks, welcome := range map[string]bool{"127.0.0.0/8": true, "192.0.2.0/24": false} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		reasons := make(chan error, 1)
		paths := &Paths{Detector: &Detector{Networks: []netip.Prefix{netip.MustParsePrefix(networks)}}}
		guarded := paths.Guard(ln, func(_ net.Addr, why error) { reasons <- why })
		accepted := make(chan net.Conn, 1)
		go func() {
			c, _ := guarded.Accept() // nothing once it is closed
			accepted <- c
		}()
		c, err := net.Dial("tcp", ln.Addr().String())
		if err == nil {
			c.SetDeadline(time.Now().Add(30 * time.Second))
			if welcome {
				(<-accepted).Close()
			}
			_, err = c.Read(make([]byte, 1))
			c.Close()
		}
		if (err == io.EOF) != welcome {
			t.Errorf("with %s it ends with %v", networks, err)
		}
		if !welcome {
			if why := <-reasons; !errors.Is(why, ErrUnprotected) {
				t.Errorf("he is refused because of %v", why)
			}
		}
		ln.Close()
		if !welcome {
			if c := <-accepted; c != nil {
				t.Error("he is let in")
			}
		}
	}
}

func TestDialerSendsNothingByAPathThatIsNotProtected(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	dialer := net.Dialer{ControlContext: new(Detector).Control}
	if c, err := dialer.Dial("tcp", ln.Addr().String()); !errors.Is(err, ErrUnprotected) {
		t.Errorf("%v, %v", c, err)
	}
}

func TestOnlyAProtectedPathTakesASocket(t *testing.T) {
	paths := &Paths{Detector: &Detector{Networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}}
	for remote, protected := range map[string]bool{"127.0.0.1:80": true, "[::1]:80": false} {
		c, err := net.ListenUDP("udp", nil)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := c.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		f, err := paths.Tie(t.Context(), Path{Remote: netip.MustParseAddrPort(remote), UDP: true}, raw)
		if protected != (err == nil) || !protected && !errors.Is(err, ErrUnprotected) {
			t.Errorf("%s: %v", remote, err)
		}
		if f != nil {
			f.Stop()
		}
		if len(paths.followed) > 0 {
			t.Errorf("%s is still followed", remote)
		}
		c.Close()
	}
}
