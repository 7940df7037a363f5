package wglink

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

func udpAddr(a netip.AddrPort) net.Addr { return net.UDPAddrFromAddrPort(a) }

func readFull(c net.Conn, b []byte) error {
	_, err := io.ReadFull(c, b)
	return err
}

// ping makes an echo request, in as many packets as it needs.
func ping(from, to netip.Addr, payload []byte) [][]byte {
	m := append([]byte{byte(header.ICMPv4Echo), 0, 0, 0, 0x12, 0x34, 0, 7}, payload...)
	if from.Is6() {
		m[0] = byte(header.ICMPv6EchoRequest)
	}
	return ipPackets(defaultMTU, icmpOf(from), from, to, 9, sumUp(from, to, m))
}

// pings gives what ICMP the phone gets, put together.
func (p *phone) pings() <-chan []byte {
	messages := make(chan []byte, 100)
	var parts []byte
	p.sniff(func(b []byte) {
		switch {
		case b[0]>>4 == 4 && b[9] == 1:
			parts = append(parts, b[header.IPv4MinimumSize:]...)
			if header.IPv4(b).More() {
				return
			}
		case b[0]>>4 == 6 && b[6] == 58:
			parts = append(parts, b[header.IPv6MinimumSize:]...)
		case b[0]>>4 == 6 && b[6] == 44 && b[40] == 58:
			parts = append(parts, b[header.IPv6MinimumSize+header.IPv6FragmentHeaderSize:]...)
			if b[43]&1 != 0 {
				return
			}
		default:
			return
		}
		messages <- parts
		parts = nil
	})
	return messages
}

func TestEchoIsAnsweredForTargetsThatAnswer(t *testing.T) {
	var sent atomic.Value // []byte
	h := &fakeHost{echo: func(_ context.Context, f Flow, payload []byte) error {
		if f.Target.Addr() != target4 && f.Target.Addr() != target6 {
			return HostUnreachable
		}
		if want := sent.Load().([]byte); !bytes.Equal(payload, want) {
			t.Errorf("the host got %d bytes, want %d", len(payload), len(want))
		}
		return nil
	}}
	p := startHost(t, h).newPhone(t, phone4, phone6)
	answers := p.pings()
	for _, to := range []netip.Addr{target4, target6, inner4.Addr(), inner6.Addr()} {
		from := phone4
		if to.Is6() {
			from = phone6
		}
		for _, n := range []int{0, 56, 4000, 20_000} {
			want := randomBytes(n)
			sent.Store(want)
			for _, b := range ping(from, to, want) {
				p.inject(t, b)
			}
			var got []byte
			select {
			case got = <-answers:
			case <-time.After(patience):
				t.Fatalf("no answer to %d bytes to %v", n, to)
			}
			initial := uint16(0)
			if to.Is6() {
				initial = header.PseudoHeaderChecksum(header.ICMPv6ProtocolNumber, toStackAddr(to), toStackAddr(from), uint16(len(got)))
			}
			if reply := map[bool]byte{true: 0, false: 129}[to.Is4()]; got[0] != reply || got[4] != 0x12 || got[7] != 7 || !bytes.Equal(got[8:], want) {
				t.Errorf("the answer to %d bytes to %v is wrong: %x", n, to, got[:8])
			}
			if checksum.Checksum(got, initial) != 0xffff {
				t.Error("the checksum is wrong")
			}
		}
	}
	p.inject(t, ping(phone4, netip.MustParseAddr("192.0.2.99"), nil)[0])
	if got := <-answers; got[0] != 3 || got[1] != 1 {
		t.Errorf("who is not there gives %x", got)
	}
	broken := ping(phone4, target4, []byte("x"))[0]
	broken[len(broken)-1]++
	before := len(h.seen())
	p.inject(t, broken)
	p.inject(t, ping(phone4, inner4.Addr(), nil)[0])
	if <-answers; len(h.seen()) != before {
		t.Error("a garbled request came to the host")
	}
}

