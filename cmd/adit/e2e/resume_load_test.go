//go:build linux

package e2e

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// loadConfig says what a load consists of.
type loadConfig struct {
	streams int
	least   int64         // bytes that each stream moves at least, each way
	ahead   int64         // bytes that each sender may be ahead of its receiver; 0: as many as fit on the way
	write   int           // bytes of one write; 0: 16 KiB
	pace    time.Duration // between two writes; 0: as fast as it goes
	oneWay  bool          // streams with an even number move bytes up alone, the others down
}

// load is many streams that carry random bytes both ways. After finish they end
// when each has moved its least.
type load struct {
	loadConfig
	streams  []*stream
	up, down meter // what arrives at the target, at the apps
	finished atomic.Bool
	running  sync.WaitGroup
}

// stream is a connection between an app and the target, through whatever.
type stream struct {
	app, target *net.TCPConn
	up, down    direction
}

// direction is one of a stream, with what each end has seen of it.
type direction struct {
	sent, got half
	room      chan struct{} // holds a token for each portion that is under way
	gone      chan struct{} // closed when the receiver has ended
}

type half struct {
	bytes int64
	hash  hash.Hash
	err   error // nil: it ended cleanly
	ended time.Time
	last  time.Time     // when the last bytes came
	stall time.Duration // the longest time without any, once some had come
}

const (
	loadLimit = 30 * time.Minute // of one stream
	portion   = 16 << 10
)

// dialer opens connections to a target.
type dialer func(target string, n int) ([]*net.TCPConn, error)

// startLoad opens the streams to a listener, which it closes.
func startLoad(t *testing.T, ln net.Listener, dial dialer, c loadConfig) *load {
	t.Helper()
	defer ln.Close()
	l := &load{loadConfig: c}
	for range c.streams {
		l.streams = append(l.streams, &stream{up: newDirection(c.ahead), down: newDirection(c.ahead)})
	}
	t.Cleanup(l.abort)
	if err := l.open(ln, dial); err != nil {
		t.Fatal(err)
	}
	l.up.start()
	l.down.start()
	for i, s := range l.streams {
		if even := i%2 == 0; even || !c.oneWay {
			l.running.Go(func() { l.send(&s.up, s.app, seed(i, 0)) })
			l.running.Go(func() { s.up.receive(s.target, &l.up) })
		}
		if odd := i%2 == 1; odd || !c.oneWay {
			l.running.Go(func() { l.send(&s.down, s.target, seed(i, 1)) })
			l.running.Go(func() { s.down.receive(s.app, &l.down) })
		}
	}
	return l
}

// open connects each stream's two ends. Its number goes first through it, so
// that the target knows which one it is.
func (l *load) open(ln net.Listener, dial dialer) error {
	apps, err := dial(ln.Addr().String(), len(l.streams))
	for i, c := range apps {
		l.streams[i].app = prepare(c)
	}
	if err != nil {
		return err
	}
	for i, s := range l.streams {
		if _, err := s.app.Write(binary.BigEndian.AppendUint32(nil, uint32(i))); err != nil {
			return err
		}
	}
	for range l.streams {
		accepted, err := ln.Accept()
		if err != nil {
			return err
		}
		c := prepare(accepted.(*net.TCPConn))
		var number [4]byte
		if _, err := io.ReadFull(c, number[:]); err != nil {
			return err
		}
		l.streams[binary.BigEndian.Uint32(number[:])].target = c
	}
	return nil
}

func prepare(c *net.TCPConn) *net.TCPConn {
	// An end that has failed meanwhile says so soon enough.
	_ = c.SetDeadline(time.Now().Add(loadLimit))
	return c
}

func newDirection(ahead int64) direction {
	if ahead == 0 {
		ahead = 1 << 40
	}
	return direction{
		sent: half{hash: sha256.New()},
		got:  half{hash: sha256.New()},
		room: make(chan struct{}, ahead/portion), // has no size
		gone: make(chan struct{}),
	}
}

// seed makes the bytes of each direction of each stream different.
func seed(stream, direction int) (s [32]byte) {
	binary.BigEndian.PutUint32(s[:], uint32(stream))
	s[4] = byte(direction)
	return s
}

func (l *load) send(d *direction, c *net.TCPConn, seed [32]byte) {
	defer d.sent.end()
	random := rand.NewChaCha8(seed)
	buf := make([]byte, cmp.Or(l.write, portion))
	for !l.finished.Load() || d.sent.bytes < l.least {
		select {
		case d.room <- struct{}{}:
		case <-d.gone: // and the write will fail
		}
		_, _ = random.Read(buf) // never fails
		n, err := c.Write(buf)
		d.sent.add(buf[:n])
		if err != nil {
			d.sent.err = err
			return
		}
		time.Sleep(l.pace)
	}
	d.sent.err = c.CloseWrite()
}

func (d *direction) receive(c *net.TCPConn, m *meter) {
	defer close(d.gone)
	defer d.got.end()
	buf := make([]byte, 4*portion)
	for {
		n, err := c.Read(buf)
		before := d.got.bytes
		d.got.add(buf[:n])
		m.add(n)
		for range d.got.bytes/portion - before/portion {
			<-d.room
		}
		if err == io.EOF {
			return
		}
		if err != nil {
			d.got.err = err
			return
		}
	}
}

func (h *half) end() { h.ended = time.Now() }

