package server

import (
	"context"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/adit-net/adit/server/audit"
	"github.com/adit-net/adit/tunnel/relay"
	"github.com/adit-net/adit/tunnel/socks"
)

// spy is a target that keeps what it gets, and sends it back after a greeting.
type spy struct {
	port uint16
	got  chan string // all of each connection, when that has ended
}

func newSpy(t *testing.T, greeting string) spy {
	t.Helper()
	s := spy{got: make(chan string, 10)}
	s.port = target(t, func(c *net.TCPConn) {
		var all strings.Builder
		_, _ = io.WriteString(c, greeting)
		_, _ = io.Copy(c, io.TeeReader(c, &all))
		s.got <- all.String()
	})
	return s
}

const (
	onlyHTTP = "[[rule]]\nprotocols = [\"http\"]\nthen = \"allow\"\n"
	noSSH    = "[[rule]]\nprotocols = [\"ssh\"]\nthen = \"deny\"\n[[rule]]\nthen = \"allow\"\n"

	httpRequest = "GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n"
	sshBanner   = "SSH-2.0-OpenSSH_9.9\r\n"
)

func TestRulesDecideByWhatIsSpoken(t *testing.T) {
	for _, one := range []struct {
		name, rules, greeting, says string
		allowed                     bool
	}{
		{"what is allowed", onlyHTTP, "", httpRequest, true},
		{"what is not", onlyHTTP, "", sshBanner, false},
		{"what nobody knows", onlyHTTP, "", "hello, it is me", false},
		{"what is forbidden", noSSH, "", sshBanner, false},
		{"what is something else", noSSH, "", httpRequest, true},
		{"what nobody knows, where that is allowed", noSSH, "", "hello, it is me", true},
		{"a long something", noSSH, "", strings.Repeat("hello, it is me; ", 4000), true},
		{"a server that speaks first", noSSH, sshBanner, "", false},
		{"another server that speaks first", noSSH, "220 mail.example.com ESMTP\r\n", "", true},
	} {
		t.Run(one.name, func(t *testing.T) {
			h := newHouse(t, func(c *Config) { c.Policy = rules(t, one.rules) })
			s := newSpy(t, one.greeting)
			conn := h.attach(h.device("anna")).connect(s.port)
			conn.SetDeadline(time.Now().Add(patience))
			go func() { _, _ = io.WriteString(conn, one.says) }()
			back := make([]byte, len(one.greeting)+len(one.says))
			_, err := io.ReadFull(conn, back)
			if one.allowed {
				if err != nil || string(back) != one.greeting+one.says {
					t.Errorf("%v, and %d bytes came back", err, len(back))
				}
				return
			}
			if _, more := conn.Read(make([]byte, 1)); err == nil && more == nil {
				t.Error("it goes on")
			}
			if got := receive(t, s.got, "the end at the target"); got != "" {
				t.Errorf("the target has got %q", got)
			}
		})
	}
}

func TestWhatIsSpokenDecidesBeforeOrAfterANewPolicy(t *testing.T) {
	h := newHouse(t, func(c *Config) { c.Policy = rules(t, "[[rule]]\nthen = \"allow\"\n") })
	g, s := h.attach(h.device("anna")), newSpy(t, "")
	web, ssh, silent := g.connect(s.port), g.connect(s.port), g.connect(s.port)
	exchange(t, web, httpRequest)
	exchange(t, ssh, sshBanner)
	h.SetPolicy(rules(t, onlyHTTP))
	wantBroken(t, ssh)
	exchange(t, web, httpRequest)
	exchange(t, silent, httpRequest)
}

func TestAFlowThatBeganWithoutRulesSpeaksNothingThatIsKnown(t *testing.T) {
	h := newHouse(t, nil)
	g, s := h.attach(h.device("anna")), newSpy(t, "")
	web := g.connect(s.port)
	exchange(t, web, httpRequest)
	h.SetPolicy(rules(t, onlyHTTP))
	wantBroken(t, web)
}

// What an app has said together with its request is judged as what it says later.
func TestDataOfTheRequestWaitsForRules(t *testing.T) {
	h := newHouse(t, func(c *Config) { c.Policy = rules(t, onlyHTTP) })
	v, err := h.Visit(t.Context(), Visitor{User: "bob"})
	h.must(err)
	defer v.Close()
	for says, allowed := range map[string]bool{httpRequest: true, sshBanner: false} {
		s := newSpy(t, "")
		r := connectTo(t, "127.0.0.1", s.port)
		r.Initial = []byte(says)
		conn, _, err := v.Connect(t.Context(), r)
		if err == nil {
			if allowed {
				back := make([]byte, len(says))
				conn.SetDeadline(time.Now().Add(patience))
				if _, err := io.ReadFull(conn, back); err != nil || string(back) != says {
					t.Errorf("%q came back, %v", back, err)
				}
			}
			conn.Close()
		}
		if got := receive(t, s.got, "the end at the target"); got != "" && !allowed {
			t.Errorf("the target has got %q", got)
		}
	}
}

