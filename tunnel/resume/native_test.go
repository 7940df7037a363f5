package resume_test

import (
	"bytes"
	"context"
	"fmt"
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

// newTwins gives a pair whose carrier takes datagrams at both ends, as both know.
func newTwins(t *testing.T) (p *pair, a, b *twin) {
	p = newPair(t, resume.Config{Grace: time.Minute})
	p.drain()
	a, b = twins()
	p.couple(a, b)
	synctest.Wait()
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
		long := string(make([]byte, 1300))
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
		if n := len(a.past()[0]); n != 4+len("short") {
			t.Errorf("the first had %d bytes", n)
		}
	})
}

func TestDatagramsOfAnotherCarrierAreNotTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, a, _ := newTwins(t)
		sendDatagram(p.a, nil, []byte("first"))
		if got := arrived(p.b); len(got) != 1 {
			t.Fatalf("%q came", got)
		}
		late := a.past()[0]

		// The same pipe's next carrier, and another pipe's.
		a, b := twins()
		p.couple(a, b)
		other, _, d := newTwins(t)
		for _, in := range []chan []byte{b.in, d.in} {
			in <- late
			in <- late[:4]
			in <- late[:3]
			in <- nil
			in <- []byte("\x00\x00\x00\x00made up")
		}
		if x, y := arrived(p.b), arrived(other.b); len(x)+len(y) > 0 {
			t.Errorf("%q and %q came", x, y)
		}
		sendDatagram(p.a, nil, []byte("second"))
		if got := arrived(p.b); !slices.Equal(got, []string{"second"}) {
			t.Errorf("%q came", got)
		}
	})
}

func TestDatagramsGoWithTheBytesIfOneEndCannotElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, resume.Config{Grace: time.Minute})
		p.drain()
		a, b := twins()
		p.couple(a, b.Conn)
		synctest.Wait()
		for n, end := range []*resume.Pipe{p.a, p.b} {
			text := fmt.Sprint("from end ", n)
			sendDatagram(end, nil, []byte(text))
			if got := arrived([]*resume.Pipe{p.b, p.a}[n]); !slices.Equal(got, []string{text}) {
				t.Errorf("%q came", got)
			}
		}
		if len(a.past()) > 0 {
			t.Errorf("% x went past the bytes", a.past())
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
