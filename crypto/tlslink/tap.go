package tlslink

import (
	"crypto/tls"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// tap is a connection as the HTTP/2 server sees it: everything goes through,
// until an opening has been judged genuine. Then the HTTP/2 server reads the
// end, and nothing that it does reaches the connection any more.
//
// As a *tls.Conn is embedded, the HTTP/2 server finds out about TLS as usual.
type tap struct {
	*tls.Conn
	judge func(opening []byte) bool // called at most once, in Read

	// The HTTP/2 server reads from one goroutine at a time.
	watching bool
	seen     []byte

	turn chan struct{} // a lock that is full while judge runs
	over bool          // judge must not run any more; guarded by turn

	writing sync.Mutex // a takeover waits for a Write under way
	taken   atomic.Bool
}

func newTap(c *tls.Conn, judge func([]byte) bool) *tap {
	return &tap{Conn: c, judge: judge, watching: true, turn: make(chan struct{}, 1)}
}

func (t *tap) Read(p []byte) (int, error) {
	if t.taken.Load() {
		return 0, io.EOF
	}
	if !t.watching || len(p) == 0 {
		return t.Conn.Read(p)
	}
	// Read no further than to where the next decision falls: what comes after
	// an opening is for the session, if it is genuine.
	more, _ := scan(t.seen)
	n, err := t.Conn.Read(p[:min(len(p), more)])
	t.seen = append(t.seen, p[:n]...)
	more, opening := scan(t.seen)
	if more > 0 {
		return n, err
	}
	t.watching, t.seen = false, nil
	if opening != nil && t.judged(opening) {
		t.writing.Lock()
		t.taken.Store(true)
		t.writing.Unlock()
		return 0, io.EOF
	}
	return n, err
}

func (t *tap) judged(opening []byte) bool {
	t.turn <- struct{}{}
	defer func() { <-t.turn }()
	return !t.over && t.judge(opening)
}

// end waits for a judgement under way, and allows no later one. The HTTP/2
// server may be done with the connection before its reader is.
func (t *tap) end() {
	t.turn <- struct{}{}
	t.over = true
	<-t.turn
}

func (t *tap) Write(p []byte) (int, error) {
	t.writing.Lock()
	defer t.writing.Unlock()
	if t.taken.Load() {
		return len(p), nil
	}
	return t.Conn.Write(p)
}

// Close and the deadlines do not lock: they are there to free a Write that is
// stuck. The HTTP/2 server could call them just while the connection is being taken.
// Then the carrier fails, and the client makes another.

func (t *tap) Close() error {
	if t.taken.Load() {
		return nil
	}
	return t.Conn.Close()
}

func (t *tap) SetDeadline(d time.Time) error {
	if t.taken.Load() {
		return nil
	}
	return t.Conn.SetDeadline(d)
}

func (t *tap) SetReadDeadline(d time.Time) error {
	if t.taken.Load() {
		return nil
	}
	return t.Conn.SetReadDeadline(d)
}

func (t *tap) SetWriteDeadline(d time.Time) error {
	if t.taken.Load() {
		return nil
	}
	return t.Conn.SetWriteDeadline(d)
}
