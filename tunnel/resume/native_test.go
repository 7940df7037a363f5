package resume_test

import (
	"bytes"
	"context"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/adit-net/adit/tunnel/resume"
	"github.com/adit-net/adit/tunnel/tunneltest"
)

// twin is an end of a link with datagrams beside its bytes.
type twin struct {
	*tunneltest.Conn
	size    int
	in, out chan []byte
	over    chan struct{}
	close   func()

	mu   sync.Mutex
	sent [][]byte
}

func (c *twin) DatagramSize() int { return c.size }

func (c *twin) WriteDatagrams(batch [][]byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, b := range batch {
		b = bytes.Clone(b)
		c.sent = append(c.sent, b)
		c.out <- b
	}
}

func (c *twin) ReadDatagram(b []byte) (int, error) {
	select {
	case d := <-c.in:
		return copy(b, d), nil
	case <-c.over:
		return 0, net.ErrClosed
	}
}

func (c *twin) Close() error {
	c.close()
	return c.Conn.Close()
}

// past is what the end has sent past its bytes.
func (c *twin) past() [][]byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.sent)
}

func twins() (a, b *twin) {
	x, y := tunneltest.Link(tunneltest.Path{})
	up, down := make(chan []byte, 10_000), make(chan []byte, 10_000)
	a = &twin{Conn: x, size: 1300, in: down, out: up, over: make(chan struct{})}
	b = &twin{Conn: y, size: 1300, in: up, out: down, over: make(chan struct{})}
	a.close, b.close = sync.OnceFunc(func() { close(a.over) }), sync.OnceFunc(func() { close(b.over) })
	return a, b
}

// newTwins gives a pair whose carrier takes datagrams.
func newTwins(t *testing.T) (p *pair, a, b *twin) {
	p = newPair(t, resume.Config{Grace: time.Minute})
	p.drain()
	a, b = twins()
	p.couple(a, b)
	return p, a, b
}

// arrived is what has come since the last call.
func arrived(p *resume.Pipe) (got []string) {
	synctest.Wait()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for {
		b, err := receiveDatagram(ctx, p)
		if err != nil {
			return got
		}
		got = append(got, string(b))
	}
}

func TestDatagramsGoPastWhatHoldsTheBytesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, a, _ := newTwins(t)
		a.Stall(true)
		long := string(make([]byte, 1301))
		p.a.SendDatagrams([]resume.Datagram{
			{Head: []byte("sh"), Body: []byte("ort")},
			{Body: []byte("in order"), Ordered: true},
			{Body: []byte(long)},
			{Body: []byte("another")},
		})
		if got := arrived(p.b); !slices.Equal(got, []string{"short", "another"}) {
			t.Errorf("past the bytes came %.20q", got)
		}
		a.Stall(false)
		if got := arrived(p.b); !slices.Equal(got, []string{"in order", long}) {
			t.Errorf("with the bytes came %.20q", got)
		}
		if past := a.past(); string(past[0]) != "short" {
			t.Errorf("%q went past the bytes", past)
		}
	})
}

func TestDatagramsOfAnotherCarrierAreNotTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _, before := newTwins(t)
		a, b := twins()
		p.couple(a, b)
		before.in <- []byte("late")
		b.in <- nil
		sendDatagram(p.a, nil, []byte("in time"))
		if got := arrived(p.b); !slices.Equal(got, []string{"in time"}) {
			t.Errorf("%q came", got)
		}
	})
}

// The peer may have begun already.
func TestDatagramsThatComeBeforeTheirCarrierAreTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, resume.Config{Grace: time.Minute})
		a, b := twins()
		b.in <- []byte("early")
		p.couple(a, b)
		if got := arrived(p.b); !slices.Equal(got, []string{"early"}) {
			t.Errorf("%q came", got)
		}
	})
}

// TestDatagramsPastTheBytesAreNoSignOfLife cuts the bytes off, and nothing else.
func TestDatagramsPastTheBytesAreNoSignOfLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, a, _ := newTwins(t)
		a.Stall(true)
		began := time.Now()
		for state, _ := p.a.State(); state.Attached; state, _ = p.a.State() {
			sendDatagram(p.a, nil, []byte("hello"))
			sendDatagram(p.b, nil, []byte("hello"))
			time.Sleep(100 * time.Millisecond)
		}
		if took := time.Since(began); took > 30*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}
