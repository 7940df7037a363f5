package server

import (
	"errors"
	"io"
	"net/netip"
	"testing"
	"time"

	"github.com/adit-net/adit/tunnel"
	"github.com/adit-net/adit/tunnel/socks"
)

var anybody = socks.Addr{IP: netip.IPv4Unspecified()}

// ask opens a stream, makes a request, and gives the replies.
func (g *guest) ask(q socks.Request6) (*tunnel.Stream, socks.AuthReply6, socks.OperationReply6) {
	g.t.Helper()
	stream := g.send(q)
	auth, err := socks.ReadAuthReply6(stream)
	if err != nil {
		g.t.Fatal(err)
	}
	var op socks.OperationReply6
	if auth.OK {
		op = readOperation(g.t, stream)
	}
	return stream, auth, op
}

// send opens a stream and makes a request.
func (g *guest) send(q socks.Request6) *tunnel.Stream {
	g.t.Helper()
	stream, err := g.Open(g.t.Context())
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { stream.Reset() })
	stream.SetDeadline(time.Now().Add(patience))
	b, err := q.AppendBinary(nil)
	if err != nil {
		g.t.Fatal(err)
	}
	if _, err := stream.Write(b); err != nil {
		g.t.Fatal(err)
	}
	return stream
}

func readOperation(t testing.TB, r io.Reader) socks.OperationReply6 {
	t.Helper()
	op, err := socks.ReadOperationReply6(r)
	if err != nil {
		t.Fatal(err)
	}
	return op
}

// bind opens a port for a peer.
func (g *guest) bind(dst socks.Addr) (*tunnel.Stream, netip.AddrPort) {
	g.t.Helper()
	stream, auth, op := g.ask(socks.Request6{Command: socks.Bind, Dst: dst})
	if !auth.OK || op.Code != socks.Succeeded {
		g.t.Fatalf("bind: %+v, %+v", auth, op)
	}
	return stream, netip.AddrPortFrom(op.Bound.IP, op.Bound.Port)
}

// until polls for what no event tells of.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it did not come to that: %s", what)
		}
	}
}

// waiting is how many ports of a user's wait for a peer.
func (s *Server) waiting(user string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.binds[user]
}

func TestStreamBecomesTheConnectionWithThePeer(t *testing.T) {
	h := newHouse(t, nil)
	g := h.attach(h.device("anna"))
	stream, at := g.bind(onLoopback(21))
	if _, err := io.WriteString(stream, "early"); err != nil {
		t.Fatal(err)
	}
	c := peer(t, "127.0.0.1", at)
	if _, err := io.WriteString(c, "from the peer"); err != nil {
		t.Fatal(err)
	}
	c.CloseWrite()
	op := readOperation(t, stream)
	if got := netip.AddrPortFrom(op.Bound.IP, op.Bound.Port); op.Code != socks.Succeeded || got.String() != c.LocalAddr().String() {
		t.Errorf("the second reply is %+v, the peer is %s", op, c.LocalAddr())
	}
	if got, err := io.ReadAll(stream); string(got) != "from the peer" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
	stream.CloseWrite()
	if got, err := io.ReadAll(c); string(got) != "early" || err != nil {
		t.Errorf("the peer reads %q, %v", got, err)
	}
	eventually(t, "the flow's line", func() bool { return len(h.log.find(t, "flow ended")) == 1 })
	line := h.log.find(t, "flow ended")[0]
	if line["user"] != "anna" || line["up"] != 5. || line["down"] != 13. || line["code"] != 0. {
		t.Errorf("the flow's line is %v", line)
	}
	if n := h.waiting("anna"); n != 0 {
		t.Errorf("%d ports wait", n)
	}
}

