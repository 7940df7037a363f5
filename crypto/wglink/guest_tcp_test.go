package wglink

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"github.com/adit-net/adit/tunnel/relay"
)

func TestGuestReachesAnyAddressOverTCP(t *testing.T) {
	h := &fakeHost{connect: echoTCP}
	e := startHost(t, h)
	p := e.newPhone(t, phone4, phone6)
	for _, to := range []netip.AddrPort{netip.AddrPortFrom(target4, 80), netip.AddrPortFrom(target6, 443), netip.AddrPortFrom(target4, 65535)} {
		c := p.mustDial(t, to)
		roundTrip(t, c, 1<<20)
		f := h.seen()[len(h.seen())-1]
		if f.Guest != p.key.Public() || f.Target != to || f.Source.Port() == 0 || !f.Remote.Addr().IsLoopback() {
			t.Errorf("the host was told %+v", f)
		}
		if want := map[bool]netip.Addr{true: phone4, false: phone6}[to.Addr().Is4()]; f.Source.Addr() != want {
			t.Errorf("the guest is at %v", f.Source)
		}
	}
}

func TestNoConnectionOpensBeforeTheTargetHasAccepted(t *testing.T) {
	calls, accept := make(chan *Call, 10), make(chan struct{})
	e := startHost(t, &fakeHost{connect: func(ctx context.Context, c *Call) {
		calls <- c
		select {
		case <-accept:
			echoTCP(ctx, c)
		case <-ctx.Done():
		}
	}})
	p := e.newPhone(t, phone4, phone6)
	opened := make(chan net.Conn, 1)
	var dialing sync.WaitGroup
	defer dialing.Wait()
	dialing.Go(func() {
		c, err := p.dial(t, netip.AddrPortFrom(target4, 80))
		if err != nil {
			t.Error(err)
			close(opened)
			return
		}
		opened <- c
	})
	<-calls
	// Long enough for the phone to try again.
	select {
	case <-opened:
		t.Fatal("the phone has a connection that nobody has accepted")
	case <-time.After(1500 * time.Millisecond):
	}
	if len(calls) > 0 {
		t.Error("the phone's second attempt is a second call")
	}
	close(accept)
	if c := <-opened; c != nil {
		roundTrip(t, c, 100)
	}
}

func TestRefusalsLookLikeRefusals(t *testing.T) {
	var reason atomic.Int64
	e := startHost(t, &fakeHost{connect: func(_ context.Context, c *Call) { c.Refuse(Reason(reason.Load())) }})
	p := e.newPhone(t, phone4, phone6)
	errs4, errs6 := make(chan [2]byte, 10), make(chan [2]byte, 10)
	p.sniff(func(b []byte) {
		if b[0]>>4 == 4 && b[9] == 1 {
			errs4 <- [2]byte(b[header.IPv4MinimumSize:])
		} else if b[0]>>4 == 6 && b[6] == 58 {
			errs6 <- [2]byte(b[header.IPv6MinimumSize:])
		}
	})
	for _, want := range []struct {
		why    Reason
		text   string
		v4, v6 [2]byte // type and code
	}{
		{Refused, "connection was refused", [2]byte{}, [2]byte{}},
		{NotAllowed, "no route to host", [2]byte{3, 13}, [2]byte{1, 1}},
		{NetworkUnreachable, "network is unreachable", [2]byte{3, 0}, [2]byte{1, 0}},
		{HostUnreachable, "no route to host", [2]byte{3, 1}, [2]byte{1, 3}},
	} {
		reason.Store(int64(want.why))
		began := time.Now()
		if _, err := p.dial(t, netip.AddrPortFrom(target4, 80)); err == nil || !strings.Contains(err.Error(), want.text) {
			t.Errorf("%v: dial gives %v", want.why, err)
		}
		if took := time.Since(began); took > 900*time.Millisecond {
			t.Errorf("%v: it took %v, which is a second attempt", want.why, took)
		}
		if want.why == Refused {
			continue
		}
		// The phone's stack does not understand all of the messages of IPv6.
		p.inject(t, tcpPacket(netip.AddrPortFrom(phone6, 1000), netip.AddrPortFrom(target6, 80), 7, synFlag))
		if v4, v6 := <-errs4, <-errs6; v4 != want.v4 || v6 != want.v6 {
			t.Errorf("%v: the messages are %v and %v", want.why, v4, v6)
		}
	}
}

