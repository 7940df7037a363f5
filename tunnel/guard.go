package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// ProtocolError says what a peer did that no honest peer does. The session
// ends with it.
type ProtocolError struct{ What string }

func (e *ProtocolError) Error() string { return "the peer broke the protocol: " + e.What }

func violation(format string, args ...any) error {
	return &ProtocolError{What: fmt.Sprintf(format, args...)}
}

// guard stands between yamux and the pipe. Inbound it lets pass only whole
// frames that an honest peer may send, so that yamux can be neither flooded nor
// stalled in the middle of a frame; it keeps the books of which stream is in which state, which
// yamux does not tell; and it takes out the frames that are meant for itself, and the
// payload, which goes to the streams past yamux. Outbound it fills the outbox.
//
// yamux calls Read from one goroutine and Write from another.
type guard struct {
	s      *Session
	pipe   io.ReadWriteCloser
	source io.Reader // pipe, for who has sent what is to be sent before it waits

	// Read's own state.
	in   inbox
	next []byte // what yamux reads next
	head header

	mu      sync.Mutex
	dropped []header      // frames that have yamux forget streams
	fewer   chan struct{} // closed when there are fewer; nil while nobody waits
}

// maxDropped is how many streams yamux may have to forget before Open waits. It
// learns of them only when a frame arrives, and none does while the carrier
// stands still.
const maxDropped = 256

// Read gives yamux its next bytes.
func (g *guard) Read(p []byte) (int, error) {
	for len(g.next) == 0 {
		if err := g.advance(); err != nil {
			g.s.fail(err)
			return 0, err
		}
	}
	n := copy(p, g.next)
	g.next = g.next[n:]
	return n, nil
}

// advance handles one frame. If yamux is to see it, next is set.
func (g *guard) advance() error {
	if h, ok := g.takeDropped(); ok {
		g.give(h)
		return nil
	}
	h, body, err := g.in.frame(g.source)
	if err != nil {
		return err
	}
	switch h.version() {
	case yamuxVersion:
		return g.judge(h, body)
	case guardVersion:
		return g.obey(h)
	}
	return violation("frame version %d", h.version())
}

func (g *guard) give(h header) {
	g.head = h
	g.next = g.head[:]
}

// forget drops a stream that has been reset here. yamux can be told only when
// the next frame arrives, and keeps what it holds of the stream until then.
func (g *guard) forget(st *Stream) {
	if !g.s.remove(st.id) {
		return
	}
	h := st.forgotten(0)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.dropped = append(g.dropped, h)
}

// end puts the end of this end's direction into the outbox. It is the frame that yamux would
// write, and yamux is not told: it forgets the stream when both directions have ended.
func (g *guard) end(st *Stream) error {
	h := makeHeader(yamuxVersion, typeWindow, flagFIN, st.id, 0)
	if err := g.s.out.put(h[:]); err != nil {
		g.s.fail(err)
		return err
	}
	g.s.out.push()
	st.sentEnd()
	if g.s.settle(st) && !g.forgetEnded(st) {
		st.mux.Load().Close() // yamux knows of the peer's end
	}
	return nil
}

// forgetEnded is forget for a stream that has left the table. It gives false if yamux has many to
// forget already: Open must not have to wait for the peer because of these. Of those that yamux has not
// handed over yet there are no more than arrivals.
func (g *guard) forgetEnded(st *Stream) bool {
	h := st.forgotten(0)
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.dropped) >= maxDropped/2 && st.mux.Load() != nil {
		return false
	}
	g.dropped = append(g.dropped, h)
	return true
}

func (g *guard) takeDropped() (h header, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.dropped) == 0 {
		g.dropped = nil
		return h, false
	}
	h = g.dropped[0]
	g.dropped = g.dropped[1:]
	if g.fewer != nil && len(g.dropped) < maxDropped {
		close(g.fewer)
		g.fewer = nil
	}
	return h, true
}

// isSettled tells whether yamux has few enough streams to forget, and settled waits for that.
func (g *guard) isSettled() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.dropped) < maxDropped
}

