package tlslink

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// record is the largest plaintext of one TLS record (RFC 8446 section 5.1),
	// and overhead what TLS 1.3 adds to it: header, content type and tag.
	record   = 16 << 10
	overhead = 5 + 1 + 16

	// burst is how many bytes of plaintext reach the kernel by one system
	// call. Larger bursts gained nothing measurable over loopback.
	burst = 4 * record

	// outSize holds the records of one burst, and a few small ones that TLS
	// itself may send between.
	outSize = 4*(record+overhead) + 1<<10

	// inSize is how many bytes are read from the kernel at once.
	inSize = 64 << 10

	// fruitless is how many bytes may come in without a byte of plaintext among
	// them. A record is 16 KiB, and 64 KiB are read at once.
	fruitless = 128 << 10
)

// Connections share their buffers: an idle one holds none.
var (
	outBuffers = sync.Pool{New: func() any { return new([outSize]byte) }}
	inBuffers  = sync.Pool{New: func() any { return new([inSize]byte) }}
)

// errCut tells a connection that was cut from one that was ended.
// crypto/tls takes a bare io.EOF between two records for an end, but the end is what
// a close_notify alert says (RFC 8446 section 6.1).
var errCut = fmt.Errorf("connection ended without close_notify: %w", io.ErrUnexpectedEOF)

// errFruitless ends a connection whose peer keeps us busy with records that
// carry nothing, such as endless KeyUpdates. crypto/tls counts those itself; the
// fork of it does not.
var errFruitless = errors.New("too many bytes without data")

// errNotYet ends a Read that must not wait. TLS takes it for a time-out, and goes on where it
// was with the next one.
var errNotYet net.Error = notYet{}

type notYet struct{}

func (notYet) Error() string   { return "nothing has been read ahead" }
func (notYet) Timeout() bool   { return true }
func (notYet) Temporary() bool { return true }

// wire is the connection below TLS. Until quicken is called it passes
// everything straight on. After that it gathers the records of one
// Write in one system call, and reads many records by one.
//
// No time-out ever reaches TLS from Write, because TLS could not go on after
// it: records that did not get out in time are kept, and go first when there is time
// again.
type wire struct {
	net.Conn
	vigil   *vigil // nil where there is nothing to look after
	closed  atomic.Bool
	writeBy atomic.Pointer[time.Time]

	quick bool

	// What is read ahead. TLS reads from one goroutine at a time.
	poll    syscall.RawConn    // nil where readiness cannot be waited for
	tryRead func(uintptr) bool // readReady, made once
	reader  socketReader
	in      *[inSize]byte // nil when everything in it has been given away
	inFrom  int
	inTo    int
	inErr   error
	hasty   bool         // Read must not wait
	barren  atomic.Int64 // bytes read since the last plaintext

	// What is still to be written.
	mu       sync.Mutex // guards what follows, and orders writes on Conn
	corked   bool
	out      *[outSize]byte // nil when empty
	outFrom  int
	outTo    int
	outErr   error
	outNow   bool               // writeReady must not wait
	tryWrite func(uintptr) bool // writeReady, made once
}

// quicken begins gathering and reading ahead. Neither Read nor Write may be
// under way.
func (w *wire) quicken() {
	w.quick = true
	w.poll = pollable(w.Conn)
	w.tryRead, w.tryWrite = w.readReady, w.writeReady
}

func (w *wire) Read(p []byte) (int, error) {
	w.vigil.stir()
	if !w.quick {
		return w.Conn.Read(p)
	}
	if w.in == nil {
		if w.hasty {
			return 0, errNotYet
		}
		if err := w.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, w.in[w.inFrom:w.inTo])
	if w.inFrom += n; w.inFrom == w.inTo {
		inBuffers.Put(w.in)
		w.in = nil
	}
	return n, nil
}

// fill reads at least one byte ahead. Where it can, it takes a buffer only
// when there is something to put into it.
func (w *wire) fill() error {
	w.inFrom, w.inTo, w.inErr = 0, 0, nil
	if w.poll == nil {
		w.in = inBuffers.Get().(*[inSize]byte)
		w.inTo, w.inErr = w.Conn.Read(w.in[:])
	} else {
		if err := w.poll.Read(w.tryRead); err != nil {
			w.inErr = err
		}
	}
	if w.inTo > 0 && w.barren.Add(int64(w.inTo)) < fruitless {
		return nil
	}
	if w.in != nil {
		inBuffers.Put(w.in)
		w.in = nil
	}
	switch {
	case w.inTo > 0:
		return errFruitless
	case w.inErr == io.EOF:
		return errCut
	}
	return w.inErr
}

func (w *wire) Write(p []byte) (int, error) {
	w.vigil.stir()
	if !w.quick {
		return w.Conn.Write(p)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.outTo+len(p) > outSize {
		if err := w.flush(); err != nil {
			return 0, err
		}
	}
	if len(p) > outSize {
		return w.Conn.Write(p)
	}
	if w.out == nil {
		w.out = outBuffers.Get().(*[outSize]byte)
	}
	w.outTo += copy(w.out[w.outTo:], p)
	if w.corked {
		return len(p), nil
	}
	if err := w.flush(); err != nil && !isTimeout(err) {
		return 0, err
	}
	return len(p), nil
}

// cork makes Write gather, once what a time-out has left behind is out. It
// fails before anything new is gathered if the write deadline has passed.
func (w *wire) cork() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if by := w.writeBy.Load(); by != nil && !by.IsZero() && !time.Now().Before(*by) {
		return os.ErrDeadlineExceeded
	}
	if err := w.flush(); err != nil {
		return err
	}
	w.corked = true
	return nil
}

// uncork writes what has been gathered.
func (w *wire) uncork() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.corked = false
	return w.flush()
}

// uncorkNow is uncork without waiting, and tells whether something is left in out.
func (w *wire) uncorkNow() (left bool, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.corked, w.outNow = false, true
	err = w.flush()
	w.outNow = false
	return w.out != nil, err
}

// flush writes what is in out, and keeps what cannot be written. The caller holds mu.
func (w *wire) flush() error {
	if w.out == nil {
		return nil
	}
	n, err := w.send()
	if w.outTo = copy(w.out[:], w.out[n:w.outTo]); w.outTo == 0 {
		outBuffers.Put(w.out)
		w.out = nil
	}
	return err
}

// send writes what is in out, and tells how much of it.
func (w *wire) send() (int, error) {
	if w.poll == nil {
		return w.Conn.Write(w.out[:w.outTo])
	}
	w.outFrom, w.outErr = 0, nil
	if err := w.poll.Write(w.tryWrite); err != nil {
		return w.outFrom, err
	}
	return w.outFrom, w.outErr
}

func (w *wire) SetDeadline(t time.Time) error {
	w.writeBy.Store(&t)
	return w.Conn.SetDeadline(t)
}

func (w *wire) SetWriteDeadline(t time.Time) error {
	w.writeBy.Store(&t)
	return w.Conn.SetWriteDeadline(t)
}

// Close closes the connection below, once.
func (w *wire) Close() error {
	if w.closed.Swap(true) {
		return net.ErrClosed
	}
	w.vigil.end()
	return w.Conn.Close()
}
