package socks

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/adit-net/adit/tunnel/relay"
)

// Tor's commands, which ask for what a name or an address stands for.
const (
	resolveName Command = 0xf0 // SOCKS 4, 4a and 5
	resolveAddr Command = 0xf1 // SOCKS 5
)

// lookUpTimeout bounds how long an answer of the exit's name service may take.
const lookUpTimeout = 20 * time.Second

var (
	errNoAddress = &Error{HostUnreachable, errors.New("there is no such address or name")}
	errNotAddr   = &Error{AddressNotSupported, errors.New("what is to be resolved is not an IP address")}
)

// nameService is where an exit answers DNS queries over TCP (SOCKS 6).
var nameService = netip.AddrPortFrom(netip.IPv4Unspecified(), 53)

// isResolve tells whether a request is one of Tor's.
func (r Request) isResolve() bool {
	switch r.Dialect {
	case SOCKS4, SOCKS4a:
		return r.Command == resolveName
	case SOCKS5:
		return r.Command == resolveName || r.Command == resolveAddr
	}
	return false
}

// resolve carries out one of Tor's commands, answers, and ends the connection.
func (a *app) resolve(ctx context.Context, g *guest, r Request, answer answer) error {
	a.conn.SetDeadline(time.Time{})
	a.door.Log.Debug("app asks for a name or address", "app", a.source, "dialect", r.Dialect, "target", r.Dst)
	var words []byte
	var err error
	ctx, giveUp := context.WithTimeout(ctx, lookUpTimeout)
	defer giveUp()
	gone := a.attend(giveUp, func() {
		if r.Command == resolveAddr {
			var name string
			if name, err = g.nameOf(ctx, r); err == nil {
				words = answerName5(name)
			}
			return
		}
		var ip netip.Addr
		if ip, err = g.addressOf(ctx, r); err == nil {
			words = answer(Reply{Bound: netip.AddrPortFrom(ip, 0)})
		}
	})
	switch {
	case gone != nil:
		return gone
	case err != nil:
		return a.refuse(&Error{CodeOf(err), err}, answer)
	}
	a.dismiss(words)
	return nil
}

// addressOf gives one address of a name, of IPv4 if there is one. SOCKS 4 can tell no
// other.
func (g *guest) addressOf(ctx context.Context, r Request) (netip.Addr, error) {
	four := r.Dialect != SOCKS5
	if ip := r.Dst.IP.Unmap(); ip.IsValid() {
		if four && !ip.Is4() {
			return netip.Addr{}, errNoAddress
		}
		return ip, nil
	}
	types := []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeAAAA}
	if four {
		types = types[:1]
	}
	found, err := g.lookUp(ctx, r, strings.TrimSuffix(r.Dst.Name, ".")+".", types...)
	if a, ok := pick[*dnsmessage.AResource](found); ok {
		return netip.AddrFrom4(a.A), nil
	}
	if aaaa, ok := pick[*dnsmessage.AAAAResource](found); ok {
		return netip.AddrFrom16(aaaa.AAAA), nil
	}
	return netip.Addr{}, cmp.Or(err, error(errNoAddress))
}

// pick gives the first record of a type.
func pick[T dnsmessage.ResourceBody](found []dnsmessage.ResourceBody) (T, bool) {
	for _, body := range found {
		if t, ok := body.(T); ok {
			return t, true
		}
	}
	return *new(T), false
}

// nameOf gives the name of an address.
func (g *guest) nameOf(ctx context.Context, r Request) (string, error) {
	ip := r.Dst.IP.Unmap()
	if !ip.IsValid() {
		return "", errNotAddr
	}
	found, err := g.lookUp(ctx, r, reverse(ip), dnsmessage.TypePTR)
	if ptr, ok := pick[*dnsmessage.PTRResource](found); ok {
		// Whoever owns the address says what this is: it may be anything.
		if name, err := NewAddr(strings.TrimSuffix(ptr.PTR.String(), "."), 0); err == nil && name.Name != "" {
			return name.Name, nil
		}
	}
	return "", cmp.Or(err, error(errNoAddress))
}

