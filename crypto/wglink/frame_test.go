package wglink

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// aTag is that of the tests below.
var aTag = tag{243, 51, 51, 51}

var directions = []direction{toServer, toDevice}

// inboxOf gives an inbox that has a tag, and is the only one.
func inboxOf(d direction, t tag) (*inboxes, *inbox) {
	s, i := newInboxes(d), &inbox{arrived: make(chan struct{}, 1)}
	s.add(t, i)
	return s, i
}

func TestFramesAreThoseOfTheProtocol(t *testing.T) {
	text, err := os.ReadFile("../../tunnel/PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	for example, frame := range map[string][]byte{
		`"query?" of flow 5 in a frame to the server`:            frameOf(toServer, aTag, "\x05query?"),
		`"answer" of flow 5 in a frame to the device`:            frameOf(toDevice, aTag, "\x05answer"),
		`"a longer answer" of flow 300 in a frame to the device`: frameOf(toDevice, aTag, "\x41\x2ca longer answer"),
	} {
		if line := fmt.Sprintf("| %s | `%x` |", example, frame); !strings.Contains(string(text), line) {
			t.Errorf("the text does not say %s", line)
		}
	}
}

func TestGarbledFramesAreDropped(t *testing.T) {
	for _, d := range directions {
		for _, payload := range []string{"", "short", "exactly 13 by", "a payload that is longer"} {
			s, i := inboxOf(d, aTag)
			good := frameOf(d, aTag, payload)
			if s.deliver(good); !isFrame(good) || string(i.waiting[lengthSize:]) != payload {
				t.Fatalf("%q was not taken", payload)
			}
			i.waiting = nil
			for _, at := range []int{frameLength, frameLength + 1, int(d), int(d) + 1, int(d) + 2, int(d) + 3} {
				bad := bytes.Clone(good)
				bad[at] ^= 0x10
				if s.deliver(bad); len(i.waiting) > 0 {
					t.Fatalf("%q is taken with another byte %d", payload, at)
				}
			}
			for n := range good {
				if !isFrame(good[:n]) {
					continue
				}
				if s.deliver(good[:n]); len(i.waiting) > 0 {
					t.Fatalf("%q is taken cut off at %d", payload, n)
				}
			}
		}
	}
}

// What WireGuard lets through because its header is as RFC 791 has it.
func TestPacketsAreNoFrames(t *testing.T) {
	for words := header.IPv4MinimumSize / 4; words < 16; words++ {
		b := make([]byte, 60)
		if b[0] = byte(header.IPv4Version<<4 | words); isFrame(b) {
			t.Errorf("a packet with a header of %d bytes is taken for one", 4*words)
		}
	}
}

func FuzzFrame(f *testing.F) {
	for _, payload := range []string{"", "x", "exactly 12 b", "exactly 13 by", "a payload that is longer"} {
		for _, d := range directions {
			f.Add(frameOf(d, aTag, payload))
		}
	}
	long := frameOf(toServer, aTag, "short, but says to be long")
	long[0] = shortMark
	f.Add(long)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if !isFrame(b) {
			return
		}
		for _, d := range directions {
			s, i := inboxOf(d, tag(b[d:]))
			s.deliver(b)
			got := make([]byte, len(b))
			n, ok := i.take(got)
			if !ok {
				continue
			}
			want := frameOf(d, tag(b[d:]), string(got[:n]))
			if b[0] == longMark && !bytes.Equal(want, b) {
				t.Fatalf("% x was taken for % x", b, want)
			}
			// Nobody looks at what a short one leaves over.
			var room [between]byte
			if first, _, _ := d.parts(want, &room); b[0] == shortMark && (want[0] != shortMark || !bytes.Equal(first, got[:n])) {
				t.Fatalf("% x was taken for % x", b, want)
			}
		}
	})
}

func (s *inboxes) len() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.all)
}

// engine is the running server's.
func (e *exit) engine() *engine {
	e.roster.mu.Lock()
	defer e.roster.mu.Unlock()
	return e.roster.engine
}

// tags gives those that WireGuard lets devices use, all together.
func (e *exit) tags(t testing.TB) (all []tag) {
	t.Helper()
	state, err := e.engine().device.IpcGet()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(state) {
		if text, ok := strings.CutPrefix(strings.TrimSpace(line), "allowed_ip="); ok {
			p, err := netip.ParsePrefix(text)
			if err != nil {
				t.Fatal(err)
			}
			if p.Addr().Is4() && tags.Overlaps(p) {
				all = append(all, p.Addr().As4())
			}
		}
	}
	return all
}

