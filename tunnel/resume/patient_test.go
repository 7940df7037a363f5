package resume_test

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/adit-net/adit/tunnel/resume"
	"github.com/adit-net/adit/tunnel/tunneltest"
)

// patientEnd is an end of a link that waits for everything that it may.
type patientEnd struct {
	*tunneltest.Conn
	in       *bufio.Reader // of it
	expected int
	waited   *atomic.Int64 // bytes that it was allowed to wait for
}

func newPatientEnd(c *tunneltest.Conn, waited *atomic.Int64) *patientEnd {
	return &patientEnd{Conn: c, in: bufio.NewReaderSize(c, 1<<20), waited: waited}
}

func (e *patientEnd) Expect(n int) { e.expected = n }

func (e *patientEnd) Read(b []byte) (int, error) {
	if _, err := e.in.Peek(max(1, e.expected)); err != nil {
		return 0, err
	}
	n, err := e.in.Read(b)
	known := min(n, e.expected)
	e.waited.Add(int64(known))
	e.expected -= known
	return n, err
}

// Were a conn told to wait for a byte more than is to come, it would wait until something else is
// said.
func TestConnIsToldToWaitForWhatIsToComeAndNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const trip = time.Millisecond
		p := newPair(t, resume.Config{Grace: time.Minute})
		var waited atomic.Int64
		attach := func() {
			a, b := tunneltest.Link(tunneltest.Path{Delay: trip / 2})
			p.couple(newPatientEnd(a, &waited), newPatientEnd(b, &waited))
			p.last = &link{conn: a}
		}
		attach()
		p.ended.Go(func() { io.Copy(io.Discard, p.a) })
		want := random(1<<20, 1)
		read := make(chan []byte, 1)
		p.ended.Go(func() {
			got := make([]byte, len(want))
			io.ReadFull(p.b, got)
			read <- got
			io.Copy(io.Discard, p.b)
		})
		time.Sleep(time.Second) // for them to hear each other
		long := bytes.Repeat([]byte{'x'}, 10_000)
		for i, sent := 0, 0; sent < len(want); i++ {
			n := min(1+i*i*50, len(want)-sent)
			p.a.Write(want[sent : sent+n])
			sent += n
			switch i % 5 {
			case 2:
				sendDatagram(p.a, nil, long)
				time.Sleep(2 * trip)
				ctx, cancel := context.WithTimeout(t.Context(), trip)
				if d, err := receiveDatagram(ctx, p.b); len(d) != len(long) {
					t.Errorf("a datagram of %d bytes has come, %v, want %d", len(d), err, len(long))
				}
				cancel()
			case 4:
				p.last.conn.Cut() // while something is under way
				attach()
			default:
				time.Sleep(2 * trip)
				if has := p.b.Received(); has != uint64(sent) {
					t.Errorf("after %d bytes %d have come", sent, has)
				}
			}
		}
		if got := <-read; !bytes.Equal(got, want) {
			t.Error("something else has come than was sent")
		}
		if waited.Load() < int64(len(want))*9/10 {
			t.Errorf("of %d bytes it was told of %d that they were to come", len(want), waited.Load())
		}
	})
}
