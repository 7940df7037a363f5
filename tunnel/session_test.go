package tunnel_test

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/adit-net/adit/tunnel"
	"github.com/adit-net/adit/tunnel/tunneltest"
	"go.uber.org/goleak"
	"golang.org/x/net/nettest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair runs a session over two ends of a pipe. Streams that the client opens
// arrive in accepted.
type pair struct {
	client, server *tunnel.Session
	accepted       chan *accepted
	stop           func()
}

// accepted is a stream at the server whose handler returns when it is closed.
type accepted struct {
	*tunnel.Stream
	handled context.CancelFunc
}

func (a *accepted) Close() error {
	defer a.handled()
	return a.Stream.Close()
}

func newPair(t testing.TB, a, b net.Conn, streams int) *pair {
	t.Helper()
	p := &pair{accepted: make(chan *accepted)}
	p.client = tunnel.NewSession(a, true, tunnel.Config{Streams: streams})
	p.server = tunnel.NewSession(b, false, tunnel.Config{
		Streams: streams,
		Handle: func(ctx context.Context, s *tunnel.Stream) {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			select {
			case p.accepted <- &accepted{s, cancel}:
				<-ctx.Done()
			case <-ctx.Done():
			}
		},
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{}, 2)
	for _, s := range []*tunnel.Session{p.client, p.server} {
		go func() { s.Serve(ctx); ended <- struct{}{} }()
	}
	p.stop = func() {
		cancel()
		<-ended
		<-ended
	}
	return p
}

func (p *pair) open(t testing.TB) (*tunnel.Stream, *accepted) {
	t.Helper()
	c, err := p.client.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	select {
	case s := <-p.accepted:
		return c, s
	case <-p.server.Done():
		t.Fatalf("the stream did not arrive: server %v, client %v", p.server.Err(), p.client.Err())
	case <-time.After(10 * time.Second):
		t.Fatal("the stream did not arrive")
	}
	return nil, nil
}

func tcpPair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	a, err = net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err = ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return a, b
}

func TestStreamIsAConn(t *testing.T) {
	carriers := map[string]func(t *testing.T) (a, b net.Conn){
		"memory": func(*testing.T) (net.Conn, net.Conn) { return tunneltest.Link(tunneltest.Path{}) },
		"tcp":    tcpPair,
	}
	for name, carrier := range carriers {
		t.Run(name, func(t *testing.T) {
			nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
				a, b := carrier(t)
				p := newPair(t, a, b, 0)
				c1, c2 = p.open(t)
				return c1, c2, func() { c1.Close(); c2.Close(); p.stop() }, nil
			})
		})
	}
}
