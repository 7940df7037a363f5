package tunnel

import "sync"

// signal tells one of those who wait that there may be something new to them. If nobody waits,
// it tells whoever does next. It costs nothing until then.
type signal struct {
	mu   sync.Mutex
	told bool          // before anybody has waited
	c    chan struct{} // nil: nobody has
}

func (s *signal) tell() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.c == nil {
		s.told = true
		return
	}
	select {
	case s.c <- struct{}{}:
	default:
	}
}

// wait gives a channel that has something to receive once it is told.
func (s *signal) wait() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.c == nil {
		s.c = make(chan struct{}, 1)
		if s.told {
			s.c <- struct{}{}
		}
	}
	return s.c
}

// latch is shut once, for good. It costs nothing until somebody waits for that.
type latch struct {
	mu     sync.Mutex
	isShut bool
	gone   chan struct{} // closed when it is shut; nil: nobody has waited
}

func (l *latch) shut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.isShut && l.gone != nil {
		close(l.gone)
	}
	l.isShut = true
}

// holds tells whether it is shut.
func (l *latch) holds() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.isShut
}

// wait gives a channel that is closed once it is shut.
func (l *latch) wait() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.gone == nil {
		l.gone = make(chan struct{})
		if l.isShut {
			close(l.gone)
		}
	}
	return l.gone
}