func TestPortClosesWhenItsStreamIsReset(t *testing.T) {
	h := newHouse(t, nil)
	g := h.attach(h.device("anna"))
	stream, at := g.bind(onLoopback(21))
	if n := h.waiting("anna"); n != 1 {
		t.Errorf("%d ports wait", n)
	}
	began := time.Now()
	stream.Reset()
	eventually(t, "the port is closed", func() bool { return h.waiting("anna") == 0 })
	wantClosed(t, at)
	if took := time.Since(began); took > time.Second {
		t.Errorf("it took %v", took)
	}
	eventually(t, "the flow's line", func() bool { return len(h.log.find(t, "flow ended")) == 1 })
}

func TestBindThatTimesOutIsAnsweredTwice(t *testing.T) {
	h := newHouse(t, func(c *Config) {
		c.Relay = &Exit{Allow: Allow{Loopback: true}, Binds: Binds{Lifetime: 50 * time.Millisecond}}
	})
	g := h.attach(h.device("anna"))
	stream, at := g.bind(onLoopback(21))
	if op := readOperation(t, stream); op.Code != socks.TimedOut {
		t.Errorf("the second reply is %+v", op)
	}
	if n, err := stream.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("then come %d bytes, %v", n, err)
	}
	wantClosed(t, at)
	eventually(t, "the flow's line", func() bool { return len(h.log.find(t, "flow ended")) == 1 })
	if line := h.log.find(t, "flow ended")[0]; line["code"] != float64(socks.TimedOut) {
		t.Errorf("the flow's line is %v", line)
	}
}

func TestBindThatIsRefusedIsAnsweredOnce(t *testing.T) {
	h := newHouse(t, nil)
	g := h.attach(h.device("anna"))
	stream, code := g.request(socks.Bind, socks.Addr{Name: "169.254.169.254", Port: 21})
	if n, err := stream.Read(make([]byte, 1)); code != socks.NotAllowed || n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("%v, and then %d bytes, %v", code, n, err)
	}
	if n := h.waiting("anna"); n != 0 {
		t.Errorf("%d ports wait", n)
	}
}

func TestUserHasSoManyPortsAtOnce(t *testing.T) {
	h := newHouse(t, func(c *Config) { c.UserBinds = 2 })
	g := h.attach(h.device("anna"))
	other := h.attach(h.device("bob"))
	first, at := g.bind(anybody)
	g.bind(anybody)
	if _, code := g.request(socks.Bind, anybody); code != socks.GeneralFailure {
		t.Errorf("one too many: %v", code)
	}
	other.bind(anybody)
	// One that has its peer waits no more.
	peer(t, "127.0.0.1", netip.AddrPortFrom(onLoopback(0).IP, at.Port()))
	if op := readOperation(t, first); op.Code != socks.Succeeded {
		t.Fatalf("the second reply is %+v", op)
	}
	g.bind(anybody)
}

func TestPortClosesWhenItsUserIsDisabled(t *testing.T) {
	h := newHouse(t, nil)
	g := h.attach(h.device("anna"))
	_, at := g.bind(onLoopback(21))
	h.must(h.store.SetUserDisabled(t.Context(), "anna", true))
	receive(t, g.served, "the end of the session")
	eventually(t, "the port is closed", func() bool { return h.waiting("anna") == 0 })
	wantClosed(t, at)
}

func TestVisitorsPortClosesWhenHeMayNotCome(t *testing.T) {
	h := newHouse(t, nil)
	v, err := h.Visit(t.Context(), Visitor{User: "anna"})
	h.must(err)
	b, reply, err := v.Bind(t.Context(), bindFor(t, "127.0.0.1", 21))
	h.must(err)
	shared, _, err := v.Bind(t.Context(), backlog(bindFor(t, "127.0.0.1", 21), 2))
	h.must(err)
	got, more := accepting(t.Context(), b), accepting(t.Context(), shared)
	h.must(h.store.SetUserDisabled(t.Context(), "anna", true))
	for _, got := range []<-chan accepted{got, more} {
		if a := receive(t, got, "the end"); socks.CodeOf(a.err) != socks.NotAllowed {
			t.Errorf("Accept: %v", a.err)
		}
	}
	wantClosed(t, reply.Bound)
	b.Close()
	shared.Close()
	if n := h.waiting("anna"); n != 0 {
		t.Errorf("%d ports wait", n)
	}
	if _, _, err := v.Bind(t.Context(), bindFor(t, "127.0.0.1", 21)); socks.CodeOf(err) != socks.NotAllowed {
		t.Errorf("bind: %v", err)
	}
}

