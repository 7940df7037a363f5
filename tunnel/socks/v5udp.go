package socks

import (
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"time"
)

const (
	headUDP5 = 4 // before the address

	// maxHeadUDP5 is the longest header towards an app, which has no name in it.
	maxHeadUDP5 = headUDP5 + 16 + 2
)

var errFragment5 = errors.New("fragment has no position")

// cutUDP5 splits the header of a SOCKS 5 datagram (RFC 1928 section 7) from the
// payload, which aliases the packet. A frag of 0 is a whole datagram.
func cutUDP5(packet []byte) (frag byte, d Datagram, err error) {
	if len(packet) < headUDP5+1 {
		return 0, Datagram{}, io.ErrUnexpectedEOF
	}
	frag, kind := packet[2], packet[3]
	if frag == lastFragment {
		return 0, Datagram{}, errFragment5
	}
	d.Addr, d.Payload, err = cutAddr5(kind, packet[headUDP5:])
	return frag, d, err
}

// cutAddr5 splits an address of a type, and its port, from what is behind it. IPv4
// has one spelling only.
func cutAddr5(kind byte, b []byte) (a Addr, rest []byte, err error) {
	start, end := 0, 0
	switch kind {
	case typeIPv4in5:
		end = 4
	case typeIPv6in5:
		end = 16
	case typeNameIn5:
		if len(b) == 0 {
			return Addr{}, nil, io.ErrUnexpectedEOF
		}
		start, end = 1, 1+int(b[0])
	default:
		return Addr{}, nil, AddressNotSupported
	}
	if len(b) < end+2 {
		return Addr{}, nil, io.ErrUnexpectedEOF
	}
	host, port, rest := b[start:end], binary.BigEndian.Uint16(b[end:]), b[end+2:]
	if ip, ok := netip.AddrFromSlice(host); ok && kind != typeNameIn5 {
		return Addr{IP: ip.Unmap(), Port: port}, rest, nil
	}
	a, err = NewAddr(string(host), port)
	a.IP = a.IP.Unmap()
	return a, rest, err
}

// appendUDP5 appends the header of a datagram that comes from an IP address.
func appendUDP5(b []byte, from netip.AddrPort) []byte {
	return appendAddr5(append(b, 0, 0, 0), from)
}

// appendAddr5 appends an IP address behind its type, and its port. One that is not
// valid is 0.0.0.0:0.
func appendAddr5(b []byte, a netip.AddrPort) []byte {
	ip, port, kind := a.Addr().Unmap(), a.Port(), byte(typeIPv4in5)
	switch {
	case !ip.IsValid():
		ip, port = netip.IPv4Unspecified(), 0
	case ip.Is6():
		kind = typeIPv6in5
	}
	b = append(b, kind)
	b = append(b, ip.AsSlice()...)
	return binary.BigEndian.AppendUint16(b, port)
}

// udp5 is an association of SOCKS 5.
type udp5 struct {
	socket    *udpSocket
	fragments reassembly
}

func (u *udp5) unpack(batch []Datagram, now time.Time, from netip.AddrPort, packet []byte) []Datagram {
	frag, d, err := cutUDP5(packet)
	if err != nil || !u.socket.admit(from) {
		return batch
	}
	if d, ok := u.fragments.add(now, frag, d); ok {
		batch = append(batch, d)
	}
	return batch
}

func (u *udp5) forget(now time.Time) time.Time { return u.fragments.forget(now) }
func (u *udp5) drop()                          { u.fragments.drop() }

// Deliver gives the app what has come for it.
func (u *udp5) Deliver(batch []Datagram) {
	out := u.socket.compose()
	if out == nil {
		return
	}
	defer out.send()
	for _, d := range batch {
		room := out.room(maxHeadUDP5 + len(d.Payload))
		if room == nil || !d.Addr.IP.IsValid() {
			continue // SOCKS 5 has no form for it
		}
		room = appendUDP5(room, netip.AddrPortFrom(d.Addr.IP, d.Addr.Port))
		out.add(append(room, d.Payload...))
	}
}

// Lost tells nobody: a SOCKS 5 app hears of no loss.
func (u *udp5) Lost(Loss) {}
