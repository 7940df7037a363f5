package tunnel

import (
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/yamux"
)

// Open opens a stream. It waits while as many are open as the session allows,
// and while the session has no carrier; the error is then [ErrDetached].
func (s *Session) Open(ctx context.Context) (*Stream, error) {
	st, err := s.OpenQuietly(ctx)
	s.out.push()
	return st, err
}

// OpenQuietly is Open for who is about to write: the peer learns of the stream together with
// what is written first.
func (s *Session) OpenQuietly(ctx context.Context) (*Stream, error) {
	select {
	case <-s.draining:
		return nil, ErrDraining
	default:
	}
	if err := s.attached(ctx); err != nil {
		return nil, err
	}
	select {
	case s.slots <- struct{}{}:
	case <-s.draining:
		return nil, ErrDraining
	case <-s.done:
		return nil, ErrSessionLost
	case <-ctx.Done():
		return nil, fmt.Errorf("open stream: %w: %w", ErrFull, context.Cause(ctx))
	}
	select {
	case <-s.started:
	case <-ctx.Done():
		s.releaseSlot()
		return nil, fmt.Errorf("open stream: %w", context.Cause(ctx))
	}
	if err := s.guard.settled(ctx); err != nil {
		s.releaseSlot()
		return nil, err
	}
	return s.openInSlot()
}

// OpenNow is OpenQuietly for who does not wait: it gives nil if that would have to, or would
// fail.
func (s *Session) OpenNow() *Stream {
	if !isClosed(s.started) || isClosed(s.draining) || !s.isAttached() || !s.guard.isSettled() {
		return nil
	}
	select {
	case s.slots <- struct{}{}:
	default:
		return nil
	}
	st, _ := s.openInSlot() // Open will say what is wrong
	return st
}

// openInSlot opens a stream for a caller who has a slot for it.
func (s *Session) openInSlot() (*Stream, error) {
	st, err := s.openNext()
	if err != nil {
		s.releaseSlot()
		if errors.Is(err, yamux.ErrStreamsExhausted) {
			s.peerDrains() // all ids are used up: others have to go elsewhere, too
			return nil, ErrDraining
		}
		return nil, ErrSessionLost
	}
	s.grantFirst(st)
	return st, nil
}

// openNext opens the stream with the next id. That the peer learns of it is up to what follows.
func (s *Session) openNext() (*Stream, error) {
	s.opening.Lock()
	defer s.opening.Unlock()
	mux, err := s.openMux()
	if err != nil {
		return nil, err
	}
	st := s.outgoing(mux)
	if st == nil {
		return nil, ErrSessionLost
	}
	s.frameLater(firstFrame(flagSYN, st.id))
	if s.over() { // the frame may not have gone out, and nothing else has
		return nil, ErrSessionLost
	}
	return st, nil
}

// openMux has yamux open a stream, or gives the one that it has opened.
func (s *Session) openMux() (*yamux.Stream, error) {
	if s.spares == nil {
		return s.mux.OpenStream()
	}
	select {
	case mux, ok := <-s.spares:
		if !ok {
			return nil, s.noSpare
		}
		return mux, nil
	case <-s.done:
		return nil, ErrSessionLost
	}
}

// keepSpares has yamux open the next stream before somebody wants it, for which goroutines
// have to wake each other twice. The peer does not know of it until it is wanted.
func (s *Session) keepSpares() {
	defer close(s.spares)
	for {
		mux, err := s.mux.OpenStream()
		if err != nil {
			s.noSpare = err
			return
		}
		select {
		case s.spares <- mux:
		case <-s.done:
			s.noSpare = ErrSessionLost
			return
		}
	}
}

func (s *Session) releaseSlot() {
	select {
	case <-s.slots:
	default: // the session is dying, and somebody else has released it
	}
}
