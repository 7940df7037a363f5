package server

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/adit-net/adit/tunnel/socks"
)

// nameServer is a DNS server over UDP and TCP, which answers what respond gives. It
// may give several messages, over UDP.
type nameServer struct {
	at      netip.AddrPort
	respond func(query []byte, tcp bool) [][]byte
}

func listenDNS(t testing.TB, respond func(query []byte, tcp bool) [][]byte) netip.AddrPort {
	t.Helper()
	udp, l := listenBoth(t)
	s := nameServer{udp.LocalAddr().(*net.UDPAddr).AddrPort(), respond}
	var serving sync.WaitGroup
	serving.Go(func() { s.serveUDP(udp) })
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { s.serveTCP(c) })
		}
	})
	t.Cleanup(func() {
		udp.Close()
		l.Close()
		serving.Wait()
	})
	return s.at
}

// listenBoth finds a port that is free for UDP and TCP.
func listenBoth(t testing.TB) (*net.UDPConn, net.Listener) {
	t.Helper()
	for range 100 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if pc, err := net.ListenPacket("udp", l.Addr().String()); err == nil {
			return pc.(*net.UDPConn), l
		}
		l.Close()
	}
	t.Fatal("no port is free for both")
	panic("unreachable")
}

func (s nameServer) serveUDP(conn *net.UDPConn) {
	b := make([]byte, 4096)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		for _, m := range s.respond(bytes.Clone(b[:n]), false) {
			_, _ = conn.WriteToUDPAddrPort(m, from)
		}
	}
}

func (s nameServer) serveTCP(c net.Conn) {
	defer c.Close()
	var size [2]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return
	}
	b := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(c, b); err != nil {
		return
	}
	for _, m := range s.respond(b, true) {
		_, _ = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(m))), m...))
	}
}

// respond answers a query with texts.
func respond(query []byte, code dnsmessage.RCode, texts ...string) []byte {
	q, err := parseDNS(query)
	if err != nil {
		panic(err)
	}
	var answers []dnsmessage.Resource
	for _, body := range textRecords(texts) {
		h := dnsmessage.ResourceHeader{Name: q.question.Name, Class: dnsmessage.ClassINET, TTL: 7}
		answers = append(answers, dnsmessage.Resource{Header: h, Body: body})
	}
	b, err := q.reply(code, answers...)
	if err != nil {
		panic(err)
	}
	return b
}

// dnsQueryFor makes a query as an app would.
func dnsQueryFor(t testing.TB, name string, kind dnsmessage.Type, change ...func(*dnsmessage.Message)) []byte {
	t.Helper()
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 4711, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: kind, Class: dnsmessage.ClassINET}},
	}
	for _, f := range change {
		f(&m)
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func withEDNS(size int) func(*dnsmessage.Message) {
	return func(m *dnsmessage.Message) {
		opt := dnsmessage.Resource{Body: &dnsmessage.OPTResource{}}
		_ = opt.Header.SetEDNS0(size, 0, true)
		m.Additionals = append(m.Additionals, opt)
	}
}

// exchangeDNS gives the answer to a query, which must be one to that very query.
func exchangeDNS(t testing.TB, e *Exit, query []byte, tcp bool) dnsmessage.Message {
	t.Helper()
	b, err := e.Exchange(t.Context(), socks.Request{}, query, tcp)
	if err != nil {
		t.Fatal(err)
	}
	return unpackAnswer(t, b, query)
}

func unpackAnswer(t testing.TB, answer, query []byte) dnsmessage.Message {
	t.Helper()
	var m, q dnsmessage.Message
	if err := errors.Join(m.Unpack(answer), q.Unpack(query)); err != nil {
		t.Fatal(err)
	}
	if m.ID != q.ID || !m.Response || !slices.Equal(m.Questions, q.Questions) || m.RecursionDesired != q.RecursionDesired {
		t.Errorf("%+v is no answer to %+v", m, q)
	}
	return m
}

// text gives the texts in an answer.
func text(m dnsmessage.Message) (all []string) {
	for _, r := range m.Answers {
		if b, ok := r.Body.(*dnsmessage.TXTResource); ok {
			all = append(all, strings.Join(b.TXT, ""))
		}
	}
	return all
}
