package socks

import (
	"encoding/binary"
	"errors"
	"math"
	"net/netip"
)

// enhancedUDP5 is the command that makes a connection of SOCKS 5 one in enhanced UDP
// mode (draft-ietf-aft-mcast-fw-traversal).
const enhancedUDP5 Command = 4

// Types of the packets on a connection in enhanced UDP mode, and their shortest sizes.
const (
	controlRequest = 1
	controlReply   = 2
	enclosedData   = 3

	headEnhanced = 3 // type and size
	headControl  = 13
	headEnclosed = 7
	headUDPPlus  = 8 // of a packet over UDP

	// controlBytes is the longest request that has a meaning: what follows two names is
	// for nobody.
	controlBytes = headControl + 2*(1+1+maxName+2)

	// maxEnclosed is how much a packet on the connection carries.
	maxEnclosed = math.MaxUint16 - headEnclosed
)

// Commands of a [control] request.
const (
	udpBind    = 5
	udpRelease = 6
	udpSetTTL  = 7
)

// udpFlags say what an association of enhanced UDP mode is for.
type udpFlags uint16

const (
	udpReceive   udpFlags = 0x01
	udpSend      udpFlags = 0x02
	udpUnicast   udpFlags = 0x04 // each datagram is a packet over UDP
	udpEnclosed  udpFlags = 0x08 // each is a packet on the connection
	udpMulticast udpFlags = 0x10

	udpDirections = udpReceive | udpSend
	udpTransports = udpUnicast | udpEnclosed
)

// Codes that only enhanced UDP mode has.
const (
	badAssociation     Code = 0x10
	noMulticastReceive Code = 0x11
	noMulticastSend    Code = 0x12
	badContext         Code = 0x13
)

var (
	errFraming = errors.New("a packet is shorter than its type has to be")
	errMissing = errors.New("an address is missing")
)

// control is a request to change associations, or the reply.
type control struct {
	command     byte // the code in a reply
	flags       udpFlags
	transaction uint16
	association uint32
	local       Addr // on the app's side
	remote      Addr // on the far side
}

// parseControl reads a request. Addresses that are left out, as they are where none is
// needed, are the zero Addr; err is about them alone, and everything else is there.
func parseControl(b []byte) (c control, err error) {
	c.command = b[3]
	c.flags = udpFlags(binary.BigEndian.Uint16(b[4:]))
	c.transaction = binary.BigEndian.Uint16(b[7:])
	c.association = binary.BigEndian.Uint32(b[9:])
	rest := b[headControl:]
	if c.local, rest, err = cutAddrPlus(rest); err == nil {
		c.remote, _, err = cutAddrPlus(rest)
	}
	return c, err
}

// cutAddrPlus is cutAddr5 with one more type, which is 0 and has no address.
func cutAddrPlus(b []byte) (a Addr, rest []byte, err error) {
	switch {
	case len(b) == 0:
		return Addr{}, nil, errMissing
	case b[0] == 0 && len(b) >= 3:
		return Addr{}, b[3:], nil
	}
	return cutAddr5(b[0], b[1:])
}

// appendReply appends a reply, whose addresses are IP addresses.
func (c control) appendReply(b []byte) []byte {
	start := len(b)
	b = append(b, controlReply, 0, 0, c.command)
	b = binary.BigEndian.AppendUint16(b, uint16(c.flags))
	b = binary.BigEndian.AppendUint16(append(b, 0), c.transaction)
	b = binary.BigEndian.AppendUint32(b, c.association)
	b = appendAddr5(b, netip.AddrPortFrom(c.local.IP, c.local.Port))
	b = appendAddr5(b, netip.AddrPortFrom(c.remote.IP, c.remote.Port))
	binary.BigEndian.PutUint16(b[start+1:], uint16(len(b)-start))
	return b
}

// appendEnclosed appends a datagram of up to maxEnclosed bytes as a packet for the
// connection.
func appendEnclosed(b []byte, association uint32, payload []byte) []byte {
	b = binary.BigEndian.AppendUint16(append(b, enclosedData), uint16(headEnclosed+len(payload)))
	b = binary.BigEndian.AppendUint32(b, association)
	return append(b, payload...)
}

// appendUDPPlus appends a datagram as a packet over UDP.
func appendUDPPlus(b []byte, association uint32, payload []byte) []byte {
	b = binary.BigEndian.AppendUint32(append(b, 0, 0, 0, 0), association)
	return append(b, payload...)
}

// udpPlus is a packet over UDP in enhanced UDP mode.
type udpPlus struct {
	frag        byte
	datagram    uint16 // which one it is a fragment of
	association uint32
	payload     []byte // aliases the packet
}

// parseUDPPlus reads a packet over UDP.
func parseUDPPlus(packet []byte) (p udpPlus, ok bool) {
	if len(packet) < headUDPPlus || packet[1] == lastFragment {
		return udpPlus{}, false
	}
	return udpPlus{
		frag:        packet[1],
		datagram:    binary.BigEndian.Uint16(packet[2:]),
		association: binary.BigEndian.Uint32(packet[4:]),
		payload:     packet[headUDPPlus:],
	}, true
}

// enhanced is the code in a reply of enhanced UDP mode.
func (c Code) enhanced() byte {
	if badAssociation <= c && c <= badContext {
		return byte(c)
	}
	return c.socks5()
}
