package socks

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
)

const headUDP6 = 12

// UDPMessage6 is what client and server send each other after a SOCKS 6 UDP
// ASSOCIATE, on its TCP connection or in UDP packets. The zero Addr makes a
// datagram without payload the one with which a client asks for its
// confirmation.
type UDPMessage6 struct {
	Type        UDPType6
	Association uint64
	Addr        Addr       // datagram: who it is for, or who it is from; error: whom the lost one was for
	Payload     []byte     // datagram
	Cause       UDPCause6  // error
	Reporter    netip.Addr // error: who sent the ICMP message
}

// UDPType6 is the type of a [UDPMessage6].
type UDPType6 byte

// The types. Clients send datagrams only.
const (
	UDPInit6     UDPType6 = 1 // tells the association's id; the first message, always on TCP
	UDPConfirm6  UDPType6 = 2 // the client's first datagram has come; always on TCP
	UDPDatagram6 UDPType6 = 3
	UDPError6    UDPType6 = 4 // sent only to who has asked with [StackUDPErrors6]
)

// UDPCause6 says why a datagram was lost.
type UDPCause6 byte

// The causes.
const (
	UDPNetworkUnreachable6 UDPCause6 = 1
	UDPHostUnreachable6    UDPCause6 = 2
	UDPTTLExpired6         UDPCause6 = 3
	UDPTooBig6             UDPCause6 = 4 // IPv6 only
)

var errShortUDP6 = errors.New("message does not have the size of what is in it")

// AppendBinary appends the message's bytes to b. A message that SOCKS 6 cannot
// carry, such as one above 65535 bytes, is an error.
func (m UDPMessage6) AppendBinary(b []byte) ([]byte, error) {
	b, err := m.append(b)
	if err != nil {
		return nil, fmt.Errorf("encode SOCKS 6 UDP message: %w", err)
	}
	return b, nil
}

func (m UDPMessage6) append(b []byte) ([]byte, error) {
	start := len(b)
	b = append(b, version6, byte(m.Type), 0, 0)
	b = binary.BigEndian.AppendUint64(b, m.Association)
	var err error
	switch m.Type {
	case UDPInit6, UDPConfirm6:
	case UDPDatagram6:
		b, err = m.appendDatagram(b)
	case UDPError6:
		b, err = m.appendError(b)
	default:
		err = fmt.Errorf("type %d is not known", m.Type)
	}
	if err != nil {
		return nil, err
	}
	size := len(b) - start
	if size > math.MaxUint16 {
		return nil, fmt.Errorf("message has %d bytes", size)
	}
	binary.BigEndian.PutUint16(b[start+2:], uint16(size))
	return b, nil
}

func (m UDPMessage6) appendDatagram(b []byte) ([]byte, error) {
	a := m.Addr
	if len(m.Payload) == 0 {
		a = orAny6(a)
	}
	a, err := checkAddr6(a)
	if err != nil {
		return nil, err
	}
	b = appendUDPAddr6(b, a)
	return append(b, m.Payload...), nil
}

func (m UDPMessage6) appendError(b []byte) ([]byte, error) {
	a, err := checkAddr6(m.Addr)
	if err != nil {
		return nil, err
	}
	if err := m.checkError(a); err != nil {
		return nil, err
	}
	b = appendUDPAddr6(b, a)
	reporter := Addr{IP: m.Reporter}
	b = append(b, addrType6(reporter), byte(m.Cause), 0, 0)
	return appendHost6(b, reporter), nil
}

func (m UDPMessage6) checkError(a Addr) error {
	switch {
	case !a.IP.IsValid():
		return errors.New("destination of the lost datagram is not an IP address")
	case !m.Reporter.IsValid() || m.Reporter.Zone() != "":
		return errors.New("reporter is not an IP address")
	case m.Cause < UDPNetworkUnreachable6 || m.Cause > UDPTooBig6:
		return fmt.Errorf("cause %d is not known", m.Cause)
	}
	return nil
}