// reverse gives the name under which the name of an address is found (RFC 1035
// section 3.5, RFC 3596 section 2.5).
func reverse(ip netip.Addr) string {
	var b []byte
	octets := ip.AsSlice()
	for i := len(octets) - 1; i >= 0; i-- {
		if ip.Is4() {
			b = fmt.Appendf(b, "%d.", octets[i])
		} else {
			b = fmt.Appendf(b, "%x.%x.", octets[i]&0xf, octets[i]>>4)
		}
	}
	if ip.Is4() {
		return string(b) + "in-addr.arpa."
	}
	return string(b) + "ip6.arpa."
}

// lookUp asks the exit's name service for records of some types, and gives what it
// finds: all, or no more once there is an IPv4 address. The error says why one of
// them cannot be had.
func (g *guest) lookUp(ctx context.Context, r Request, name string, types ...dnsmessage.Type) (found []dnsmessage.ResourceBody, err error) {
	var queries []byte
	for i, t := range types {
		if queries, err = appendQuery(queries, uint16(i), name, t); err != nil {
			return nil, &Error{HostUnreachable, fmt.Errorf("ask for %q: %w", name, err)}
		}
	}
	conn, _, err := g.connect(ctx, Request{
		Command: Connect,
		Dst:     Addr{IP: nameService.Addr(), Port: nameService.Port()},
		Dialect: r.Dialect,
		Initial: queries,
	})
	if err != nil {
		return nil, fmt.Errorf("reach the exit's name service: %w", err)
	}
	defer conn.Reset()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	for range types {
		bodies, failed := readAnswer(conn, uint16(len(types)))
		if _, told := errors.AsType[*Error](failed); failed != nil && !told {
			return found, fmt.Errorf("read an answer of the exit's name service: %w", failed)
		} else if failed != nil {
			err = failed
		}
		found = append(found, bodies...)
		if _, enough := pick[*dnsmessage.AResource](found); enough {
			break
		}
	}
	return found, err
}

// appendQuery appends a query and its length, as they go over TCP (RFC 1035 section
// 4.2.2).
func appendQuery(b []byte, id uint16, name string, t dnsmessage.Type) ([]byte, error) {
	n, err := dnsmessage.NewName(name)
	if err != nil {
		return nil, err
	}
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: id, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: n, Type: t, Class: dnsmessage.ClassINET}},
	}
	packed, err := m.Pack()
	if err != nil {
		return nil, err
	}
	b = binary.BigEndian.AppendUint16(b, uint16(len(packed)))
	return append(b, packed...), nil
}

// readAnswer reads the answer to one of so many queries, whose ids count from 0. Its
// error is an [*Error] if that is what the answer says.
func readAnswer(conn relay.Conn, queries uint16) ([]dnsmessage.ResourceBody, error) {
	var size [2]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return nil, noEOF(err)
	}
	b := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(conn, b); err != nil {
		return nil, noEOF(err)
	}
	return parseAnswer(b, queries)
}

func parseAnswer(b []byte, queries uint16) (found []dnsmessage.ResourceBody, err error) {
	var p dnsmessage.Parser
	head, err := p.Start(b)
	switch {
	case err != nil:
		return nil, err
	case !head.Response || head.ID >= queries:
		return nil, errors.New("it answers something else")
	case head.RCode == dnsmessage.RCodeRefused:
		return nil, &Error{NotAllowed, errors.New("the exit's name service refuses")}
	case head.RCode == dnsmessage.RCodeServerFailure:
		return nil, &Error{HostUnreachable, errors.New("the exit's name service has failed")}
	case head.RCode != dnsmessage.RCodeSuccess:
		return nil, errNoAddress
	}
	if err := p.SkipAllQuestions(); err != nil {
		return nil, err
	}
	for {
		r, err := p.Answer()
		switch {
		case errors.Is(err, dnsmessage.ErrSectionDone):
			return found, nil
		case err != nil:
			return nil, err
		case r.Header.Class == dnsmessage.ClassINET:
			found = append(found, r.Body)
		}
	}
}

// answerName5 gives a reply with a name.
func answerName5(name string) []byte {
	b := append([]byte{version5, byte(Succeeded), 0, typeNameIn5, byte(len(name))}, name...)
	return append(b, 0, 0)
}