// The end of what an app says waits for no clock.
func TestAnAppThatSaysNoMoreIsJudgedAtOnce(t *testing.T) {
	h := newHouse(t, func(c *Config) { c.Policy = rules(t, noSSH) })
	v, err := h.Visit(t.Context(), Visitor{User: "bob"})
	h.must(err)
	defer v.Close()
	s := newSpy(t, "")
	conn, _, err := v.Connect(t.Context(), connectTo(t, "127.0.0.1", s.port))
	h.must(err)
	if _, err := io.WriteString(conn, "hello"); err != nil {
		t.Fatal(err)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(conn); string(b) != "hello" || err != nil {
		t.Errorf("%q came back, %v", b, err)
	}
	conn.Close()
}

// Peers that come to a port have opened the connection themselves.
func TestRulesHearWhatPeersSpeak(t *testing.T) {
	h := newHouse(t, func(c *Config) {
		c.Policy = rules(t, "[[rule]]\ncommands = [\"bind\"]\nprotocols = [\"http\"]\nthen = \"allow\"\n")
		c.Relay = &Exit{Allow: toLoopback, Binds: Binds{Advertise: addrs("127.0.0.1")}}
	})
	v, err := h.Visit(t.Context(), Visitor{User: "bob"})
	h.must(err)
	defer v.Close()
	for says, allowed := range map[string]bool{httpRequest: true, sshBanner: false} {
		b, reply, err := v.Bind(t.Context(), socks.Request{Command: socks.Bind})
		h.must(err)
		caller := peer(t, "127.0.0.1", reply.Bound)
		conn, _, err := b.Accept(t.Context())
		h.must(err)
		app, far := duplex(t)
		done := make(chan struct{})
		go func() { defer close(done); relay.Copy(context.Background(), far, conn) }()
		_, _ = io.WriteString(caller, says)
		if allowed {
			got := make([]byte, len(says))
			app.SetDeadline(time.Now().Add(patience))
			if _, err := io.ReadFull(app, got); err != nil || string(got) != says {
				t.Errorf("%q has come, %v", got, err)
			}
			app.Close()
			caller.Close()
		} else {
			caller.SetDeadline(time.Now().Add(patience))
			if _, err := caller.Read(make([]byte, 1)); err == nil {
				t.Error("it goes on")
			}
		}
		receive(t, done, "the end")
		b.Close()
	}
}

// duplex gives both ends of a connection.
func duplex(t testing.TB) (near *net.TCPConn, far relay.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	other, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); other.Close() })
	return c.(*net.TCPConn), relay.TCP(other.(*net.TCPConn))
}

func TestRulesDecideByWhatDatagramsAre(t *testing.T) {
	at := udpEcho(t, "127.0.0.1:0")
	stranger, _ := listenPeer(t, "127.0.0.2:0")
	exit := &Exit{Allow: toLoopback, Resolver: always{netip.MustParseAddr("127.0.0.1")}}
	h := newHouse(t, func(c *Config) {
		c.Relay = exit
		c.Policy = rules(t, "[[rule]]\nprotocols = [\"dns\"]\nnetworks = [\"127.0.0.0/8\"]\nthen = \"allow\"\n")
	})
	v, err := h.Visit(t.Context(), Visitor{User: "bob"})
	h.must(err)
	defer v.Close()
	in := newMailbox()
	a, reply, err := v.Associate(t.Context(), socks.Request{Command: socks.Associate}, in)
	h.must(err)
	defer a.Close()
	query := string(dnsQueryFor(t, "www.example.com.", dnsmessage.TypeA))
	named := socks.Addr{Name: "Peer.example", Port: at.Port}
	a.Send(append(to(at, "hello, it is me"), to(named, "hello, it is me")...))
	_, err = stranger.WriteToUDPAddrPort([]byte(query), netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), reply.Bound.Port()))
	h.must(err)
	waitFor(t, func() bool { return exit.Drops().Denied == 1 }) // the stranger's; the others have not come so far
	for _, dst := range []socks.Addr{{IP: at.IP, Port: at.Port}, named} {
		other := dst
		other.Name = strings.Replace(dst.Name, "Peer", "other", 1)
		a.Send(to(other, query))
		if d := in.next(t); string(d.Payload) != query || d.Addr != at {
			t.Errorf("%q came from %v", d.Payload, d.Addr)
		}
	}
	h.SetPolicy(rules(t, "[[rule]]\nprotocols = [\"dns\"]\nthen = \"deny\"\n[[rule]]\nthen = \"allow\"\n"))
	a.Send(to(at, query))
	a.Send(to(socks.Addr{Name: "third.example", Port: at.Port}, "something else"))
	if d := in.next(t); string(d.Payload) != "something else" {
		t.Errorf("%q came", d.Payload)
	}
}