func (g *guard) settled(ctx context.Context) error {
	for {
		g.mu.Lock()
		if len(g.dropped) < maxDropped {
			g.mu.Unlock()
			return nil
		}
		if g.fewer == nil {
			g.fewer = make(chan struct{})
		}
		fewer := g.fewer
		g.mu.Unlock()
		select {
		case <-fewer:
		case <-g.s.done:
			return ErrSessionLost
		case <-ctx.Done():
			return fmt.Errorf("open stream: %w", context.Cause(ctx))
		}
	}
}

// judge decides on a frame of yamux's.
func (g *guard) judge(h header, body []byte) error {
	id, flags := h.stream(), h.flags()
	if h.kind() != typeData && h.kind() != typeWindow {
		return violation("yamux frame of type %d", h.kind())
	}
	if flags&^(flagSYN|flagACK|flagFIN) != 0 || h.kind() == typeData && flags != 0 {
		return violation("flags %#x on a frame of type %d", flags, h.kind())
	}
	if flags&flagSYN != 0 {
		ok, err := g.s.incoming(h)
		if ok {
			g.give(h)
		}
		return err
	}
	st := g.s.lookup(id)
	if st == nil {
		return g.s.stray(id)
	}
	pass, err := st.receive(h)
	if err != nil || !pass {
		return err
	}
	if h.kind() == typeData {
		// yamux would copy it twice, and wake its reader for every frame.
		g.s.received.Add(int64(len(body)))
		st.deliver(body)
		g.s.giveWay(len(body))
		return g.widen(st, len(body))
	}
	if flags&flagFIN != 0 && g.s.settle(st) {
		h = st.forgotten(flags) // yamux does not know of this end's
	}
	g.give(h)
	return nil
}

// widen raises the window of a peer's yamux by what it has sent, as this end's would if it saw the
// payload. A peer whose yamux sends no payload either does not need it.
func (g *guard) widen(st *Stream, n int) error {
	if st.muxOwed += uint32(n); st.muxOwed < muxWindow/2 {
		return nil
	}
	h := makeHeader(yamuxVersion, typeWindow, 0, st.id, st.muxOwed)
	st.muxOwed = 0
	return g.s.out.put(h[:])
}

// obey carries out a frame of the guard's own.
func (g *guard) obey(h header) error {
	s, st := g.s, g.s.lookup(h.stream())
	switch h.kind() {
	case typeCredit:
		if st != nil && !st.send.add(int64(h.value())) {
			return violation("credit without bound")
		}
		if st != nil && h.value() > firstWindow {
			s.sweepLater()
		}
	case typeRelease:
		if st != nil && !st.recv.release(int64(h.value())) {
			return violation("release of credit that was never granted")
		}
	case typeReset:
		if st != nil {
			g.reset(st, resetCode(h.value()))
		}
	case typePing:
		if !s.pings.allow(1, time.Now()) {
			return violation("ping flood")
		}
		s.controlLater(typePong, 0, h.value())
	case typePong:
		s.rtt.pong(h.value(), time.Now())
	case typeDrain:
		s.peerDrains()
	case typeClose:
		return &CloseError{Reason: Refusal(h.value())}
	default:
		return violation("frame of type %d", h.kind())
	}
	return nil
}

// reset ends a stream that the peer has reset, and has yamux forget it.
func (g *guard) reset(st *Stream, code resetCode) {
	err := ErrReset
	if code == resetRefused {
		err = ErrRefused
	}
	st.resetByPeer(err)
	if g.s.remove(st.id) {
		g.give(st.forgotten(0))
	}
}

// attentive reads from the pipe. What is due to the peer goes out before that, because it
// may take long.
type attentive struct {
	pipe io.Reader
	out  *outbox
}

func (a attentive) Read(p []byte) (int, error) {
	a.out.push()
	return a.pipe.Read(p)
}

// Write takes yamux's frames, one at a time. They say that streams begin, are accepted and end,
// and the peer has that from the session, or gets it when it is so: see firstFrame and end. Data
// goes past yamux, too.
func (g *guard) Write(p []byte) (int, error) {
	if h := header(p); h.kind() != typeWindow {
		return 0, violation("yamux frame of type %d, from here", h.kind())
	}
	return len(p), nil
}