func (h *half) add(b []byte) {
	now := time.Now()
	if len(b) > 0 && h.bytes > 0 {
		h.stall = max(h.stall, now.Sub(h.last))
	}
	h.last = now
	h.bytes += int64(len(b))
	h.hash.Write(b)
}

// finish lets the streams end and waits for that. It tells whether they did in time.
func (l *load) finish(limit time.Duration) error {
	l.finished.Store(true)
	return l.wait(limit)
}

// wait waits for every stream to end.
func (l *load) wait(limit time.Duration) error {
	ended := make(chan struct{})
	go func() { defer close(ended); l.running.Wait() }()
	select {
	case <-ended:
		return nil
	case <-time.After(limit):
		l.abort()
		<-ended
		return fmt.Errorf("streams had not ended after %v", limit)
	}
}

// abort ends the streams, and waits for that.
func (l *load) abort() {
	for _, s := range l.streams {
		for _, c := range []*net.TCPConn{s.app, s.target} {
			if c != nil {
				_ = c.SetLinger(0) // it may be closed already
				_ = c.Close()
			}
		}
	}
	l.running.Wait()
}

// moved is how many bytes have arrived so far, at both ends.
func (l *load) moved() int64 { return l.up.total() + l.down.total() }

// checkWhole looks at each stream after its end: all that was sent must have
// arrived, and ended cleanly.
func (l *load) checkWhole(t *testing.T) {
	t.Helper()
	broken := 0
	for i, s := range l.streams {
		err := errors.Join(s.up.check("up"), s.down.check("down"))
		if err == nil {
			continue
		}
		if broken++; broken <= 3 {
			t.Errorf("stream %d: %v", i, err)
		}
	}
	if broken > 0 {
		t.Errorf("%d of %d streams are broken", broken, len(l.streams))
	}
}

// check looks at a direction that has ended.
func (d *direction) check(name string) error {
	sent, got := &d.sent, &d.got
	switch {
	case sent.err != nil || got.err != nil:
		return fmt.Errorf("%s: %d bytes sent: %v; %d bytes arrived: %v", name, sent.bytes, sent.err, got.bytes, got.err)
	case sent.bytes != got.bytes:
		return fmt.Errorf("%s: %d bytes sent, but %d arrived, and the end looks clean", name, sent.bytes, got.bytes)
	case !bytes.Equal(sent.hash.Sum(nil), got.hash.Sum(nil)):
		return fmt.Errorf("%s: of %d bytes some arrived changed", name, sent.bytes)
	}
	return nil
}

// meter counts what arrives in one direction of all streams, and remembers when
// nothing did.
type meter struct {
	mu    sync.Mutex
	bytes int64
	last  time.Time
	gaps  []gap
}

// gap is a time in which no byte arrived.
type gap struct{ from, to time.Time }

// notable is how long a gap must be to be remembered.
const notable = 5 * time.Millisecond

func (m *meter) start() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last = time.Now()
}

func (m *meter) add(n int) {
	if n == 0 {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	if now.Sub(m.last) >= notable {
		m.gaps = append(m.gaps, gap{m.last, now})
	}
	m.bytes, m.last = m.bytes+int64(n), now
}

func (m *meter) total() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.bytes
}

// longest is the longest time without a byte between two moments.
func (m *meter) longest(from, to time.Time) (d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, g := range append(m.gaps, gap{m.last, time.Now()}) {
		d = max(d, earlier(g.to, to).Sub(later(g.from, from)))
	}
	return d
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// longest is the longest time in which one of the directions stood still.
func (l *load) longest(from, to time.Time) time.Duration {
	return max(l.up.longest(from, to), l.down.longest(from, to))
}

// goodput measures for a while how many bytes arrive, a second, in both
// directions together.
func (l *load) goodput(d time.Duration) float64 {
	before, began := l.moved(), time.Now()
	time.Sleep(d)
	return float64(l.moved()-before) / time.Since(began).Seconds()
}

// askDoor asks for a connection as a SOCKS 5 client does (RFC 1928).
func askDoor(c *net.TCPConn, target string) error {
	to, err := netip.ParseAddrPort(target)
	if err != nil {
		return err
	}
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	request := slices.Concat([]byte{5, 1, 0}, []byte{5, 1, 0, 1}, to.Addr().AsSlice(), binary.BigEndian.AppendUint16(nil, to.Port()))
	if _, err := c.Write(request); err != nil {
		return err
	}
	var answer [2 + 10]byte // the method, and a reply with an IPv4 address
	if _, err := io.ReadFull(c, answer[:]); err != nil {
		return fmt.Errorf("read the door's answer: %w", err)
	}
	if answer[1] != 0 || answer[3] != 0 {
		return fmt.Errorf("the door answers %x", answer)
	}
	return c.SetDeadline(time.Time{})
}

// resets tells which ends of a stream have seen a reset. Linux tells it once,
// either to the reader or to the writer; the reader then sees an end, the writer EPIPE.
func (s *stream) resets() (app, target bool) {
	is := func(err error) bool { return errors.Is(err, unix.ECONNRESET) }
	return is(s.up.sent.err) || is(s.down.got.err), is(s.down.sent.err) || is(s.up.got.err)
}

func atTarget(t *testing.T) net.Listener {
	t.Helper()
	ln, err := targetNS.listen(net.JoinHostPort(target4, "0"))
	if err != nil {
		t.Fatal(err)
	}
	if err := ln.(*net.TCPListener).SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return ln
}
