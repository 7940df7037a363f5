package tunnel

import (
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/yamux"
)

// closeLinger is how long a stream that was closed while the peer could still
// send waits for the peer's end, as a TCP connection in FIN-WAIT-2 does.
const closeLinger = time.Minute

// resetError is how a broken stream shows. It equals [syscall.ECONNRESET] to
// errors.Is, because that is what it means.
type resetError string

func (e resetError) Error() string        { return string(e) }
func (e resetError) Is(target error) bool { return target == syscall.ECONNRESET }

// How a stream ends when it does not end cleanly.
const (
	ErrReset       resetError = "stream reset by the peer"
	ErrRefused     resetError = "stream refused by the peer"
	ErrSessionLost resetError = "the session is lost"
)

var errStreamDead = errors.New("stream is dead")

// Stream is one reliable two-way byte channel in a session. It is a
// [relay.Conn]: each direction ends by itself, and a clean end, a reset and the loss of
// the session are told apart. Methods are safe for concurrent use.
type Stream struct {
	session *Session
	id      uint32
	mux     atomic.Pointer[yamux.Stream] // nil while yamux has not handed it over

	recv   recvWindow
	unread unread
	send   sendCredit

	writing     sync.Mutex // one Write at a time
	bulkOut     bool       // the last Write was none of chat; under writing
	readLimit   deadline
	writeLimit  deadline
	noMoreWrite latch // shut when Write must stop

	muxWindow atomic.Int64 // what yamux believes it may send
	muxOwed   uint32       // what the peer has sent since its yamux was last let send more; only the guard's reading goroutine touches it
	moved     atomic.Int64 // when bytes moved last, or the stream began, in Unix nanoseconds

	mu         sync.Mutex
	bulkIn     bool  // the peer's last frame was none of chat
	ended      bool  // our direction has its end, or is about to get it
	endSent    bool  // the end is in the outbox
	acked      bool  // the peer has accepted the stream
	peerEnded  bool  // the peer's direction has its end
	closed     bool  // by Close or Reset: nobody reads any more
	localReset bool  // by us
	peerReset  error // by the peer, and how
	gone       bool  // out of the session's table
	linger     *time.Timer
	abandon    func() // tells who handles it that the peer has reset it; nil if there is none
	held       bool   // the handler has returned, or may, and the stream goes on
	awaiting   func() // called once there is something to read; nil: nobody waits so
}

func newStream(s *Session, id uint32) *Stream {
	st := &Stream{session: s, id: id}
	st.send.limit = minWindow
	st.muxWindow.Store(firstWindow) // as yamux's specification has it
	st.moved.Store(time.Now().UnixNano())
	return st
}

// ID is the stream's number, by which both ends know it.
func (s *Stream) ID() uint32 { return s.id }

// Write sends p in turn with other streams. It blocks while the peer's reader is too far behind or the pipe is full.
func (s *Stream) Write(p []byte) (n int, err error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.session.listen(s.id, len(p), &s.bulkOut)
	for len(p) > 0 {
		k, err := s.writeSome(p)
		n += k
		if err != nil {
			return n, err
		}
		p = p[k:]
		s.session.giveWay(k)
	}
	return n, nil
}

func (s *Stream) writeSome(p []byte) (int, error) {
	if err := s.mayWrite(); err != nil {
		return 0, err
	}
	credit, err := s.waitCredit(min(len(p), outboxDouble))
	if err != nil {
		return 0, err
	}
	out := s.session.out
	k, err := out.reserve(credit, credit > outboxTurn && !s.session.chatting(), &s.writeLimit, &s.noMoreWrite)
	if k < credit {
		s.send.giveBack(credit - k)
	}
	if err != nil {
		return 0, s.writeError(err)
	}
	if err := out.putData(s.id, p[:k]); err != nil {
		return 0, s.writeError(err)
	}
	s.muxWindow.Add(-int64(k))
	s.session.sent.Add(int64(k))
	s.moved.Store(time.Now().UnixNano())
	return k, nil
}

func (s *Stream) mayWrite() error {
	if s.noMoreWrite.holds() {
		return s.writeError(errStreamDead)
	}
	if s.writeLimit.passed() {
		return os.ErrDeadlineExceeded
	}
	return nil
}

// waitCredit waits until at least one byte may be sent and takes up to n.
func (s *Stream) waitCredit(n int) (int, error) {
	for {
		if k := s.send.take(n); k > 0 {
			return k, nil
		}
		select {
		case <-s.send.more.wait():
		case <-s.writeLimit.wait():
			return 0, os.ErrDeadlineExceeded
		case <-s.noMoreWrite.wait():
			return 0, s.writeError(errStreamDead)
		}
	}
}

// writeError tells what an error below means to the caller of Write.
func (s *Stream) writeError(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.peerReset != nil:
		return s.peerReset
	case s.closed || s.ended:
		return net.ErrClosed
	}
	return ErrSessionLost
}

// CloseWrite ends our direction: the peer reads io.EOF after the last byte.
func (s *Stream) CloseWrite() error {
	s.mu.Lock()
	reset, done := s.peerReset, s.ended || s.localReset
	s.ended = true
	s.mu.Unlock()
	if done {
		return reset
	}
	s.stopWriting()
	s.writing.Lock()
	defer s.writing.Unlock()
	if reset != nil {
		return reset
	}
	if err := s.session.guard.end(s); err != nil || s.session.over() {
		return ErrSessionLost
	}
	return nil
}

