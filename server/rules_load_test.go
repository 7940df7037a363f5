package server

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/adit-net/adit/tunnel/relay"
	"github.com/adit-net/adit/tunnel/socks"
)

// fewOrMany is how many a test takes of something: few, unless there is time.
func fewOrMany(few, many int) int {
	if os.Getenv("ADIT_FULL") != "" {
		return many
	}
	return few
}

// Every flow is echoing while one policy takes another's place, again and again.
func TestNewRulesUnderLoadBreakWhatTheyForbidAndNothingElse(t *testing.T) {
	// A copy between two sockets takes two pipes besides.
	slow := func(c *net.TCPConn) { _, _ = io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c}) }
	stay, leave := target(t, slow), target(t, slow)
	h := newHouse(t, func(c *Config) { c.UserStreams = 20_000 })
	v, err := h.Visit(t.Context(), Visitor{User: "bob"})
	h.must(err)
	defer v.Close()
	n := fewOrMany(200, 9_000) // each has two sockets here
	var (
		conns  [2][]relay.Conn
		echoes sync.WaitGroup
		broken [2]atomic.Int64
		last   atomic.Int64 // when a flow was broken last
		stop   = make(chan struct{})
	)
	for i := range n {
		port := [2]uint16{stay, leave}[i%2]
		conn, _, err := v.Connect(t.Context(), connectTo(t, "127.0.0.1", port))
		h.must(err)
		conns[i%2] = append(conns[i%2], conn)
		echoes.Go(func() {
			for tryExchange(conn, "hello") == nil {
				select {
				case <-stop:
					conn.Close()
					return
				case <-time.After(time.Duration(n) * 20 * time.Microsecond):
				}
			}
			broken[i%2].Add(1)
			last.Store(time.Now().UnixNano())
		})
	}
	for range 20 { // all of these allow what the next one does
		h.SetPolicy(rules(t, "[[rule]]\nnetworks = [\"127.0.0.0/8\"]\nthen = \"allow\"\n"))
	}
	if b := broken[0].Load() + broken[1].Load(); b > 0 {
		t.Errorf("%d flows were broken that all policies allow", b)
	}
	began := time.Now()
	h.SetPolicy(rules(t, fmt.Sprintf("[[rule]]\nports = [\"%d\"]\nthen = \"allow\"\n", stay)))
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("the new policy took %s", took)
	}
	waitFor(t, func() bool { return broken[1].Load() == int64(len(conns[1])) })
	t.Logf("%d flows were broken within %s", len(conns[1]), time.Unix(0, last.Load()).Sub(began))
	close(stop)
	echoes.Wait()
	if broken[0].Load() > 0 {
		t.Errorf("%d flows were broken that are allowed", broken[0].Load())
	}
}

// A name that has an allowed address when it is looked up first, and a forbidden one from
// then on, is looked up once for each request, and leads nowhere else.
func TestRebindingNamesReachNothingThatRulesForbid(t *testing.T) {
	port, from := echo(t, "127.0.0.1:0")
	resolver := &answers{}
	h := newHouse(t, func(c *Config) {
		c.Relay = &Exit{Allow: toLoopback, Resolver: resolver}
		c.Policy = rules(t, "[[rule]]\nnetworks = [\"127.0.0.1\"]\nthen = \"deny\"\n[[rule]]\nthen = \"allow\"\n")
	})
	v, err := h.Visit(t.Context(), Visitor{User: "bob"})
	h.must(err)
	defer v.Close()
	spellings := []string{"127.0.0.1", "::ffff:127.0.0.1", "64:ff9b::127.0.0.1", "2002:7f00:1::1", "2001:db8::5efe:127.0.0.1"}
	for i := range fewOrMany(500, 10_000) {
		resolver.addrs = addrs(spellings[i%len(spellings)])
		_, _, err := v.Connect(t.Context(), connectTo(t, fmt.Sprintf("n%d.rebind.example", i), port))
		if socks.CodeOf(err) != socks.NotAllowed {
			t.Fatalf("%s: %v", resolver.addrs, err)
		}
		if resolver.asked != i+1 {
			t.Fatalf("%d look-ups for %d requests", resolver.asked, i+1)
		}
	}
	if len(from) > 0 {
		t.Error("the target was reached")
	}
}