func TestCarrierHasATagFromItsAdmissionToItsEnd(t *testing.T) {
	var e *exit
	began := make(chan net.Conn, 1)
	e = start(t, func(_ context.Context, a Arrival) ([]byte, func(context.Context, net.Conn)) {
		if all := e.tags(t); len(all) > 0 {
			t.Errorf("there are %v before the carrier is admitted", all)
		}
		if a.Opening[0] == 9 {
			return nil, nil
		}
		return answer(), func(ctx context.Context, c net.Conn) {
			began <- c
			<-ctx.Done()
		}
	})
	d := e.dialer(t)
	stranger, err := d.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := stranger.Attach(t.Context(), bytes.Repeat([]byte{9}, OpeningSize)); err == nil {
		t.Fatal("it was admitted")
	}
	near := attach(t, d).(*datagramConn)
	far := <-began
	if all := e.tags(t); !slices.Equal(all, []tag{near.tag}) {
		t.Errorf("%v may be used, want %v", all, near.tag)
	}
	e.RemovePeer(d.Key.Public())
	if err := e.AddPeer(d.Key.Public()); err != nil {
		t.Fatal(err)
	}
	say(far.(DatagramConn), "late")
	if all := e.tags(t); len(all) > 0 {
		t.Errorf("%v may be used after the device was removed", all)
	}
	_ = near.Close()
	again := attach(t, d).(*datagramConn)
	if all := e.tags(t); !slices.Equal(all, []tag{again.tag}) {
		t.Errorf("%v may be used, want %v", all, again.tag)
	}
	d.link.send(frameOf(toServer, near.tag, "late"))
	say(again, "in time")
	if got := hear(t, (<-began).(DatagramConn)); got != "in time" {
		t.Errorf("%q came", got)
	}
}

// A server that gives two carriers one tag gets one carrier.
func TestTwoCarriersHaveNotOneTag(t *testing.T) {
	key, device := deviceKey(t), deviceKey(t)
	udp, at := listen(t), serverAddress(key.Public())
	e, err := newEngine(newSocket(udp, clientInside), key, at, toServer, defaultMTU, deviceLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.close)
	if err := e.setPeer(device.Public(), []netip.Addr{deviceAddress(key.Public(), device.Public())}, ""); err != nil {
		t.Fatal(err)
	}
	ln, err := gonet.ListenTCP(e.stack, tcpip.FullAddress{NIC: nic, Addr: toStackAddr(at), Port: carrierPort}, header.IPv6ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	t.Cleanup(func() { _ = ln.Close(); serving.Wait() })
	serving.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			_, _ = c.Write(make([]byte, nonceSize))
		}
	})
	d := &Dialer{Endpoint: udp.LocalAddr().String(), ServerKey: key.Public(), Key: device, HandshakeTimeout: patience}
	first, err := d.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Dial(t.Context()); err == nil || !strings.Contains(err.Error(), "nonce") {
		t.Errorf("the second Dial gives %v", err)
	}
	_ = first.Close()
	second, err := d.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_ = second.Close()
}

func TestCarriersOfADeviceHaveTagsOfTheirOwn(t *testing.T) {
	ends := make(chan DatagramConn, 16)
	e := start(t, genuine(func(_ context.Context, c net.Conn) {
		ends <- c.(DatagramConn)
		_, _ = c.Read(make([]byte, 1))
	}))
	d := e.dialer(t)
	var all []tag
	var near []*datagramConn
	for range 3 {
		n, _ := attachDatagrams(t, d, ends)
		near, all = append(near, n), append(all, n.tag)
	}
	order := func(a, b tag) int { return bytes.Compare(a[:], b[:]) }
	if slices.SortFunc(all, order); len(slices.Compact(all)) != 3 {
		t.Fatalf("the tags are %v", all)
	}
	if got := e.tags(t); len(got) != 3 {
		t.Errorf("%v may be used, want %v", got, all)
	}
	gone, stays := near[0], near[1]
	_ = gone.Close()
	eventually(t, "its tag is taken back", func() bool { return len(e.tags(t)) == 2 && e.engine().cable.inboxes.len() == 2 })
	d.link.send(frameOf(toServer, gone.tag, "late"))
	say(stays, "in time")
	eventually(t, "what is late is dropped", func() bool { return e.Dropped().Source == 1 })
}