// appendUDPAddr6 appends the address that a datagram's payload follows.
func appendUDPAddr6(b []byte, a Addr) []byte {
	b = append(b, addrType6(a), 0)
	b = binary.BigEndian.AppendUint16(b, a.Port)
	return appendHost6(b, a)
}

// ParseUDPMessage6 reads the message in a UDP packet. What is behind the message is
// padding. The payload aliases the packet.
func ParseUDPMessage6(packet []byte) (UDPMessage6, error) {
	m, err := parseUDP6(packet)
	if err != nil {
		return UDPMessage6{}, fmt.Errorf("parse SOCKS 6 UDP message: %w", err)
	}
	return m, nil
}

// ReadUDPMessage6 reads one message and not a byte more from an association's TCP
// connection. A message that is longer than buf, which 65535 bytes rule out, is an
// io.ErrShortBuffer; the other errors are those of [ReadRequest6]. The payload
// aliases buf.
func ReadUDPMessage6(r io.Reader, buf []byte) (UDPMessage6, error) {
	var m UDPMessage6
	b, err := readUDP6(r, buf)
	if err == nil {
		m, err = parseUDP6(b)
	}
	if err != nil {
		return UDPMessage6{}, fmt.Errorf("read SOCKS 6 UDP message: %w", err)
	}
	return m, nil
}

func readUDP6(r io.Reader, buf []byte) ([]byte, error) {
	if len(buf) < headUDP6 {
		return nil, io.ErrShortBuffer
	}
	if err := readHead6(r, buf[:headUDP6]); err != nil {
		return nil, err
	}
	size := int(binary.BigEndian.Uint16(buf[2:]))
	if size < headUDP6 {
		return nil, errShortUDP6
	}
	if size > len(buf) {
		return nil, io.ErrShortBuffer
	}
	return buf[:size], readRest6(r, buf[headUDP6:size])
}

func parseUDP6(b []byte) (m UDPMessage6, err error) {
	switch {
	case len(b) == 0:
		return m, io.EOF
	case b[0] != version6:
		return m, ErrVersion6
	case len(b) < headUDP6:
		return m, io.ErrUnexpectedEOF
	}
	size := int(binary.BigEndian.Uint16(b[2:]))
	if size < headUDP6 {
		return m, errShortUDP6
	}
	if size > len(b) {
		return m, io.ErrUnexpectedEOF
	}
	m.Type, m.Association = UDPType6(b[1]), binary.BigEndian.Uint64(b[4:])
	rest := b[headUDP6:size:size]
	switch m.Type {
	case UDPInit6, UDPConfirm6:
		if len(rest) != 0 {
			err = fmt.Errorf("message of type %d has %d bytes", m.Type, size)
		}
	case UDPDatagram6:
		m.Addr, m.Payload, err = cutUDPAddr6(rest)
	case UDPError6:
		err = m.parseError(rest)
	default:
		err = fmt.Errorf("type %d is not known", m.Type)
	}
	return m, err
}

func (m *UDPMessage6) parseError(b []byte) (err error) {
	if m.Addr, b, err = cutUDPAddr6(b); err != nil {
		return err
	}
	if len(b) < 5 {
		return errShortUDP6
	}
	size, err := addrSize6(b[0], b[4])
	if err != nil {
		return err
	}
	if len(b) != 4+size {
		return errShortUDP6
	}
	reporter, err := parseAddr6(b[0], b[4:], 0)
	if err != nil {
		return err
	}
	m.Cause, m.Reporter = UDPCause6(b[1]), reporter.IP
	return m.checkError(m.Addr)
}

// cutUDPAddr6 splits what appendUDPAddr6 made from what is behind it.
func cutUDPAddr6(b []byte) (a Addr, rest []byte, err error) {
	if len(b) < 5 {
		return a, nil, errShortUDP6
	}
	size, err := addrSize6(b[0], b[4])
	if err != nil {
		return a, nil, err
	}
	if len(b) < 4+size {
		return a, nil, errShortUDP6
	}
	a, err = parseAddr6(b[0], b[4:4+size], binary.BigEndian.Uint16(b[2:]))
	return a, b[4+size:], err
}
