package tunnel

// Hold lets Handle return while the stream goes on, as if it were still handled, until Release. So
// one that only waits costs no goroutine, and no context. cut takes the place of the handler's
// context: it is called when the peer resets the stream, and when the session is over, so perhaps twice. It
// does not wait, and does not use the stream itself.
func (s *Stream) Hold(cut func()) {
	s.session.running.Add(1)
	s.mu.Lock()
	s.held = true
	s.mu.Unlock()
	reset := !s.abandonWith(cut) // before the session can find it among those that are held
	if s.session.hold(s) || reset {
		cut()
	}
}

// Release ends what Hold has begun, and closes the stream as the end of Handle does. It is called once.
func (s *Stream) Release() {
	cutOff := s.session.over() || s.wasReset()
	s.session.handled(s, cutOff)
	s.session.release(s)
	s.session.running.Done()
}

// abandonWith sets what is called when the peer resets the stream. It gives false if it has
// done so already.
func (s *Stream) abandonWith(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.abandon = f
	return s.peerReset == nil
}

func (s *Stream) isHeld() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held
}

// wasReset tells whether the peer has reset the stream.
func (s *Stream) wasReset() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.peerReset != nil
}

// hold books a stream whose handler returns. It tells whether the session is over.
func (s *Session) hold(st *Stream) (over bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held == nil {
		return true
	}
	s.held[st] = struct{}{}
	return false
}

func (s *Session) release(st *Stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.held, st)
}

// cutHeld tells those who hold streams that the session is over.
func (s *Session) cutHeld() {
	s.mu.Lock()
	held := s.held
	s.held = nil
	s.mu.Unlock()
	for st := range held {
		st.mu.Lock()
		cut := st.abandon
		st.mu.Unlock()
		cut()
	}
}
