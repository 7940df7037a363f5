package socks

import (
	"net"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// targetLeg6 gives those of the options that are about the way to the target, and
// says so of each.
func targetLeg6(options []StackOption6) (far []StackOption6) {
	for _, o := range options {
		if o.Leg&TargetLeg6 != 0 {
			o.Leg = TargetLeg6
			far = append(far, o)
		}
	}
	return far
}

// ownLeg6 does what an app asks of the protocols on its own connection, and gives
// what there is then.
func (a *app) ownLeg6(options []StackOption6) (near []StackOption6) {
	tcp, ok := a.conn.LocalAddr().(*net.TCPAddr)
	if !ok {
		return nil
	}
	for _, o := range options {
		if o.Leg&ClientLeg6 == 0 {
			continue
		}
		value, err := setLeg6(a.conn, tcp.IP.To4() != nil, o.Kind, int(o.Value))
		if err == nil {
			near = append(near, StackOption6{Leg: ClientLeg6, Kind: o.Kind, Value: uint16(value)})
		}
	}
	return near
}

// setLeg6 sets an octet of the packets of a TCP connection. The kernel has a say in
// what it is then.
func setLeg6(c net.Conn, four bool, kind StackKind6, value int) (int, error) {
	set, get := ipv6.NewConn(c).SetTrafficClass, ipv6.NewConn(c).TrafficClass
	switch {
	case kind == StackTOS6 && four:
		set, get = ipv4.NewConn(c).SetTOS, ipv4.NewConn(c).TOS
	case kind == StackTTL6 && four:
		set, get = ipv4.NewConn(c).SetTTL, ipv4.NewConn(c).TTL
	case kind == StackTTL6:
		set, get = ipv6.NewConn(c).SetHopLimit, ipv6.NewConn(c).HopLimit
	case kind != StackTOS6:
		return 0, net.ErrClosed
	}
	if err := set(value); err != nil {
		return 0, err
	}
	return get()
}
