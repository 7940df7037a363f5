package server

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// MaxUpstream is how many DNS servers one query may be asked in turn.
const MaxUpstream = len(dnsTries)

// dnsTries are how long the answers to one query after another are waited for.
var dnsTries = [...]time.Duration{time.Second, 1500 * time.Millisecond, 2500 * time.Millisecond}

// maxForged is how many wrong answers are overlooked. Whoever sends more is
// guessing.
const maxForged = 32

var (
	errMismatch  = errors.New("the answer is one to something else")
	errNoServers = errors.New("no server answered")
)

// forward asks one server after another, and gives the answer of the first that
// has one.
func (q dnsQuery) forward(ctx context.Context, way Steer, servers []netip.AddrPort) ([]byte, error) {
	query, err := q.message(dnsmessage.Header{AuthenticData: q.header.AuthenticData}, nil)
	if err != nil {
		return nil, err
	}
	servers = slices.Clone(servers)
	var refusal []byte
	failure := errNoServers
	for i, timeout := range dnsTries {
		if len(servers) == 0 || ctx.Err() != nil {
			break
		}
		at := i % len(servers)
		answer, err := way.ask(ctx, servers[at], query, timeout)
		if err != nil {
			failure = err
			continue
		}
		switch dnsmessage.RCode(answer[3] & 0xf) {
		case dnsmessage.RCodeServerFailure, dnsmessage.RCodeNotImplemented, dnsmessage.RCodeRefused:
			refusal = answer
			servers = slices.Delete(servers, at, at+1)
		default:
			return answer, nil
		}
	}
	if refusal != nil {
		return refusal, nil
	}
	return nil, failure
}

// ask asks a server over UDP, from a port of its own. Whoever wants to answer in its
// stead has to guess the port, the ID, and which letters of the name are capital.
func (s Steer) ask(ctx context.Context, server netip.AddrPort, query []byte, timeout time.Duration) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	sent := disguise(query)
	d := net.Dialer{Control: s.control}
	conn, err := d.DialContext(ctx, "udp", server.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Now()) })()
	if _, err := conn.Write(sent); err != nil {
		return nil, fmt.Errorf("ask %s: %w", server, err)
	}
	b := make([]byte, 4096)
	for range maxForged {
		n, err := conn.Read(b)
		if err != nil {
			return nil, fmt.Errorf("ask %s: %w", server, err)
		}
		switch answer := b[:n]; {
		case !answersTo(answer, sent, bytes.EqualFold):
		case isTruncated(answer), !answersTo(answer, sent, bytes.Equal):
			// A server that keeps no capital letters is asked in a way that needs
			// none.
			return s.askTCP(ctx, server, query)
		default:
			return restore(answer, query), nil
		}
	}
	return s.askTCP(ctx, server, query) // nobody can guess there
}

// askTCP asks a server over TCP (RFC 7766).
func (s Steer) askTCP(ctx context.Context, server netip.AddrPort, query []byte) ([]byte, error) {
	d := net.Dialer{Control: s.control}
	conn, err := d.DialContext(ctx, "tcp", server.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Now()) })()
	sent := disguise(query)
	message := binary.BigEndian.AppendUint16(nil, uint16(len(sent)))
	if _, err := conn.Write(append(message, sent...)); err != nil {
		return nil, fmt.Errorf("ask %s: %w", server, err)
	}
	var size [2]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return nil, fmt.Errorf("read answer of %s: %w", server, err)
	}
	answer := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(conn, answer); err != nil {
		return nil, fmt.Errorf("read answer of %s: %w", server, err)
	}
	if !answersTo(answer, sent, bytes.EqualFold) {
		return nil, fmt.Errorf("read answer of %s: %w", server, errMismatch)
	}
	return restore(answer, query), nil
}

// disguise gives a query another ID, and its name letters of random case.
func disguise(query []byte) []byte {
	q := slices.Clone(query)
	random := make([]byte, len(q))
	rand.Read(random)
	copy(q, random[:2])
	name := q[dnsHeader : questionEnd(q)-4]
	for i, c := range name {
		// The length of a label, 63 at most, is no letter.
		if c |= 0x20; 'a' <= c && c <= 'z' {
			name[i] ^= random[dnsHeader+i] & 0x20
		}
	}
	return q
}

// restore makes an answer to a disguised query one to the query itself.
func restore(answer, query []byte) []byte {
	copy(answer[:2], query[:2])
	copy(answer[dnsHeader:questionEnd(query)], query[dnsHeader:])
	return answer
}

// answersTo tells whether a message is an answer to a query, whose question is as
// long as questionEnd says.
func answersTo(message, query []byte, same func(a, b []byte) bool) bool {
	const response = 0x80
	end := questionEnd(query)
	return len(message) >= end &&
		message[0] == query[0] && message[1] == query[1] &&
		message[2]&response != 0 &&
		binary.BigEndian.Uint16(message[4:]) == 1 &&
		same(message[dnsHeader:end-4], query[dnsHeader:end-4]) &&
		bytes.Equal(message[end-4:end], query[end-4:end])
}

// isTruncated tells whether the TC bit is set.
func isTruncated(message []byte) bool { return message[2]&2 != 0 }

// questionEnd gives where the only question of a query that was made here ends: the
// name is not compressed, and the type and class are behind it.
func questionEnd(query []byte) int {
	i := dnsHeader
	for query[i] != 0 {
		i += 1 + int(query[i])
	}
	return i + 1 + 4
}

const (
	resolvConf    = "/etc/resolv.conf"
	resolvConfAge = 5 * time.Second // for which it is not looked at again
)

// systemServers gives the DNS servers of this host, none where it has no resolv.conf(5).
func (e *Exit) systemServers() []netip.AddrPort {
	if runtime.GOOS == "windows" {
		return nil // anybody may make that directory
	}
	x := &e.exchanges
	x.mu.Lock()
	defer x.mu.Unlock()
	if now := time.Now(); x.asked.IsZero() || now.Sub(x.asked) > resolvConfAge {
		x.asked = now
		x.reload(resolvConf)
	}
	return x.servers
}

// reload reads the servers if the file has changed. x.mu is held.
func (x *exchanges) reload(path string) {
	info, err := os.Stat(path)
	if err == nil && info.ModTime().Equal(x.written) {
		return
	}
	// What cannot be read now is read when it can be, also if it is of the same age.
	x.servers, x.written = nil, time.Time{}
	if err != nil {
		return
	}
	f, err := os.Open(path)
	if err != nil {
		return
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 64<<10))
	if err != nil {
		return
	}
	x.servers, x.written = parseResolvConf(string(b)), info.ModTime()
}

// parseResolvConf reads the name servers, three at most.
func parseResolvConf(text string) (servers []netip.AddrPort) {
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) < 2 || words[0] != "nameserver" || len(servers) == MaxUpstream {
			continue
		}
		if a, err := netip.ParseAddr(words[1]); err == nil {
			servers = append(servers, netip.AddrPortFrom(a, 53))
		}
	}
	return servers
}
