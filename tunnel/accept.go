package tunnel

import "context"

// accept takes from yamux the streams that the peer has opened, which are being handled already:
// the guard has counted them.
func (s *Session) accept() {
	for {
		mux, err := s.mux.AcceptStream()
		if err != nil {
			return
		}
		<-s.arrive
		s.join(mux)
	}
}

// handle serves a stream that the peer has opened, and accepts it in yamux's stead. That goes out
// with what comes next.
func (s *Session) handle(st *Stream) {
	ctx, cancel := context.WithCancel(s.handlers)
	defer cancel()
	s.frameLater(firstFrame(flagACK, st.id))
	if st.abandonWith(cancel) {
		s.grantFirst(st)
		s.cfg.Handle(ctx, st)
	}
	if !st.isHeld() {
		s.handled(st, ctx.Err() != nil) // the handler may have been cut off in the middle
	}
}

func (s *Session) handled(st *Stream, cutOff bool) {
	if cutOff {
		st.Reset()
	} else {
		st.Close()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handling--
	s.tellIdle()
}
