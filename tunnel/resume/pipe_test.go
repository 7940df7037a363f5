package resume_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/adit-net/adit/tunnel/resume"
	"github.com/adit-net/adit/tunnel/tunneltest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair is two ends of a pipe and whatever carries it.
type pair struct {
	t     testing.TB
	a, b  *resume.Pipe
	epoch uint64
	last  *link
	ended sync.WaitGroup // what runs for the ends
}

func newPair(t testing.TB, cfg resume.Config) *pair {
	p := &pair{t: t, a: resume.New(cfg), b: resume.New(cfg)}
	t.Cleanup(p.close)
	return p
}

// sendDatagram sends one.
func sendDatagram(p *resume.Pipe, head, body []byte) error {
	return p.SendDatagrams([]resume.Datagram{{Head: head, Body: body}})
}

// receiveDatagram takes one, which lasts until the next call.
func receiveDatagram(ctx context.Context, p *resume.Pipe) ([]byte, error) {
	var one [1][]byte
	_, err := p.ReceiveDatagrams(ctx, one[:])
	return one[0], err
}

func (p *pair) close() {
	p.a.Close()
	p.b.Close()
	p.ended.Wait()
}

// link is one carrier of a pair, at both ends.
type link struct {
	a, b       *resume.Carrier
	conn       *tunneltest.Conn // a's
	whyA, whyB chan error       // gives why, when it is not served any more
}

// served tells why it was lost at each end; nil if it is still served.
func (l *link) served() (why [2]error) {
	for i, c := range []chan error{l.whyA, l.whyB} {
		select {
		case why[i] = <-c:
		default:
		}
	}
	return why
}

// attach connects both ends anew.
func (p *pair) attach(path tunneltest.Path) *link {
	p.t.Helper()
	a, b := tunneltest.Link(path)
	p.last = p.couple(a, b)
	p.last.conn = a
	return p.last
}

// couple connects both ends anew, by conns of the test's.
func (p *pair) couple(a, b net.Conn) *link {
	p.t.Helper()
	p.epoch++
	ra, rb := p.a.Received(), p.b.Received()
	l := new(link)
	l.b, l.whyB = p.carry(p.b, b, ra)
	l.a, l.whyA = p.carry(p.a, a, rb)
	return l
}

func (p *pair) carry(end *resume.Pipe, conn net.Conn, offset uint64) (*resume.Carrier, chan error) {
	p.t.Helper()
	c, err := end.Attach(conn, p.epoch, offset)
	if err != nil {
		p.t.Fatal(err)
	}
	why := make(chan error, 1)
	p.ended.Go(func() { why <- c.Serve(context.Background()) })
	return c, why
}

// meet lets both ends hear each other, so that either outlives its carrier.
func (p *pair) meet() {
	p.t.Helper()
	for _, end := range []*resume.Pipe{p.a, p.b} {
		if err := sendDatagram(end, nil, []byte("hello")); err != nil {
			p.t.Fatal(err)
		}
	}
	for _, end := range []*resume.Pipe{p.a, p.b} {
		if _, err := receiveDatagram(p.t.Context(), end); err != nil {
			p.t.Fatal(err)
		}
	}
}

// drain reads both ends and throws away what comes.
func (p *pair) drain() {
	p.ended.Go(func() { io.Copy(io.Discard, p.a) })
	p.ended.Go(func() { io.Copy(io.Discard, p.b) })
}

func random(n int, seed byte) []byte {
	b := make([]byte, n)
	rand.NewChaCha8(sha256.Sum256([]byte{seed})).Read(b)
	return b
}

func TestPipeLosesAndDoublesNothingWhenCarriersAreCut(t *testing.T) {
	p := newPair(t, resume.Config{Grace: time.Minute})
	up, down := random(16<<20, 1), random(16<<20, 2)
	var ends sync.WaitGroup
	send := func(to io.Writer, b []byte) {
		ends.Go(func() {
			for len(b) > 0 {
				n, err := to.Write(b[:min(len(b), 1+rand.IntN(60_000))])
				if err != nil {
					t.Error(err)
					return
				}
				b = b[n:]
			}
		})
	}
	receive := func(from io.Reader, want []byte) {
		ends.Go(func() {
			got := make([]byte, len(want))
			if _, err := io.ReadFull(from, got); err != nil || !bytes.Equal(got, want) {
				t.Errorf("received something else, or %v", err)
			}
		})
	}
	send(p.a, up)
	receive(p.b, up)
	send(p.b, down)
	receive(p.a, down)

	done := make(chan struct{})
	go func() { ends.Wait(); close(done) }()
	path := tunneltest.Path{Delay: time.Millisecond, Queue: 64 << 10}
	for cuts := 0; ; cuts++ {
		link := p.attach(path)
		if cuts == 0 {
			p.meet()
		}
		select {
		case <-done:
			if cuts == 0 {
				t.Error("the carrier was never cut")
			}
			return
		case <-time.After(time.Duration(rand.IntN(20)) * time.Millisecond):
			link.conn.Cut()
		}
	}
}