func TestSignsThatSomethingIsOtherThanItSeems(t *testing.T) {
	at := func(name string, port uint16) destination {
		return destination{name, netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), port)}
	}
	for _, one := range []struct {
		spoken spoken
		to     destination
		want   string
	}{
		{spoken{protocol: "http", host: "www.example.com"}, at("www.example.com", 80), ""},
		{spoken{protocol: "http", host: "evil.example"}, at("www.example.com", 80), "other-host"},
		{spoken{protocol: "http", host: "evil.example"}, at("", 80), ""},
		{spoken{protocol: "http"}, at("www.example.com", 443), "misplaced"},
		{spoken{protocol: "unknown"}, at("www.example.com", 443), ""},
		{spoken{protocol: "http", host: "evil.example", doubt: true}, at("www.example.com", 443), "other-host misplaced doubtful"},
	} {
		if got := strings.Join(one.spoken.signs(one.to), " "); got != one.want {
			t.Errorf("%+v to %v: %q", one.spoken, one.to, got)
		}
	}
}

func TestAHostThatWasNotAskedForIsSeenAndOnRecord(t *testing.T) {
	h, _, end := recordedHouse(t, false)
	h.cfg.Relay = &Exit{Allow: toLoopback, Resolver: &answers{addrs: addrs("127.0.0.1")}}
	h.SetPolicy(rules(t, "[[rule]]\nname = \"fronting\"\nsigns = [\"other-host\"]\nthen = \"deny\"\n[[rule]]\nname = \"rest\"\nthen = \"allow\"\n"))
	v, err := h.Visit(t.Context(), Visitor{User: "bob"})
	h.must(err)
	for name, allowed := range map[string]bool{"www.example.com": true, "other.example.com": false} {
		s := newSpy(t, "")
		conn, _, err := v.Connect(t.Context(), connectTo(t, name, s.port))
		h.must(err)
		_, _ = io.WriteString(conn, httpRequest)
		conn.SetDeadline(time.Now().Add(patience))
		if n, err := io.ReadFull(conn, make([]byte, len(httpRequest))); (err == nil) != allowed {
			t.Errorf("%s: %d bytes, %v", name, n, err)
		}
		conn.Close()
	}
	v.Close()
	for _, r := range end(audit.Flow) {
		allowed := r.Name == "www.example.com"
		if r.Protocol != "http" || r.Host != "www.example.com" || (r.Decision == audit.Allowed) != allowed || (r.Rule == "rest") != allowed {
			t.Errorf("record %+v", r)
		}
	}
}

// A target that reads nothing before everything that it says has been read holds the app
// up, but not itself.
func TestListeningHoldsNoDirectionUpForTheOther(t *testing.T) {
	const size = 16 << 20
	for _, says := range []string{"220 mail.example.com ESMTP\r\n", "HTTP/1.1 200 OK\r\n\r\n", "x"} {
		h := newHouse(t, func(c *Config) { c.Policy = rules(t, noSSH) })
		port := target(t, func(c *net.TCPConn) {
			time.Sleep(50 * time.Millisecond) // until the app has filled what there is between
			_, _ = io.WriteString(c, says)
			_, _ = c.Write(make([]byte, size))
			_, _ = io.Copy(io.Discard, c)
		})
		v, err := h.Visit(t.Context(), Visitor{User: "bob"})
		h.must(err)
		conn, _, err := v.Connect(t.Context(), connectTo(t, "127.0.0.1", port))
		h.must(err)
		conn.SetDeadline(time.Now().Add(patience))
		written := make(chan error, 1)
		go func() {
			_, err := io.WriteString(conn, httpRequest)
			if err == nil {
				_, err = conn.Write(make([]byte, size))
			}
			written <- err
		}()
		if n, err := io.CopyN(io.Discard, conn, int64(len(says)+size)); err != nil {
			t.Errorf("%.10q: %d bytes, %v", says, n, err)
		}
		if err := receive(t, written, "the end of what is written"); err != nil {
			t.Error(err)
		}
		v.Close()
	}
}