// Spellings of an address that rules forbid, by all commands.
func TestNoSpellingOfAForbiddenAddressGetsThrough(t *testing.T) {
	secret, at := listenPeer(t, "127.0.0.9:0")
	_ = secret
	h := newHouse(t, func(c *Config) {
		c.Relay = &Exit{Allow: toLoopback, Resolver: always{netip.MustParseAddr("127.0.0.9")}, Binds: Binds{Advertise: addrs("127.0.0.9")}}
		c.Policy = rules(t, "[[rule]]\nnetworks = [\"127.0.0.9\"]\nthen = \"deny\"\n[[rule]]\nthen = \"allow\"\n")
	})
	v, err := h.Visit(t.Context(), Visitor{User: "bob"})
	h.must(err)
	defer v.Close()
	a, _, err := v.Associate(t.Context(), socks.Request{Command: socks.Associate}, newMailbox())
	h.must(err)
	defer a.Close()
	hosts := []string{
		"127.0.0.9", "127.0.0.9.", "[127.0.0.9]", "127.9", "127.0.9", "0177.0.0.011", "0x7f.0.0.9", "0x7f000009", "2130706441", "017700000011", "127.0.0.09",
		"127.000.000.009", "::ffff:127.0.0.9", "::ffff:7f00:9", "0:0:0:0:0:ffff:7f00:0009", "[::ffff:127.0.0.9]", "::FFFF:7F00:9", "::127.0.0.9",
		"64:ff9b::127.0.0.9", "64:ff9b::7f00:9", "64:ff9b:1::7f00:9", "2002:7f00:9::", "2002:7f00:0009::1", "2001:db8::5efe:7f00:9", "fe80::5efe:7f00:9",
		"2001:0:7f00:9::", "2001::80ff:fff6", "::ffff:0:127.0.0.9", "secret.example", "SECRET.example.", "127.0.0.9%lo", "::ffff:127.0.0.9%1", "127.0.0.9\x00.example",
		"127.0.0.9 ", "１２７.0.0.9", "127。0。0。9", "①27.0.0.9", "127.0.0.9..", "+127.0.0.9", "127.0.0.0x9",
	}
	for _, host := range hosts {
		dst := socks.Addr{Name: host, Port: at.Port}
		if ip, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
			// Once more as an address.
			request(t, v, socks.Addr{IP: ip, Port: at.Port})
			a.Send(to(socks.Addr{IP: ip, Port: at.Port}, "forbidden"))
		}
		request(t, v, dst)
		a.Send(to(dst, "forbidden"))
	}
	a.Send(to(at, "forbidden"))
	// What was sent to the peer before has come by now, if it ever does.
	if _, err := secret.WriteToUDPAddrPort([]byte("mark"), netip.AddrPortFrom(at.IP, at.Port)); err != nil {
		t.Fatal(err)
	}
	if got, _ := heard(t, secret); got != "mark" {
		t.Errorf("the peer got %q", got)
	}
}

// always is a resolver that knows one address.
type always struct{ addr netip.Addr }

func (r always) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	return []netip.Addr{r.addr}, nil
}

// request wants CONNECT and BIND to be denied.
func request(t *testing.T, v *Visit, dst socks.Addr) {
	t.Helper()
	if conn, _, err := v.Connect(t.Context(), socks.Request{Command: socks.Connect, Dst: dst}); err == nil {
		t.Errorf("CONNECT reaches %v at %v", dst, conn.RemoteAddr())
		conn.Close()
	}
	if b, _, err := v.Bind(t.Context(), socks.Request{Command: socks.Bind, Dst: dst}); err == nil {
		t.Errorf("BIND waits for %v", dst)
		b.Close()
	}
}
