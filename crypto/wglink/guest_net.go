package wglink

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

// guestEnd is the cable's end at the guests' stack.
type guestEnd struct {
	stackEnd
	filter func(packet []byte) verdict
}

func (e guestEnd) Attach(d stack.NetworkDispatcher) {
	e.attached.Lock()
	defer e.attached.Unlock()
	e.cable.guests, e.cable.filter = d, e.filter
}

func (e guestEnd) IsAttached() bool {
	e.attached.RLock()
	defer e.attached.RUnlock()
	return e.cable.guests != nil
}

// openStack makes the guests' stack. It has every address there is, puts
// fragments together, and keeps TCP. Its own UDP and ICMP are never used.
func (h *hall) openStack() error {
	h.stack = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocolCUBIC, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
	})
	if err := h.setUpStack(); err != nil {
		h.stack.Destroy()
		return fmt.Errorf("set up tcp/ip stack for guests: %w", err)
	}
	h.calls = tcp.NewForwarder(h.stack, guestBuffer, maxCallsInAll, h.arrive)
	h.stack.SetTransportProtocolHandler(tcp.ProtocolNumber, h.segment)
	h.stack.SetTransportProtocolHandler(udp.ProtocolNumber, h.datagram)
	h.stack.SetTransportProtocolHandler(icmp.ProtocolNumber4, h.echo4)
	h.stack.SetTransportProtocolHandler(icmp.ProtocolNumber6, h.echo6)
	return nil
}

func (h *hall) setUpStack() error {
	if err := tuneTCP(h.stack, guestBuffer, maxGuestBuffer); err != nil {
		return err
	}
	if err := h.stack.CreateNIC(nic, guestEnd{stackEnd{h.cable}, h.judge}); err != nil {
		return stackError(err)
	}
	if err := h.stack.SetPromiscuousMode(nic, true); err != nil {
		return stackError(err)
	}
	if err := h.stack.SetSpoofing(nic, true); err != nil {
		return stackError(err)
	}
	h.stack.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: nic}, {Destination: header.IPv6EmptySubnet, NIC: nic}})
	return nil
}

// judge says where a packet goes. WireGuard has seen to it that its source is
// one of the sender's.
func (h *hall) judge(b []byte) verdict {
	source, target, ok := addresses(b)
	switch {
	case !ok:
		return dropped
	case h.carriers.Contains(source):
		return toStack // a device's
	case h.visitor(source) == nil:
		return dropped // it has just been removed
	case !usable(target):
		h.drops.destination.Add(1)
		return dropped
	case h.isOwn(target):
		return toGuests
	case h.isInside(target), target.IsLinkLocalUnicast():
		h.drops.destination.Add(1)
		h.prohibit(b)
		return dropped
	}
	return toGuests
}

// isInside tells whether an address belongs to guests or devices.
func (h *hall) isInside(a netip.Addr) bool {
	return h.carriers.Contains(a) || h.visitor(a) != nil ||
		slices.ContainsFunc(h.inner, func(p netip.Prefix) bool { return p.Contains(a) })
}

// addresses reads those of an IP packet.
func addresses(b []byte) (source, target netip.Addr, ok bool) {
	switch {
	case len(b) >= header.IPv4MinimumSize && b[0]>>4 == header.IPv4Version:
		return netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:])), true
	case len(b) >= header.IPv6MinimumSize && b[0]>>4 == header.IPv6Version:
		return netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:])), true
	}
	return source, target, false
}

// fromStack and toStackAddr change addresses between ours and the stack's.
func fromStack(a tcpip.Address, port uint16) netip.AddrPort {
	ip, _ := netip.AddrFromSlice(a.AsSlice()) // it has 4 or 16 bytes
	return netip.AddrPortFrom(ip, port)
}

func toStackAddr(a netip.Addr) tcpip.Address { return tcpip.AddrFromSlice(a.AsSlice()) }

// ipPackets makes packets of a message, more than one if it is longer than mtu.
func ipPackets(mtu int, protocol tcpip.TransportProtocolNumber, source, target netip.Addr, id uint32, message []byte) [][]byte {
	head := header.IPv4MinimumSize
	if source.Is6() {
		head = header.IPv6MinimumSize
	}
	if head+len(message) <= mtu {
		return [][]byte{ipPacket(protocol, source, target, id, message, 0, false)}
	}
	if source.Is6() {
		head += header.IPv6FragmentHeaderSize
	}
	var all [][]byte
	step := (mtu - head) &^ 7
	for at := 0; at < len(message); at += step {
		end := min(at+step, len(message))
		all = append(all, ipPacket(protocol, source, target, id, message[at:end], at, end < len(message)))
	}
	return all
}

// ipPacket makes one packet. at and more say which part of a message it has.
func ipPacket(protocol tcpip.TransportProtocolNumber, source, target netip.Addr, id uint32, part []byte, at int, more bool) []byte {
	if source.Is4() {
		b := make([]byte, header.IPv4MinimumSize, header.IPv4MinimumSize+len(part))
		flags := uint8(0)
		if more {
			flags = header.IPv4FlagMoreFragments
		}
		ip := header.IPv4(b)
		ip.Encode(&header.IPv4Fields{
			TotalLength: uint16(len(b) + len(part)), ID: uint16(id), Flags: flags, FragmentOffset: uint16(at),
			TTL: hops, Protocol: uint8(protocol), SrcAddr: toStackAddr(source), DstAddr: toStackAddr(target),
		})
		ip.SetChecksum(^ip.CalculateChecksum())
		return append(b, part...)
	}
	size := header.IPv6MinimumSize
	if at > 0 || more {
		size += header.IPv6FragmentHeaderSize
	}
	b := make([]byte, size, size+len(part))
	next := protocol
	if size > header.IPv6MinimumSize {
		next = header.IPv6FragmentHeader
		f := b[header.IPv6MinimumSize:]
		f[0] = uint8(protocol)
		place := uint16(at) // in bytes, which are multiples of eight
		if more {
			place |= 1
		}
		binary.BigEndian.PutUint16(f[2:], place)
		binary.BigEndian.PutUint32(f[4:], id)
	}
	header.IPv6(b).Encode(&header.IPv6Fields{
		PayloadLength: uint16(size - header.IPv6MinimumSize + len(part)), TransportProtocol: next, HopLimit: hops,
		SrcAddr: toStackAddr(source), DstAddr: toStackAddr(target),
	})
	return append(b, part...)
}