func TestDatagramsPassAfterTheServerHasStartedAgain(t *testing.T) {
	ends := make(chan DatagramConn, 2)
	admit := genuine(func(ctx context.Context, c net.Conn) {
		ends <- c.(DatagramConn)
		<-ctx.Done()
	})
	e := start(t, admit)
	d := e.dialer(t)
	before, _ := attachDatagrams(t, d, ends)
	e.stop()

	at, err := net.ResolveUDPAddr("udp", e.endpoint)
	if err != nil {
		t.Fatal(err)
	}
	udp, err := net.ListenUDP("udp", at)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- e.Serve(ctx, udp, admit) }()
	t.Cleanup(func() { cancel(); <-served })
	_ = before.Close()
	near, far := attachDatagrams(t, d, ends)
	say(before, "late")
	d.link.send(frameOf(toServer, before.tag, "late, too"))
	say(near, "up")
	say(far, "down")
	if up, down := hear(t, far), hear(t, near); up != "up" || down != "down" {
		t.Errorf("%q and %q came", up, down)
	}
}

func TestGuestsHaveNoPartInDatagrams(t *testing.T) {
	ends := make(chan DatagramConn, 1)
	e := startWith(t, genuine(func(ctx context.Context, c net.Conn) {
		ends <- c.(DatagramConn)
		<-ctx.Done()
	}), ServerConfig{Host: &fakeHost{associate: associateEcho}, Inner: []netip.Prefix{inner4, inner6}})
	near, far := attachDatagrams(t, e.dialer(t), ends)
	p := e.newPhone(t, phone4)
	p.sniff(func(b []byte) {
		if isFrame(b) {
			t.Errorf("% x came to the guest", b)
		}
	})
	c := p.socket(t, phone4, netip.AddrPortFrom(target4, 9))
	own := tag(phone4.As4())
	for _, from := range []tag{near.tag, own} {
		for _, to := range []tag{near.tag, own, {}} {
			for _, d := range directions {
				frame := frameOf(d, near.tag, "forged by a guest")
				copy(frame[toServer:], from[:])
				copy(frame[toDevice:], to[:])
				p.inject(t, frame)
			}
		}
	}
	p.inject(t, ipPacket(header.UDPProtocolNumber, phone4, near.tag.prefix().Addr(), 0, make([]byte, 20), 0, false))
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err != nil { // what came before it has been dealt with
		t.Fatal(err)
	}
	if d := e.Dropped(); d.Source != 6 || d.Destination != 1 {
		t.Errorf("dropped is %+v", d)
	}
	say(far, "down")
	say(near, "up")
	if up, down := hear(t, far), hear(t, near); up != "up" || down != "down" {
		t.Errorf("%q and %q came", up, down)
	}
}

// A device has addresses of IPv4 for its frames, and the server has all of them.
func TestNothingOfIPv4ReachesACarriersStack(t *testing.T) {
	e, ends := datagramExit(t)
	d := e.dialer(t)
	near, far := attachDatagrams(t, d, ends)
	one, other := near.tag.prefix().Addr(), netip.MustParseAddr("192.0.2.1")
	for _, way := range []struct {
		name     string
		from, to *engine
		say      func()
		hear     func() string
		packet   []byte
	}{
		{"server", d.link.engine, e.engine(), func() { say(near, "x") }, func() string { return hear(t, far) },
			tcpPacket(netip.AddrPortFrom(one, 1), netip.AddrPortFrom(other, carrierPort), 1, header.TCPFlagSyn)},
		{"device", e.engine(), d.link.engine, func() { say(far, "x") }, func() string { return hear(t, near) },
			tcpPacket(netip.AddrPortFrom(other, 1), netip.AddrPortFrom(one, carrierPort), 1, header.TCPFlagSyn)},
	} {
		for mark := byte(header.IPv4Version<<4 + 2); mark>>4 == header.IPv4Version; mark++ {
			way.packet[0] = mark
			way.from.send(way.packet)
		}
		if way.say(); way.hear() != "x" {
			t.Error("another datagram came")
		}
		if n := way.to.stack.NICInfo()[nic].Stats.UnknownL3ProtocolRcvdPacketCounts.Keys(); len(n) > 0 {
			t.Errorf("a packet has reached the %s's stack", way.name)
		}
	}
}

func TestNetworksOfGuestsHaveNoTags(t *testing.T) {
	for _, network := range []string{"128.0.0.1/1", "1.0.0.1/0", "240.0.0.1/8"} {
		s := NewServer(ServerConfig{Key: deviceKey(t), Host: &fakeHost{}, Inner: []netip.Prefix{netip.MustParsePrefix(network)}})
		if err := s.Serve(t.Context(), listen(t), genuine(echo)); err == nil || !strings.Contains(err.Error(), network) {
			t.Errorf("Serve gives %v", err)
		}
		guest := Guest{Key: deviceKey(t).Public(), Addresses: []netip.Addr{netip.MustParseAddr("240.0.0.2")}}
		if err := s.SetGuests([]Guest{guest}); err == nil {
			t.Error(fmt.Sprint(guest.Addresses, " is a guest's"))
		}
	}
}
