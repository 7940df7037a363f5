package server

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
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

// echoesHere is set for a process that is nothing but targets.
const echoesHere = "ADIT_TEST_ECHOES"

// serveEchoes listens at two ports, prints them, and echoes until nobody listens any more.
func serveEchoes() {
	for range 2 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return
		}
		fmt.Println(ln.Addr().(*net.TCPAddr).Port)
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				// A copy between two sockets takes two pipes besides.
				go func() { _, _ = io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c}); c.Close() }()
			}
		}()
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// echoesElsewhere gives the ports of two targets in a process of their own: one process may not
// have the sockets of both ends.
func echoesElsewhere(t *testing.T) (one, other uint16) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), echoesHere+"=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); _ = cmd.Wait() })
	if _, err := fmt.Fscan(out, &one, &other); err != nil {
		t.Fatal(err)
	}
	return one, other
}

// Every flow is echoing while one policy takes another's place, again and again.
func TestNewRulesUnderLoadBreakWhatTheyForbidAndNothingElse(t *testing.T) {
	stay, leave := echoesElsewhere(t)
	h := newHouse(t, func(c *Config) { c.UserStreams = 20_000 })
	v, err := h.Visit(t.Context(), Visitor{User: "bob"})
	h.must(err)
	defer v.Close()
	n := fewOrMany(200, 10_000)
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
				case <-time.After(time.Duration(n) * 50 * time.Microsecond):
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
	took := time.Since(began)
	if took > 10*time.Second {
		t.Errorf("the new policy took %s", took)
	}
	waitFor(t, func() bool { return v.Usage().Flows == len(conns[0]) })
	gone := time.Since(began)
	waitFor(t, func() bool { return broken[1].Load() == int64(len(conns[1])) })
	t.Logf("the policy was in force after %s, %d flows had gone after %s, and their ends knew after %s",
		took, len(conns[1]), gone, time.Unix(0, last.Load()).Sub(began))
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

// always is a resolver that knows one address.
type always struct{ addr netip.Addr }

func (r always) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	return []netip.Addr{r.addr}, nil
}
