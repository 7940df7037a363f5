package socks

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// StackOption6 asks for a property of the protocols below, or tells which one
// there is. Servers answer each that they support with what they really did.
type StackOption6 struct {
	Leg   Leg6
	Kind  StackKind6
	Value uint16 // its meaning is with the kind
}

// Leg6 is the part of the way that a [StackOption6] is about.
type Leg6 byte

// The legs.
const (
	ClientLeg6 Leg6 = 1 // client to server
	TargetLeg6 Leg6 = 2 // server to target
	BothLegs6  Leg6 = 3
)

// StackKind6 is a stack option's level and code.
type StackKind6 uint16

// The stack options. Those that are not about the target's leg alone may be
// about any. A switch is [StackOff6] or [StackOn6].
const (
	StackTOS6             StackKind6 = 0x0101 // any leg: an octet
	StackHappyEyeballs6   StackKind6 = 0x0102 // a switch; counts in a request for a name only
	StackTTL6             StackKind6 = 0x0103 // any leg: an octet
	StackNoFragmentation6 StackKind6 = 0x0104 // any leg: a switch
	StackFastOpen6        StackKind6 = 0x0401 // the most payload for the SYN, in bytes; 0 leaves it to the server
	StackMultipath6       StackKind6 = 0x0402 // a switch
	StackBacklog6         StackKind6 = 0x0403 // connections that wait for a BIND at once; 0 in a reply is a refusal
	StackUDPErrors6       StackKind6 = 0x0501 // a switch
	StackPortParity6      StackKind6 = 0x0502 // one of the two parities or neither, plus ParityReserve6 or not
)

// Values of stack options.
const (
	StackOff6 = 1
	StackOn6  = 2

	ParityEven6    = 0x0100
	ParityOdd6     = 0x0200
	ParityReserve6 = 0x0001 // keeps the other port of the pair for a second association in the session
)

// format tells how a stack option travels: on which legs, and whether its value
// is one octet with a zero behind it. Legs are none if it is not known.
func (k StackKind6) format() (legs Leg6, octet bool) {
	switch k {
	case StackTOS6, StackTTL6, StackNoFragmentation6:
		return BothLegs6, true
	case StackHappyEyeballs6, StackMultipath6, StackUDPErrors6:
		return TargetLeg6, true
	case StackFastOpen6, StackBacklog6, StackPortParity6:
		return TargetLeg6, false
	}
	return 0, false
}

func (k StackKind6) accepts(value uint16) bool {
	switch k {
	case StackTOS6, StackTTL6:
		return value <= 0xff
	case StackHappyEyeballs6, StackNoFragmentation6, StackMultipath6, StackUDPErrors6:
		return value == StackOff6 || value == StackOn6
	case StackPortParity6:
		return value>>8 <= 2 && value&0xff <= 1
	}
	return true
}

// addStack takes a stack option's data. One that is not known is dropped.
func (o *Options6) addStack(data []byte) error {
	s := StackOption6{
		Leg:   Leg6(data[0] >> 6),
		Kind:  StackKind6(data[0]&0x3f)<<8 | StackKind6(data[1]),
		Value: binary.BigEndian.Uint16(data[2:]),
	}
	legs, octet := s.Kind.format()
	if legs == 0 {
		return nil
	}
	if len(data) != 4 {
		return errors.New("stack option has another size than 8 bytes")
	}
	if octet {
		s.Value >>= 8
	}
	o.Stack = append(o.Stack, s)
	return nil
}

// data gives the bytes of an option that checkStack6 has passed.
func (s StackOption6) data() []byte {
	value := s.Value
	if _, octet := s.Kind.format(); octet {
		value <<= 8
	}
	b := []byte{byte(s.Leg)<<6 | byte(s.Kind>>8), byte(s.Kind)}
	return binary.BigEndian.AppendUint16(b, value)
}

func checkStack6(options []StackOption6) error {
	for i, s := range options {
		legs, _ := s.Kind.format()
		if s.Leg == 0 || s.Leg&^legs != 0 {
			return fmt.Errorf("stack option %#04x is not for leg %d", uint16(s.Kind), s.Leg)
		}
		if !s.Kind.accepts(s.Value) {
			return fmt.Errorf("stack option %#04x has the value %d", uint16(s.Kind), s.Value)
		}
		if slices.ContainsFunc(options[:i], func(t StackOption6) bool { return t.Kind == s.Kind && t.Leg&s.Leg != 0 }) {
			return fmt.Errorf("stack option %#04x comes twice for one leg", uint16(s.Kind))
		}
	}
	return nil
}

// FindStack6 gives the value of an option for the way to the target.
func FindStack6(options []StackOption6, kind StackKind6) (value uint16, found bool) {
	for _, o := range options {
		if o.Kind == kind && o.Leg&TargetLeg6 != 0 {
			return o.Value, true
		}
	}
	return 0, false
}
