package server

import "github.com/adit-net/adit/tunnel/socks"

// icmpCode says what an ICMP error means (RFC 792, RFC 1122 section 3.2.2.1,
// RFC 1812 section 5.2.7.1). ok is false for those that tell of no loss, and for
// what only the target's own fragments can cause.
func icmpCode(kind, code byte) (c socks.Code, ok bool) {
	const unreachable, exceeded = 3, 11
	switch kind {
	case unreachable:
		switch code {
		case 0, 6, 11: // network: unreachable, unknown, not for this type of service
			return socks.NetworkUnreachable, true
		case 1, 2, 5, 7, 8, 12: // host, protocol, source route, unknown, isolated, type of service
			return socks.HostUnreachable, true
		case 3:
			return socks.ConnectionRefused, true
		case 4: // too big, and not to be fragmented
			return socks.GeneralFailure, true
		case 9, 10, 13: // prohibited: network, host, by a filter
			return socks.NotAllowed, true
		}
	case exceeded:
		if code == 0 {
			return socks.TTLExpired, true
		}
	}
	return 0, false
}

// icmp6Code is icmpCode for ICMPv6 (RFC 4443 section 3).
func icmp6Code(kind, code byte) (c socks.Code, ok bool) {
	const unreachable, tooBig, exceeded = 1, 2, 3
	switch kind {
	case unreachable:
		switch code {
		case 0, 2: // no route, beyond the scope of the source address
			return socks.NetworkUnreachable, true
		case 1, 5, 6: // prohibited, source address failed policy, route rejected
			return socks.NotAllowed, true
		case 3:
			return socks.HostUnreachable, true
		case 4:
			return socks.ConnectionRefused, true
		}
	case tooBig:
		return socks.GeneralFailure, true
	case exceeded:
		if code == 0 {
			return socks.TTLExpired, true
		}
	}
	return 0, false
}
