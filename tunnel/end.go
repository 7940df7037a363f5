package tunnel

import (
	"context"
	"errors"
	"time"
)

// How a session can end, beside errors of the pipe and a [ProtocolError].
var (
	ErrClosed   = errors.New("the session was closed")
	ErrDraining = errors.New("the peer takes no more streams in this session")
)

// ErrFull is why a stream could not be opened in time when as many were open all the while as
// [Config] allows.
var ErrFull = errors.New("all streams that the session may have are in use")

// CloseError says that the peer has ended the session, and why. The zero
// Reason is an ordinary end.
type CloseError struct{ Reason Refusal }

func (e *CloseError) Error() string {
	if e.Reason == 0 {
		return "the peer has ended the session"
	}
	return "the peer has ended the session: " + e.Reason.Error()
}

// Unwrap gives the reason as an error that errors.As can find.
func (e *CloseError) Unwrap() error {
	if e.Reason == 0 {
		return nil
	}
	return e.Reason
}

// fail ends the session for a reason; the first one counts.
func (s *Session) fail(err error) {
	s.mu.Lock()
	first := s.err == nil
	if first {
		s.err = err
		close(s.done)
		if s.sweeper != nil {
			s.sweeper.Stop()
		}
	}
	s.mu.Unlock()
	if first {
		s.out.close(errSessionOver)
		s.pipe.Close()
	}
}

func (s *Session) over() bool { return isClosed(s.done) }

// Done is closed when the session is over.
func (s *Session) Done() <-chan struct{} { return s.done }

// Draining is closed when the peer takes no more streams, though those that
// are open go on.
func (s *Session) Draining() <-chan struct{} { return s.draining }

// Err says why the session is over; nil if it is not.
func (s *Session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Drain takes no more streams from the peer and tells it so. It waits until
// no stream is left, every handler has returned and the peer has all that they
// ended with, or ctx ends: both ends of a stream may have come while its handler
// still passes on what came before.
func (s *Session) Drain(ctx context.Context) error {
	// The peer hears of it before the first of its streams is refused.
	s.control(typeDrain, 0, 0)
	s.mu.Lock()
	s.drain = true
	if s.idle == nil {
		s.idle = make(chan struct{})
	}
	idle := s.idle
	s.tellIdle()
	s.mu.Unlock()
	select {
	case <-idle:
		return s.delivered(ctx)
	case <-s.done:
		return s.Err()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// delivered waits until the peer has all that the streams ended with. If it were
// lost with a carrier, a session that is over could not send it again.
func (s *Session) delivered(ctx context.Context) error {
	if s.resumes == nil {
		return nil
	}
	for {
		s.out.flush(flushLimit)
		if err := s.resumes.Settle(ctx); err != nil || s.out.empty() {
			return err
		}
	}
}

func (s *Session) peerDrains() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !isClosed(s.draining) {
		close(s.draining)
	}
}

// flushLimit is how long the last words of a session may take to be sent.
const flushLimit = time.Second

// Fail ends the session for a reason of this end's own; the peer learns only
// that it has ended.
func (s *Session) Fail(why error) { s.fail(why) }

// Close ends the session and tells the peer why. The zero reason is an
// ordinary end.
func (s *Session) Close(reason Refusal) {
	if state, _ := s.State(); state.Attached && !s.over() {
		s.control(typeClose, 0, uint32(reason))
		s.out.flush(flushLimit)
	}
	s.fail(ErrClosed)
}
