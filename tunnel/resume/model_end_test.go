package resume_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/adit-net/adit/tunnel/resume"
)

// end is one end of the pipe, and who uses it.
type end struct {
	*resume.Pipe
	s        *schedule
	name     string
	grace    time.Duration // the shortest that it has ever had
	out, in  []byte        // what it writes, and what it is to read
	wrote    atomic.Int64
	read     atomic.Int64
	readErr  error
	writeErr error
	wire     *wire          // the last that it was attached to
	done     sync.WaitGroup // reader and writer
	at       time.Time      // when its reader ended
	since    time.Time      // and since when it had been without a carrier
}

// ends waits until an end is over, for so long at most.
func (e *end) ends(limit time.Duration) bool {
	late := time.NewTimer(limit)
	defer late.Stop()
	select {
	case <-e.Over():
		return true
	case <-late.C:
		return false
	}
}

// over tells whether an end is over.
func (e *end) over() bool {
	state, _ := e.State()
	return state.Err != nil
}

// begin lets somebody write and read.
func (e *end) begin() {
	e.done.Add(2)
	writes, reads := rand.New(rand.NewPCG(e.s.Uint64(), 1)), rand.New(rand.NewPCG(e.s.Uint64(), 2))
	e.s.going.Go(func() { e.write(writes); e.done.Done() })
	e.s.going.Go(func() { e.take(reads); e.done.Done() })
	if e.s.chat {
		e.s.going.Go(e.listen)
	}
}

func (e *end) write(r *rand.Rand) {
	for off := 0; off < len(e.out); {
		size := 1 + r.IntN(300)
		if r.IntN(4) == 0 {
			size = 1 + r.IntN(100_000)
		}
		size = min(size, len(e.out)-off)
		n, err := e.put(e.out[off:off+size], r.IntN(2) == 0)
		off += n
		e.wrote.Store(int64(off))
		if err != nil || n < size {
			e.writeErr = err
			if err == nil {
				e.s.fail("the %s wrote %d bytes of %d", e.name, n, size)
			}
			return
		}
		if r.IntN(8) == 0 {
			time.Sleep(time.Duration(r.IntN(400)) * time.Millisecond)
		}
	}
}

// put writes b, if it fits and is to be handed over in a buffer of the pipe's.
func (e *end) put(b []byte, hand bool) (int, error) {
	buffer := resume.NewBuffer()
	if !hand || len(*buffer)+len(b) > cap(*buffer) {
		resume.FreeBuffer(buffer)
		return e.Write(b)
	}
	n := len(b)
	more := n%4 == 0
	if more {
		n /= 2
	}
	*buffer = append(*buffer, b[:n]...)
	if n%2 != 0 || !e.TryWriteBuffer(buffer, more) {
		if err := e.WriteBuffer(buffer); err != nil {
			return 0, err
		}
	}
	if !more {
		return n, nil
	}
	k, err := e.put(b[n:], hand)
	return n + k, err
}

func (e *end) take(r *rand.Rand) {
	b := make([]byte, 1<<(1+r.IntN(12)))
	if len(e.in) > 100_000 {
		b = make([]byte, 32<<10)
	}
	for at := 0; ; {
		n, err := e.Read(b)
		if at+n > len(e.in) || !bytes.Equal(b[:n], e.in[at:at+n]) {
			e.s.fail("the %s read something else at %d", e.name, at)
			return
		}
		at += n
		e.read.Store(int64(at))
		if err != nil {
			e.readErr = err
			state, _ := e.State()
			e.at, e.since = time.Now(), state.Since
			e.s.note("over", e.name, err)
			return
		}
		if n == 0 {
			e.s.fail("the %s read nothing", e.name)
			return
		}
		if e.s.lazy && r.IntN(50) == 0 {
			time.Sleep(time.Duration(r.IntN(1000)) * time.Millisecond)
		}
	}
}

// datagrams sends some.
func (s *schedule) datagrams() {
	for _, e := range s.ends {
		for range s.IntN(4) {
			b := make([]byte, 8+s.IntN(2000))
			s.epoch++ // so that each has a number of its own
			binary.BigEndian.PutUint64(b, s.epoch)
			for i := 8; i < len(b); i++ {
				b[i] = b[7] + byte(i)
			}
			sendDatagram(e.Pipe, b[:3], b[3:])
		}
	}
}

// listen takes datagrams: each comes once at most, whole, and none before an
// earlier one.
func (e *end) listen() {
	for last := uint64(0); ; {
		b, err := receiveDatagram(context.Background(), e.Pipe)
		if err != nil {
			return
		}
		number := binary.BigEndian.Uint64(b)
		for i := 8; i < len(b); i++ {
			if b[i] != b[7]+byte(i) {
				e.s.fail("the %s got a datagram that was not sent", e.name)
				return
			}
		}
		if number <= last {
			e.s.fail("the %s got datagram %d after %d", e.name, number, last)
		}
		last = number
	}
}

// judge is about how it all ended for an end.
func (e *end) judge() {
	e.done.Wait()
	var breach resume.Breach
	switch {
	case e.readErr == nil:
		e.s.fail("the %s's reader ended without an error", e.name)
	case errors.Is(e.readErr, io.EOF) || errors.Is(e.readErr, io.ErrUnexpectedEOF):
		e.s.fail("the %s's loss looks like an end", e.name)
	case errors.As(e.readErr, &breach):
		e.s.fail("the %s: %v", e.name, e.readErr)
	case errors.Is(e.readErr, resume.ErrGrace) && e.s.met && e.at.Sub(e.since) < e.grace:
		e.s.fail("the %s waited only %v", e.name, e.at.Sub(e.since))
	case errors.Is(e.readErr, resume.ErrEvicted) && e.s.bound == 0:
		e.s.fail("the %s was given up without need", e.name)
	case errors.Is(e.readErr, resume.PeerClosed{}) && !e.s.closed:
		e.s.fail("the %s was closed by nobody", e.name)
	}
	if int(e.wrote.Load()) < len(e.out) && e.writeErr == nil {
		e.s.fail("the %s's writer ended without an error", e.name)
	}
}
