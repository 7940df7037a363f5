package wglink

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// fuzzedHost knows one guest, and fails when it hears of another.
type fuzzedHost struct {
	fakeHost
}

func (h *fuzzedHost) check(f Flow) {
	if f.Source.Addr() != phone4 && f.Source.Addr() != phone6 || !usable(f.Target.Addr()) || f.Source.Addr().Is4() != f.Target.Addr().Is4() {
		panic(fmt.Sprintf("the host was told of %+v", f))
	}
}

func (h *fuzzedHost) Connect(_ context.Context, c *Call) {
	h.check(c.Flow)
	if c.Target.Port()%2 == 0 {
		c.Refuse(Reason(c.Target.Port() % 6))
		return
	}
	if conn, err := c.Accept(); err == nil {
		_ = conn.Close()
	}
}

func (h *fuzzedHost) Associate(_ context.Context, p *Port) (Association, error) {
	h.check(p.Flow)
	if p.Target.Port()%2 == 0 {
		return nil, Reason(p.Target.Port() % 6)
	}
	return sendFunc(func(payload []byte, to netip.AddrPort) {
		p.Deliver(payload, to)
		p.Lose(Loss{To: to, Reason: TooBig, MTU: len(payload)})
	}), nil
}

func (h *fuzzedHost) Resolve(_ context.Context, q Query) ([]byte, error) {
	h.check(q.Flow)
	return nil, errSilent
}

func (h *fuzzedHost) Echo(_ context.Context, f Flow, _ []byte) error {
	h.check(f)
	return nil
}

// fuzzedCable has a hall with one guest at its end.
func fuzzedCable(f *testing.F) *cable {
	key := deviceKey(f)
	c := newCable(defaultMTU, newCounter(), clientInside)
	devices, err := newStack(c, serverAddress(key.Public()))
	if err != nil {
		f.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	h, err := newHall(ctx, &engine{cable: c}, &ServerConfig{Key: key, Host: &fuzzedHost{}, Inner: []netip.Prefix{inner4, inner6}}, &drops{})
	if err != nil {
		f.Fatal(err)
	}
	h.welcome(&peer{key: deviceKey(f).Public(), addresses: []netip.Addr{phone4, phone6}})
	var draining sync.WaitGroup
	draining.Go(func() {
		bufs, sizes := [][]byte{make([]byte, 1<<16)}, make([]int, 1)
		for {
			n, err := c.Read(bufs, sizes, 0)
			if err != nil {
				return
			}
			c.out.out.add(n)
		}
	})
	f.Cleanup(func() {
		cancel()
		h.end()
		c.shut()
		draining.Wait()
		h.stack.Destroy()
		devices.Destroy()
	})
	return c
}

func FuzzGuestPackets(f *testing.F) {
	from4, from6 := netip.AddrPortFrom(phone4, 1000), netip.AddrPortFrom(phone6, 1000)
	to4, to6 := netip.AddrPortFrom(target4, 81), netip.AddrPortFrom(target6, 81)
	for _, b := range [][]byte{
		tcpPacket(from4, to4, 7, synFlag), tcpPacket(from6, to6, 7, synFlag), tcpPacket(from4, to4, 8, rstFlag),
		tcpPacket(netip.AddrPortFrom(other4, 1), to4, 7, synFlag), {}, {0x45}, {0x60},
	} {
		f.Add(b, b, true)
	}
	for _, long := range [][][]byte{
		ipPackets(minMTU, header.UDPProtocolNumber, phone4, target4, 1, udpMessage(from4, to4, randomBytes(2000))),
		ipPackets(minMTU, header.UDPProtocolNumber, phone6, target6, 1, udpMessage(from6, to6, randomBytes(2000))),
		ping(phone4, target4, randomBytes(2000)), ping(phone6, inner6.Addr(), randomBytes(2000)),
	} {
		f.Add(long[0], long[1], true)
		f.Add(long[1], long[1], false)
	}
	c := fuzzedCable(f)
	f.Fuzz(func(t *testing.T, a, b []byte, mend bool) {
		var bufs [][]byte
		for _, p := range [][]byte{a, b} {
			p = append([]byte(nil), p[:min(len(p), 2000)]...)
			if mend {
				mended(p)
			}
			bufs = append(bufs, p)
		}
		if _, err := c.Write(bufs, 0); err != nil {
			t.Fatal(err)
		}
	})
}

// mended makes a packet the guest's own, and its lengths and checksums right, as
// far as it has any.
func mended(b []byte) {
	source, target, ok := addresses(b)
	if !ok {
		return
	}
	at, protocol := header.IPv6MinimumSize, b[6]
	if source.Is4() {
		ip := header.IPv4(b)
		at, protocol = int(ip.HeaderLength()), ip.Protocol()
		ip.SetTotalLength(uint16(len(b)))
		ip.SetSourceAddress(toStackAddr(phone4))
		if at < header.IPv4MinimumSize || at > len(b) {
			return
		}
		ip.SetChecksum(0)
		ip.SetChecksum(^ip.CalculateChecksum())
		source = phone4
	} else {
		header.IPv6(b).SetPayloadLength(uint16(len(b) - at))
		header.IPv6(b).SetSourceAddress(toStackAddr(phone6))
		source = phone6
	}
	place := map[uint8]int{6: 16, 17: 6, 1: 2, 58: 2}[protocol]
	message := b[at:]
	if place == 0 || len(message) < place+2 {
		return
	}
	binary.BigEndian.PutUint16(message[place:], 0)
	sum := sumOf(protocol, source, target, message)
	binary.BigEndian.PutUint16(message[place:], sum)
}