// share opens a port for several peers.
func (g *guest) share(dst socks.Addr) (stream *tunnel.Stream, id []byte, at socks.Addr) {
	g.t.Helper()
	stream, auth, op := g.ask(socks.Request6{Command: socks.Bind, Dst: dst, Options: socks.Options6{
		Stack:          backlog(socks.Request{}, 8).Stack,
		SessionRequest: true,
	}})
	if !auth.OK || len(auth.Options.SessionID) == 0 || op.Code != socks.Succeeded || len(op.Options.Stack) != 1 || op.Options.Stack[0].Value != 8 {
		g.t.Fatalf("bind: %+v, %+v", auth, op)
	}
	return stream, auth.Options.SessionID, op.Bound
}

func TestPortForSeveralGivesEachAStream(t *testing.T) {
	h := newHouse(t, nil)
	g := h.attach(h.device("anna"))
	port, id, at := g.share(onLoopback(21))
	for range 3 {
		c := peer(t, "127.0.0.1", netip.AddrPortFrom(at.IP, at.Port))
		stream, auth, op := g.ask(socks.Request6{Command: socks.Bind, Dst: at, Options: socks.Options6{SessionID: id}})
		if !auth.OK || !auth.Options.SessionOK || op.Code != socks.Succeeded {
			t.Fatalf("accept: %+v, %+v", auth, op)
		}
		if got := netip.AddrPortFrom(op.Bound.IP, op.Bound.Port); got.String() != c.LocalAddr().String() {
			t.Errorf("the reply has %s, the peer is %s", got, c.LocalAddr())
		}
		if _, err := io.WriteString(c, "x"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(stream, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		c.Close()
		stream.Close()
	}
	waits := g.send(socks.Request6{Command: socks.Bind, Dst: at, Options: socks.Options6{SessionID: id}})
	eventually(t, "three flows' lines", func() bool { return len(h.log.find(t, "flow ended")) == 3 })
	port.CloseWrite() // a clean end ends it, too
	auth, err := socks.ReadAuthReply6(waits)
	if err != nil || auth.Options.SessionOK == auth.Options.SessionInvalid {
		t.Errorf("accept at a port that is being closed: %+v, %v", auth, err)
	}
	if auth.OK { // the request was read before the port's end, as is likely
		if op := readOperation(t, waits); op.Code == socks.Succeeded {
			t.Errorf("accept at a port that is being closed: %+v", op)
		}
	}
	wantClosed(t, netip.AddrPortFrom(at.IP, at.Port))
	if _, auth, _ := g.ask(socks.Request6{Command: socks.Bind, Dst: at, Options: socks.Options6{SessionID: id}}); auth.OK || !auth.Options.SessionInvalid {
		t.Errorf("accept at a port that is closed: %+v", auth)
	}
	eventually(t, "the port's line", func() bool { return len(h.log.find(t, "flow ended")) == 4 })
	if n := h.waiting("anna"); n != 0 {
		t.Errorf("%d ports wait", n)
	}
}

func TestPortBelongsToItsSession(t *testing.T) {
	h := newHouse(t, nil)
	key := h.device("anna")
	_, id, at := h.attach(key).share(anybody)
	for _, other := range []*guest{h.attach(key), h.attach(h.device("bob"))} {
		if _, auth, _ := other.ask(socks.Request6{Command: socks.Bind, Dst: at, Options: socks.Options6{SessionID: id}}); auth.OK || !auth.Options.SessionInvalid {
			t.Errorf("accept at the port of another session: %+v", auth)
		}
	}
}