// What a guest may say, and to whom.
func TestGuestsReachNobodyInside(t *testing.T) {
	h := &fakeHost{connect: echoTCP, associate: associateEcho, echo: func(context.Context, Flow, []byte) error { return nil }}
	e := startHost(t, h)
	p := e.newPhone(t, phone4, phone6)
	e.newPhone(t, other4, other6)
	answers := p.pings()
	carrier := serverAddress(e.key.Public())
	for _, to := range []netip.Addr{other4, other6, inner4.Addr().Next().Next().Next().Next(), phone4, carrier, carrier.Next(), deviceAddress(e.key.Public(), e.dialer(t).Key.Public())} {
		from := phone4
		if to.Is6() {
			from = phone6
		}
		at := netip.AddrPortFrom(to, carrierPort)
		for what, b := range map[string][]byte{
			"tcp": tcpPacket(netip.AddrPortFrom(from, 1000), at, 7, synFlag),
			"udp": ipPackets(defaultMTU, header.UDPProtocolNumber, from, to, 1, udpMessage(netip.AddrPortFrom(from, 1000), at, []byte("x")))[0],
		} {
			p.inject(t, b)
			want := [2]byte{3, 13}
			if to.Is6() {
				want = [2]byte{1, 1}
			}
			select {
			case got := <-answers:
				if [2]byte(got) != want || !bytes.HasPrefix(b, got[echoHeader:]) {
					t.Errorf("%s to %v gives %x", what, to, got)
				}
			case <-time.After(patience):
				t.Errorf("%s to %v gives nothing", what, to)
			}
		}
		before := e.Dropped().Destination
		p.inject(t, ping(from, to, nil)[0])
		eventually(t, "an echo request is dropped", func() bool { return e.Dropped().Destination == before+1 })
	}
	for _, text := range []string{
		"224.0.0.1", "239.1.2.3", "255.255.255.255", "240.0.0.1", "0.0.0.0", "0.1.2.3", "127.0.0.1", "127.1.2.3", "169.254.169.254",
		"::", "::1", "ff02::1", "ff0e::1", "fe80::1", "::ffff:192.0.2.7", "::ffff:127.0.0.1",
	} {
		to, from := netip.MustParseAddr(text), phone4
		if to.Is6() {
			from = phone6
		}
		at, before := netip.AddrPortFrom(to, 80), e.Dropped().Destination
		p.inject(t, tcpPacket(netip.AddrPortFrom(from, 1000), at, 7, synFlag))
		p.inject(t, ipPackets(defaultMTU, header.UDPProtocolNumber, from, to, 1, udpMessage(netip.AddrPortFrom(from, 1000), at, []byte("x")))[0])
		p.inject(t, ping(from, to, nil)[0])
		eventually(t, text+" is dropped", func() bool { return e.Dropped().Destination == before+3 })
	}
	if len(h.seen()) > 0 {
		t.Errorf("the host saw %v", h.seen())
	}
}

func TestGuestSpeaksForItselfOnly(t *testing.T) {
	h := &fakeHost{connect: echoTCP, associate: associateEcho, echo: func(context.Context, Flow, []byte) error { return nil }}
	e := startHost(t, h)
	p := e.newPhone(t, phone4, phone6)
	e.newPhone(t, other4, other6)
	device := deviceAddress(e.key.Public(), e.dialer(t).Key.Public())
	all := []netip.Addr{other4, other6, inner4.Addr(), inner6.Addr(), device, serverAddress(e.key.Public()), target4, target6, phone4.Next().Next().Next()}
	for _, text := range []string{"127.0.0.1", "224.0.0.1", "255.255.255.255", "0.0.0.0", "::1", "::", "ff02::1", "fe80::1", "::ffff:10.66.0.2", "::ffff:10.66.0.3"} {
		all = append(all, netip.MustParseAddr(text))
	}
	for _, from := range all {
		to := target4
		if from.Is6() {
			to = target6
		}
		at, before := netip.AddrPortFrom(to, 80), e.Dropped().Source
		p.inject(t, tcpPacket(netip.AddrPortFrom(from, 1000), at, 7, synFlag))
		p.inject(t, ipPackets(defaultMTU, header.UDPProtocolNumber, from, to, 1, udpMessage(netip.AddrPortFrom(from, 1000), at, []byte("x")))[0])
		p.inject(t, ping(from, to, nil)[0])
		eventually(t, from.String()+" is dropped", func() bool { return e.Dropped().Source == before+3 })
	}
	if len(h.seen()) > 0 {
		t.Errorf("the host saw %v", h.seen())
	}
	roundTrip(t, p.mustDial(t, netip.AddrPortFrom(target4, 80)), 100)
}

// sumOf is the checksum of a message that has none.
func sumOf(protocol uint8, source, target netip.Addr, message []byte) uint16 {
	initial := uint16(0)
	if protocol != uint8(header.ICMPv4ProtocolNumber) {
		initial = header.PseudoHeaderChecksum(tcpip.TransportProtocolNumber(protocol), toStackAddr(source), toStackAddr(target), uint16(len(message)))
	}
	return ^checksum.Checksum(message, initial)
}
