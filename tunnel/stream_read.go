package tunnel

import (
	"io"
	"net"
	"os"
	"time"
)

// Read reads what the peer has written. It gives io.EOF after the peer's last
// byte if the peer has ended its direction, and only then.
func (s *Stream) Read(p []byte) (int, error) {
	for {
		if err := s.mayRead(); err != nil {
			return 0, err
		}
		end := s.readEnd() // before the last byte, which comes before it
		if n := s.unread.take(p); n > 0 {
			s.grant(n, s.session.control)
			return n, nil
		}
		if len(p) == 0 {
			return 0, nil
		}
		if end != nil {
			s.recv.close()
			s.unread.tell() // others wait, too
			return 0, end
		}
		s.await()
	}
}

// WaitRead waits until Read has something to give: bytes, the end or an
// error. It needs no buffer.
func (s *Stream) WaitRead() error {
	for {
		if err := s.mayRead(); err != nil {
			return err
		}
		if s.readEnd() != nil || s.unread.any() {
			s.unread.tell() // others wait, too
			return nil
		}
		s.await()
	}
}

// await waits until there may be something new to who reads.
func (s *Stream) await() {
	select {
	case <-s.unread.moved.wait():
	case <-s.readLimit.waitIfSet():
	}
}

// Await has f called, once and soon, when Read has something to give: bytes, the end or
// an error. It gives false, and does not call f, if it has that already. f does not wait,
// and does not use the stream itself. Nobody else reads meanwhile, and no deadline ends it.
//
// If take is not nil, it is offered what comes meanwhile, in the goroutine that receives for
// the whole session. It does not wait, and tells how much it takes; Read gives the rest, and f is
// called if there is any. Withdraw ends the offer.
func (s *Stream) Await(take func(b []byte) int, f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.gone || s.peerEnded || s.peerReset != nil || s.recv.unread() {
		return false
	}
	s.awaiting = f
	s.unread.offer(take)
	return true
}

// wake tells whoever awaits something to read that there is. The caller holds mu.
func (s *Stream) wake() {
	if f := s.awaiting; f != nil {
		s.awaiting = nil
		f()
	}
}

// Withdraw ends what Await has offered: take is not called any more when it returns.
func (s *Stream) Withdraw() { s.unread.withdraw() }

func (s *Stream) mayRead() error {
	s.mu.Lock()
	closed := s.closed
	s.mu.Unlock()
	switch {
	case closed:
		s.unread.tell()
		return net.ErrClosed
	case s.readLimit.passed():
		s.unread.tell()
		return os.ErrDeadlineExceeded
	}
	return nil
}

// readEnd tells how the peer's direction has ended, or nil.
func (s *Stream) readEnd() error {
	over := s.session.over()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.peerReset != nil && !s.peerEnded:
		return s.peerReset
	case s.peerEnded:
		return io.EOF
	case over:
		return ErrSessionLost
	}
	return nil
}

// grant tells the sender by control that n bytes more have been read.
func (s *Stream) grant(n int, control func(kind byte, id, value uint32)) {
	now := time.Now()
	s.moved.Store(now.UnixNano())
	if more := s.recv.consume(int64(n), now, s.session.rtt.get()); more > 0 {
		s.session.rtt.refresh(s.session)
		control(typeCredit, s.id, uint32(more))
	}
}

// deliver takes payload that the peer was granted.
func (s *Stream) deliver(b []byte) {
	n := s.unread.add(b)
	if n > 0 {
		s.grant(n, s.session.controlLater)
	}
	if n < len(b) {
		s.mu.Lock()
		if s.recv.unread() { // else it has been read, and whoever did awaits what is next
			s.wake()
		}
		s.mu.Unlock()
	}
}
