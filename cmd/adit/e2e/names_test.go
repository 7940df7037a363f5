//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"golang.org/x/net/dns/dnsmessage"
)

// nameServerIP is where each namespace has a name server of its own, so that one
// resolv.conf serves all of them.
const nameServerIP = "127.0.0.53"

// Names in the lab. The client's side knows the server's, the server's side
// knows the target's.
const (
	serverName  = "exit.adit.test"
	serverName6 = "exit6.adit.test" // has an IPv6 address only
	targetName  = "target.adit.test"
	targetName4 = "target4.adit.test" // has an IPv4 address only
	targetName6 = "target6.adit.test" // has an IPv6 address only
)

type zone map[string][]netip.Addr

func (l *lab) startNameServers() error {
	addrs := func(text ...string) (ips []netip.Addr) {
		for _, s := range text {
			ips = append(ips, netip.MustParseAddr(s))
		}
		return ips
	}
	l.names.zone = zone{serverName: addrs(server4), serverName6: addrs(server6)}
	exit := &nameServer{zone: zone{
		targetName:  addrs(target4, target6),
		targetName4: addrs(target4),
		targetName6: addrs(target6),
	}, pointers: map[string]string{"2.2.77.10.in-addr.arpa": targetName}}
	for ns, server := range map[namespace]*nameServer{clientNS: &l.names, serverNS: exit} {
		var pc net.PacketConn
		err := ns.do(func() (err error) {
			pc, err = net.ListenPacket("udp", net.JoinHostPort(nameServerIP, "53"))
			return err
		})
		if err != nil {
			return fmt.Errorf("start the name server of %s: %w", ns, err)
		}
		var wg sync.WaitGroup
		wg.Go(func() { server.serve(pc) })
		l.onClose(func() { pc.Close(); wg.Wait() })
	}
	return nil
}

// askedOutside returns the names that the client's side asked for and that were
// not the server's: each should have gone through the tunnel instead.
func (l *lab) askedOutside() []string {
	l.names.mu.Lock()
	defer l.names.mu.Unlock()
	return slices.Compact(slices.Sorted(slices.Values(l.names.unknown)))
}

// nameServer answers for its zone, and that no other name exists.
type nameServer struct {
	zone     zone
	pointers map[string]string // from addresses to names

	mu      sync.Mutex
	unknown []string // names asked for that are not in the zone
}

func (s *nameServer) serve(pc net.PacketConn) {
	buf := make([]byte, 1500)
	for {
		n, from, err := pc.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if answer, err := s.answer(buf[:n]); err == nil {
			_, _ = pc.WriteTo(answer, from) // who asks asks again
		}
	}
}

func (s *nameServer) answer(query []byte) ([]byte, error) {
	var p dnsmessage.Parser
	header, err := p.Start(query)
	if err != nil {
		return nil, err
	}
	q, err := p.Question()
	if err != nil {
		return nil, err
	}
	name := strings.ToLower(strings.TrimSuffix(q.Name.String(), "."))
	addrs, known := s.zone[name]
	pointer, reverse := s.pointers[name]
	header.Response, header.Authoritative, header.RecursionAvailable = true, true, true
	if !known && !reverse {
		header.RCode = dnsmessage.RCodeNameError
		s.mu.Lock()
		s.unknown = append(s.unknown, name)
		s.mu.Unlock()
	}
	m := dnsmessage.Message{Header: header, Questions: []dnsmessage.Question{q}}
	if reverse && q.Type == dnsmessage.TypePTR {
		to, err := dnsmessage.NewName(pointer + ".")
		if err != nil {
			return nil, err
		}
		m.Answers = append(m.Answers, resource(q.Name, &dnsmessage.PTRResource{PTR: to}))
	}
	for _, a := range addrs {
		var body dnsmessage.ResourceBody
		switch {
		case a.Is4() && q.Type == dnsmessage.TypeA:
			body = &dnsmessage.AResource{A: a.As4()}
		case a.Is6() && q.Type == dnsmessage.TypeAAAA:
			body = &dnsmessage.AAAAResource{AAAA: a.As16()}
		default:
			continue
		}
		m.Answers = append(m.Answers, resource(q.Name, body))
	}
	return m.Pack()
}

func resource(name dnsmessage.Name, body dnsmessage.ResourceBody) dnsmessage.Resource {
	return dnsmessage.Resource{
		Header: dnsmessage.ResourceHeader{Name: name, Class: dnsmessage.ClassINET, TTL: 60},
		Body:   body,
	}
}