// firstFrame is what yamux says first of a stream: with flagSYN that it begins, with flagACK that it
// is accepted.
func firstFrame(flag uint16, id uint32) header {
	return makeHeader(yamuxVersion, typeWindow, flag, id, muxWindow-firstWindow)
}

// Close is how yamux ends the session.
func (g *guard) Close() error {
	g.s.out.close(errSessionOver)
	return g.pipe.Close()
}

var errSessionOver = errors.New("the session is over")

// Sizes of the inbox's buffer, in bytes: one for a session with little to
// do, and one that holds several whole frames.
const (
	inboxSmall = 4 << 10
	inboxLarge = 64 << 10
)

var inboxes = sync.Pool{New: func() any {
	b := make([]byte, inboxLarge)
	return &b
}}

// inbox reads frames from the pipe.
type inbox struct {
	small [inboxSmall]byte
	large *[]byte // from inboxes, or nil
	buf   []byte  // small or large
	r, w  int
	busy  bool // the last read was as large as the small buffer
}

// frame gives the next frame. Its payload is valid until the next call.
func (b *inbox) frame(pipe io.Reader) (h header, body []byte, err error) {
	if err := b.need(pipe, headerSize); err != nil {
		return h, nil, err
	}
	copy(h[:], b.buf[b.r:])
	size := headerSize
	if h.isData() {
		if h.value() == 0 || h.value() > maxFrameData {
			return h, nil, violation("data frame of %d bytes", h.value())
		}
		size += int(h.value())
	}
	if err := b.need(pipe, size); err != nil {
		return h, nil, err
	}
	from, to := b.r+headerSize, b.r+size
	b.r += size
	if h.isData() && size > headerSize+smallFrame {
		to = b.join(&h, to)
	}
	return h, b.buf[from:to], nil
}

// join moves the payload of the stream's data frames that follow, as far as they are there, behind
// that of the first, which ends at to: they become one. Small ones stay as they are: by them
// is known who chats, and the other end goes by the same.
func (b *inbox) join(first *header, to int) int {
	for b.w-b.r >= headerSize {
		h := header(b.buf[b.r:])
		size := int(h.value())
		if h.prefix() != first.prefix() || size <= smallFrame || size > maxFrameData || b.w-b.r-headerSize < size {
			break
		}
		from := b.r + headerSize
		to += copy(b.buf[to:], b.buf[from:from+size])
		first.setValue(first.value() + h.value())
		b.r = from + size
	}
	return to
}

// need reads until n bytes are there.
func (b *inbox) need(pipe io.Reader, n int) error {
	for b.w-b.r < n {
		b.makeRoom(n)
		k, err := pipe.Read(b.buf[b.w:])
		b.w += k
		b.busy = k >= inboxSmall
		if err != nil && b.w-b.r < n {
			if err == io.EOF && b.w > b.r {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return nil
}

// makeRoom sees to it that n bytes from r on fit and that there is room to
// read into. An idle session keeps the small buffer only.
func (b *inbox) makeRoom(n int) {
	if b.r == b.w {
		b.r, b.w = 0, 0
		if b.busy {
			b.grow()
		} else {
			b.shrink()
		}
	}
	if n > len(b.buf) {
		b.grow()
	}
	if b.r+n > len(b.buf) || b.w == len(b.buf) {
		b.w = copy(b.buf, b.buf[b.r:b.w])
		b.r = 0
	}
}

func (b *inbox) grow() {
	if b.large != nil {
		return
	}
	b.large = inboxes.Get().(*[]byte)
	b.w = copy(*b.large, b.buf[b.r:b.w])
	b.r, b.buf = 0, *b.large
}

// shrink must be called only while nothing is buffered.
func (b *inbox) shrink() {
	b.buf = b.small[:]
	if b.large != nil {
		inboxes.Put(b.large)
		b.large = nil
	}
}
