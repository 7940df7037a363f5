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

// guard takes what the peer sends. It lets only whole frames count, and only those that an honest
// peer may send; it carries them out, and gives payload to the streams.
type guard struct {
	s       *Session
	arrived func(*Stream) // handles a stream that the peer has opened, and does not wait for that
	source  io.Reader     // the pipe, for who has sent what is to be sent before it waits
	in      inbox

	mu    sync.Mutex
	given int           // streams that this end has given up since the peer was heard last
	heard chan struct{} // closed when it is; nil while nobody waits
}

// maxGivenUp is how many streams this end may give up before Open waits until the peer is heard: while
// the carrier stands still, what it is told of them piles up.
const maxGivenUp = 256

// run takes frames until there are no more, and says why.
func (g *guard) run() error {
	for {
		if err := g.advance(); err != nil {
			return err
		}
	}
}

// advance handles one frame.
func (g *guard) advance() error {
	h, body, err := g.in.frame(g.source)
	if err != nil {
		return err
	}
	g.hear()
	switch h.version() {
	case yamuxVersion:
		return g.judge(h, body)
	case guardVersion:
		return g.obey(h)
	}
	return violation("frame version %d", h.version())
}

// gaveUp notes that this end has reset a stream.
func (g *guard) gaveUp() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.given++
}

// hear notes that the peer is heard.
func (g *guard) hear() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.given = 0
	if g.heard != nil {
		close(g.heard)
		g.heard = nil
	}
}

// isHeard tells whether the peer has been heard since too many streams were given up, and
// awaitPeer waits for that.
func (g *guard) isHeard() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.given < maxGivenUp
}

func (g *guard) awaitPeer(ctx context.Context) error {
	for {
		g.mu.Lock()
		if g.given < maxGivenUp {
			g.mu.Unlock()
			return nil
		}
		if g.heard == nil {
			g.heard = make(chan struct{})
		}
		heard := g.heard
		g.mu.Unlock()
		select {
		case <-heard:
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
		st, err := g.s.incoming(h)
		if err == nil && st != nil {
			g.arrived(st)
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
		g.s.received.Add(int64(len(body)))
		st.deliver(body)
		g.s.giveWay(len(body))
		return g.widen(st, len(body))
	}
	if flags&flagFIN != 0 {
		g.s.settle(st)
	}
	return nil
}

// widen raises the window of a peer's yamux by what it has sent. A peer who does not go by that does
// not need it.
func (g *guard) widen(st *Stream, n int) error {
	if st.muxOwed += uint32(n); st.muxOwed < muxWindow/2 {
		return nil
	}
	more := st.muxOwed
	st.muxOwed = 0
	return g.s.out.putWindow(st.id, 0, more)
}

// obey carries out a frame of adit's own.
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

// reset ends a stream that the peer has reset.
func (g *guard) reset(st *Stream, code resetCode) {
	err := ErrReset
	if code == resetRefused {
		err = ErrRefused
	}
	st.resetByPeer(err)
	g.s.remove(st.id)
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
