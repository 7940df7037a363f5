package socks

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
)

// maxName is the longest name a one-octet length can give.
const maxName = 255

// Addr is a target as the app named it. Either IP is valid, or Name is a host
// name that nobody has resolved: names travel as they are to the exit.
type Addr struct {
	Name string
	IP   netip.Addr // without a zone
	Port uint16
}

var (
	errNoName   = errors.New("host name is empty")
	errLongName = errors.New("host name is longer than 255 bytes")
	errBadName  = errors.New("host name has a control character, a space or a zone in it")
)

// NewAddr makes an Addr of what an app sent as a host: a name, or an IP
// literal, with or without brackets. Bytes that could play tricks in a log
// or a resolver are refused.
func NewAddr(host string, port uint16) (Addr, error) {
	literal := host
	if n := len(host); n > 2 && host[0] == '[' && host[n-1] == ']' {
		literal = host[1 : n-1]
	}
	if ip, err := netip.ParseAddr(literal); err == nil {
		if ip.Zone() != "" {
			return Addr{}, errBadName
		}
		return Addr{IP: ip, Port: port}, nil
	}
	switch {
	case host == "":
		return Addr{}, errNoName
	case len(host) > maxName:
		return Addr{}, errLongName
	}
	for i := range len(host) {
		if c := host[i]; c <= ' ' || c == 0x7f || c == '[' || c == ']' || c == '%' {
			return Addr{}, errBadName
		}
	}
	return Addr{Name: host, Port: port}, nil
}

// ParseAddr reads "host:port" as [NewAddr] does.
func ParseAddr(hostport string) (Addr, error) {
	host, p, err := net.SplitHostPort(hostport)
	if err != nil {
		return Addr{}, fmt.Errorf("parse address %q: %w", hostport, err)
	}
	port, err := strconv.ParseUint(p, 10, 16)
	if err != nil {
		return Addr{}, fmt.Errorf("parse port %q: %w", p, err)
	}
	a, err := NewAddr(host, uint16(port))
	if err != nil {
		return Addr{}, fmt.Errorf("parse address %q: %w", hostport, err)
	}
	return a, nil
}

// Host is the name, or the IP address in text.
func (a Addr) Host() string {
	if a.IP.IsValid() {
		return a.IP.String()
	}
	return a.Name
}

// String is "host:port", with brackets around an IPv6 address.
func (a Addr) String() string {
	return net.JoinHostPort(a.Host(), strconv.Itoa(int(a.Port)))
}

// Network makes Addr a [net.Addr]. It is always "tcp".
func (a Addr) Network() string { return "tcp" }
