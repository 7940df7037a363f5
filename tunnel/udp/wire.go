package udp

import (
	"encoding/binary"
	"net/netip"

	"github.com/adit-net/adit/tunnel"
	"github.com/adit-net/adit/tunnel/socks"
)

// What a datagram of flow 0 is, by its next octet.
const (
	kindNamed = 1 // association, label, address, payload
	kindKnown = 2 // label
	kindLost  = 3 // association, code, MTU, address, reporter
)

// Address types of SOCKS 5 (RFC 1928 section 5).
const (
	typeNone = 0 // of a reporter who is not known
	typeIPv4 = 1
	typeName = 3
	typeIPv6 = 4
)

// maxNumber is the highest number that stands for a peer. It takes two bytes.
const maxNumber = 1<<14 - 1

// label is a number that stands for a peer, and above it how often the number has
// stood for another before. Zero is none.
type label uint32

func makeLabel(number int, uses uint16) label { return label(uses)<<14 | label(number) }

func (l label) number() int  { return int(l & maxNumber) }
func (l label) uses() uint16 { return uint16(l >> 14) }

// after tells whether l was given to a peer after m, which has the same number.
func (l label) after(m label) bool { return int16(l.uses()-m.uses()) > 0 }

// appendNamed appends what goes before the payload of a datagram whose peer is
// named by its address.
func appendNamed(b []byte, association uint32, l label, a socks.Addr) []byte {
	b = append(b, 0, kindNamed)
	b = tunnel.AppendFlow(b, association)
	b = tunnel.AppendFlow(b, uint32(l))
	return appendAddr(b, a)
}

func appendKnown(b []byte, l label) []byte {
	return tunnel.AppendFlow(append(b, 0, kindKnown), uint32(l))
}

func appendLost(b []byte, association uint32, l socks.Loss) []byte {
	b = tunnel.AppendFlow(append(b, 0, kindLost), association)
	b = append(b, byte(l.Code))
	b = binary.BigEndian.AppendUint16(b, uint16(min(max(l.MTU, 0), 1<<16-1)))
	b = appendAddr(b, socks.Addr{IP: l.To.Addr().Unmap(), Port: l.To.Port()})
	return appendIP(b, l.Reporter.Unmap())
}

// appendAddr appends an address as SOCKS 5 has it.
func appendAddr(b []byte, a socks.Addr) []byte {
	if a.IP.IsValid() {
		b = appendIP(b, a.IP)
	} else {
		b = append(b, typeName, byte(len(a.Name)))
		b = append(b, a.Name...)
	}
	return binary.BigEndian.AppendUint16(b, a.Port)
}

func appendIP(b []byte, ip netip.Addr) []byte {
	switch {
	case ip.Is4():
		v4 := ip.As4()
		return append(append(b, typeIPv4), v4[:]...)
	case ip.IsValid():
		v6 := ip.As16()
		return append(append(b, typeIPv6), v6[:]...)
	}
	return append(b, typeNone)
}

// parser takes a datagram apart. What does not have the form sets bad.
type parser struct {
	rest []byte
	bad  bool
}

// take gives the next n bytes; zeros if there are not so many.
func (p *parser) take(n int) []byte {
	if p.bad || len(p.rest) < n {
		p.bad = true
		return make([]byte, n)
	}
	b := p.rest[:n]
	p.rest = p.rest[n:]
	return b
}

func (p *parser) octet() byte    { return p.take(1)[0] }
func (p *parser) uint16() uint16 { return binary.BigEndian.Uint16(p.take(2)) }

// flow takes a variable-length integer.
func (p *parser) flow() uint32 {
	v, n := tunnel.TakeFlow(p.rest)
	if n == 0 {
		p.bad = true
	}
	p.take(n)
	return v
}

// addr takes an address. A name that no honest end sends gives no address at all.
func (p *parser) addr() socks.Addr {
	kind := p.octet()
	if kind == typeName {
		host := p.take(int(p.octet()))
		a, _ := socks.NewAddr(string(host), p.uint16())
		return a
	}
	ip := p.ip(kind)
	p.bad = p.bad || !ip.IsValid()
	return socks.Addr{IP: ip, Port: p.uint16()}
}

func (p *parser) ip(kind byte) (ip netip.Addr) {
	switch kind {
	case typeNone:
	case typeIPv4:
		ip = netip.AddrFrom4([4]byte(p.take(4)))
	case typeIPv6:
		ip = netip.AddrFrom16([16]byte(p.take(16))).Unmap()
	default:
		p.bad = true
	}
	return ip
}

// loss takes what is behind an association's id.
func (p *parser) loss() (l socks.Loss) {
	l.Code, l.MTU = socks.Code(p.octet()), int(p.uint16())
	to := p.addr()
	l.To = netip.AddrPortFrom(to.IP, to.Port)
	l.Reporter = p.ip(p.octet())
	return l
}