func TestDirectionsOfAGuestsConnectionEndOneByOne(t *testing.T) {
	ended := make(chan error, 1)
	e := startHost(t, &fakeHost{connect: func(_ context.Context, c *Call) {
		conn, err := c.Accept()
		if err != nil {
			ended <- err
			return
		}
		b, err := io.ReadAll(conn)
		if err == nil {
			_, err = conn.Write(b)
		}
		if err == nil {
			err = conn.CloseWrite()
		}
		if _, again := conn.Write([]byte("x")); again == nil {
			err = errors.New("a write after CloseWrite works")
		}
		ended <- err
		_ = conn.Close()
	}})
	c := e.newPhone(t, phone4).mustDial(t, netip.AddrPortFrom(target4, 80))
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(c); err != nil || string(b) != "hello" {
		t.Errorf("read %q, %v", b, err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// reset ends a phone's connection as an app that has crashed does.
func reset(p *phone, c *gonet.TCPConn) {
	at := c.LocalAddr().(*net.TCPAddr).AddrPort()
	for _, e := range p.stack.RegisteredEndpoints() {
		if e, ok := e.(*tcp.Endpoint); ok {
			if local, err := e.GetLocalAddress(); err == nil && local.Port == at.Port() {
				e.Abort()
			}
		}
	}
}

func TestResetsComeThroughAsResets(t *testing.T) {
	read, conns := make(chan error, 1), make(chan Conn, 1)
	e := startHost(t, &fakeHost{connect: func(_ context.Context, c *Call) {
		conn, err := c.Accept()
		if err != nil {
			read <- err
			return
		}
		conns <- conn
		_, err = io.Copy(io.Discard, conn)
		read <- err
	}})
	p := e.newPhone(t, phone4, phone6)
	to := netip.AddrPortFrom(target6, 80)
	c := p.mustDial(t, to)
	<-conns
	reset(p, c)
	if err := <-read; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the host reads %v", err)
	}
	c = p.mustDial(t, to)
	if err := (<-conns).Reset(); err != nil {
		t.Error(err)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "reset by peer") {
		t.Errorf("the phone reads %v", err)
	}
	if err := <-read; err == nil {
		t.Error("the host reads a clean end after its own reset")
	}
}

func TestGuestThatHangsUpEndsTheCall(t *testing.T) {
	called, over := make(chan struct{}, 1), make(chan struct{}, 1)
	e := startHost(t, &fakeHost{connect: func(ctx context.Context, c *Call) {
		called <- struct{}{}
		<-ctx.Done()
		if _, err := c.Accept(); err == nil {
			t.Error("the call was accepted after its end")
		}
		over <- struct{}{}
	}})
	p := e.newPhone(t, phone4)
	from, to := netip.AddrPortFrom(phone4, 1000), netip.AddrPortFrom(target4, 80)
	p.inject(t, tcpPacket(from, to, 7, synFlag))
	<-called
	p.inject(t, tcpPacket(from, to, 99, rstFlag)) // another connection's
	p.inject(t, tcpPacket(from, to, 8, rstFlag))
	<-over
}

func TestRemovedGuestLosesItsFlowsAtOnce(t *testing.T) {
	ended, closed := make(chan error, 1), make(chan struct{})
	e := startHost(t, &fakeHost{
		connect: func(_ context.Context, c *Call) {
			conn, err := c.Accept()
			if err != nil {
				ended <- err
				return
			}
			_, err = io.Copy(io.Discard, conn)
			ended <- err
		},
		associate: func(_ context.Context, p *Port) (Association, error) { return echoUDP{p, closed}, nil },
	})
	p, stays := e.newPhone(t, phone4), e.newPhone(t, other4)
	p.mustDial(t, netip.AddrPortFrom(target4, 80))
	u := p.socket(t, phone4, netip.AddrPortFrom(target4, 53))
	roundTrip(t, u, 100)
	began := time.Now()
	if err := e.SetGuests(e.guests[1:]); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil {
		t.Error("the host took it for a clean end")
	}
	<-closed
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("it took %v", took)
	}
	_ = stays
}

func TestDoorIsOpenToGuests(t *testing.T) {
	e := startHost(t, &fakeHost{door: func(ctx context.Context, f Flow, conn Conn) {
		defer context.AfterFunc(ctx, func() { _ = conn.Reset() })()
		_, _ = io.Copy(conn, conn)
		_ = conn.Close()
	}})
	p := e.newPhone(t, phone4, phone6)
	for _, at := range []netip.Prefix{inner4, inner6} {
		roundTrip(t, p.mustDial(t, netip.AddrPortFrom(at.Addr(), doorPort)), 10_000)
		for _, port := range []uint16{22, 80, carrierPort} {
			if _, err := p.dial(t, netip.AddrPortFrom(at.Addr(), port)); err == nil || !strings.Contains(err.Error(), "refused") {
				t.Errorf("port %d: %v", port, err)
			}
		}
	}
}

// The host is what a server's would be: it dials, and relays.
func TestGuestsConnectionIsRelayedToARealOne(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var serving sync.WaitGroup
	defer serving.Wait()
	results := make(chan relay.Result, 1)
	e := startHost(t, &fakeHost{connect: func(ctx context.Context, c *Call) {
		out, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			c.Refuse(Refused)
			return
		}
		conn, err := c.Accept()
		if err != nil {
			_ = out.Close()
			return
		}
		results <- relay.Copy(ctx, conn, relay.TCP(out.(*net.TCPConn)))
	}})
	p := e.newPhone(t, phone4)
	c := p.mustDial(t, netip.AddrPortFrom(target4, 80))
	far, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	serving.Go(func() {
		_, _ = io.Copy(far, far)
		_ = far.Close()
	})
	roundTrip(t, c, 8<<20)
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(c); err != nil || len(b) > 0 {
		t.Errorf("read %d bytes, %v", len(b), err)
	}
	if r := <-results; r.Err != nil || r.Up != 8<<20 || r.Down != 8<<20 {
		t.Errorf("the relay says %+v", r)
	}
	// And a reset from the far end.
	c = p.mustDial(t, netip.AddrPortFrom(target4, 80))
	last, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	_ = last.(*net.TCPConn).SetLinger(0)
	_ = last.Close()
	if _, err := c.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "reset by peer") {
		t.Errorf("the phone reads %v", err)
	}
	if r := <-results; r.Err == nil {
		t.Error("the relay took a reset for a clean end")
	}
}