// Close ends our direction, if that has not been done, and reads no more. If
// the peer has sent bytes that nobody has read, or sends some later, it is told by a reset,
// as TCP does it.
func (s *Stream) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	if s.recv.unread() && s.peerReset == nil {
		s.mu.Unlock()
		return s.Reset()
	}
	s.closed = true
	s.wake()
	if !s.peerEnded && s.peerReset == nil && !s.gone {
		s.linger = time.AfterFunc(closeLinger, func() { s.reset(resetByPeer) })
	}
	s.mu.Unlock()

	s.stopReading()
	s.CloseWrite() // it fails only if the stream is broken, and then it is closed too
	return nil
}

// Reset ends both directions at once: the peer's Read and Write fail with
// [ErrReset].
func (s *Stream) Reset() error {
	s.reset(resetByPeer)
	return nil
}

func (s *Stream) reset(code resetCode) {
	s.mu.Lock()
	again := s.localReset
	known := s.peerReset == nil && !s.gone // to the peer
	s.closed, s.localReset = true, true
	s.wake()
	s.mu.Unlock()
	if again {
		return
	}
	s.stopWriting()
	s.stopReading()
	if known {
		s.session.control(typeReset, s.id, uint32(code))
		s.session.guard.forget(s)
	}
}

// stopWriting wakes a Write that waits.
func (s *Stream) stopWriting() { s.noMoreWrite.shut() }

// stopReading wakes a Read that waits, and gives up what nobody will read.
func (s *Stream) stopReading() {
	s.recv.close()
	s.unread.clear()
	s.unread.tell()
}

// resetByPeer notes that the peer has reset the stream.
func (s *Stream) resetByPeer(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.peerReset = err
	s.stopWriting()
	if s.abandon != nil {
		s.abandon()
	}
	s.unread.tell()
	s.wake()
}

// receive books one of yamux's frames. pass tells whether it goes on, to yamux or whoever reads.
func (s *Stream) receive(h header) (pass bool, err error) {
	s.mu.Lock()
	if s.gone { // meanwhile: yamux is about to hear so
		s.mu.Unlock()
		return false, nil
	}
	if h.flags()&flagACK != 0 {
		if s.acked || s.session.peers(s.id) {
			err = violation("acknowledgement of a stream that waits for none")
		}
		s.acked = true
	}
	switch {
	case err != nil:
	case s.peerEnded && (h.kind() == typeData || h.flags()&flagFIN != 0):
		err = violation("frame of type %d after the end", h.kind())
	case h.kind() == typeData && !s.recv.receive(int64(h.value())):
		err = violation("more data than was granted")
	case h.kind() == typeWindow && s.muxWindow.Add(int64(h.value())) > maxCredit:
		err = violation("window overflow")
	}
	if h.kind() == typeData {
		s.session.listen(s.id, int(h.value()), &s.bulkIn)
	}
	s.peerEnded = s.peerEnded || h.flags()&flagFIN != 0
	unwanted := s.closed && h.kind() == typeData
	pass = err == nil && !unwanted
	if h.flags()&flagFIN != 0 {
		s.unread.tell()
		s.wake()
	}
	s.mu.Unlock()
	if unwanted && err == nil {
		s.reset(resetByPeer)
	}
	return pass, err
}

// sentEnd notes that the end of our direction is on its way.
func (s *Stream) sentEnd() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endSent = true
}

// forgotten is the frame that has yamux forget the stream, which has left the table, instead of one with
// these flags. It accepts the stream, too, if the peer has not: of those yamux would keep a note for ever.
func (s *Stream) forgotten(flags uint16) header {
	s.mu.Lock()
	defer s.mu.Unlock()
	flags &= flagACK
	if !s.acked && !s.session.peers(s.id) {
		flags |= flagACK
	}
	return makeHeader(yamuxVersion, typeWindow, flags|flagRST, s.id, 0)
}

// settled tells whether both directions have their ends.
func (s *Stream) settled() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.endSent && s.peerEnded
}

// leave notes that the session does not know the stream any more.
func (s *Stream) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone = true
	s.wake()
	if s.linger != nil {
		s.linger.Stop()
	}
}

// LocalAddr is the session's, as far as the pipe has one.
func (s *Stream) LocalAddr() net.Addr { return s.session.localAddr() }

// RemoteAddr is the session's, as far as the pipe has one.
func (s *Stream) RemoteAddr() net.Addr { return s.session.remoteAddr() }

// SetDeadline sets both deadlines. A deadline that has passed can be set anew
// and the stream goes on.
func (s *Stream) SetDeadline(t time.Time) error {
	s.SetWriteDeadline(t)
	return s.SetReadDeadline(t)
}

// SetReadDeadline bounds Read, the one that waits included.
func (s *Stream) SetReadDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	s.readLimit.set(t)
	s.unread.tell()
	return nil
}

// SetWriteDeadline bounds Write, the one that waits included.
func (s *Stream) SetWriteDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	s.writeLimit.set(t)
	return nil
}
