package tunnel

import (
	"time"

	"github.com/hashicorp/yamux"
)

// join notes which of yamux's streams one that the peer has opened belongs to.
func (s *Session) join(mux *yamux.Stream) {
	s.mu.Lock()
	st := s.arrived[mux.StreamID()]
	delete(s.arrived, st.id)
	s.mu.Unlock()
	st.mux.Store(mux)
}

// grantFirst makes a stream's first grant. That goes out with the request or the answer, unless
// the peer seems to need it before.
func (s *Session) grantFirst(st *Stream) {
	if more := st.recv.size - minWindow; more > 0 {
		s.controlLater(typeCredit, st.id, uint32(more))
	}
	if st.recv.got() >= minWindow/2 {
		s.out.push() // else it goes out when more has come
	}
}

// peers tells whether a stream id is one of the peer's. The client's are odd.
func (s *Session) peers(id uint32) bool { return (id%2 == 1) != s.client }

// incoming decides on a stream that the peer opens. Not ok and no error means
// that yamux is not to know of it.
func (s *Session) incoming(h header) (ok bool, err error) {
	id := h.stream()
	switch {
	case h.flags() != flagSYN:
		return false, violation("flags %#x on a new stream", h.flags())
	case s.cfg.Handle == nil:
		return false, violation("stream towards a side that takes none")
	case id == 0 || !s.peers(id):
		return false, violation("new stream with the wrong id %d", id)
	case h.value() > maxCredit:
		return false, violation("window overflow")
	}
	st, err := s.admit(id)
	if st == nil {
		s.control(typeReset, id, uint32(resetRefused))
		return false, err
	}
	st.muxWindow.Add(int64(h.value()))
	select {
	case s.arrive <- struct{}{}:
		s.running.Go(func() { s.handle(st) })
		return true, nil
	case <-s.done:
		return false, ErrSessionLost
	}
}

// admit books a stream that the peer opens, or gives nil.
func (s *Session) admit(id uint32) (*Stream, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case id <= s.lastPeer:
		return nil, violation("new stream with the old id %d", id)
	case s.drain:
		s.lastPeer = id
		return nil, nil
	case s.handling >= s.cfg.Streams+s.cfg.Streams/8+16:
		// A little more than the peer's own count, which is ahead of ours by a moment.
		s.lastPeer = id
		return nil, s.strike()
	}
	s.lastPeer = id
	s.handling++
	st := s.add(id)
	s.arrived[id] = st
	return st, nil
}

// outgoing books a stream that we open, or gives nil if the session is over: breakStreams may
// have been there already.
func (s *Session) outgoing(mux *yamux.Stream) *Stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return nil
	}
	s.lastOwn = mux.StreamID()
	st := s.add(s.lastOwn)
	st.mux.Store(mux)
	return st
}

func (s *Session) add(id uint32) *Stream {
	st := newStream(s, id)
	st.recv.open(&s.budget, time.Now())
	s.streams[id] = st
	return st
}

func (s *Session) lookup(id uint32) *Stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.streams[id]
}

// stray decides on a frame for a stream that is not in the table. It may have been there.
func (s *Session) stray(id uint32) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := s.lastOwn
	if s.peers(id) {
		last = s.lastPeer
	}
	if id == 0 || id > last {
		return violation("frame for stream %d, which was never opened", id)
	}
	return nil
}

// settle removes a stream whose both directions have ended, and tells whether it has.
func (s *Session) settle(st *Stream) bool { return st.settled() && s.remove(st.id) }

// remove takes a stream out of the table, and tells whether it was there.
func (s *Session) remove(id uint32) bool {
	s.mu.Lock()
	st := s.streams[id]
	if st == nil {
		s.mu.Unlock()
		return false
	}
	delete(s.streams, id)
	s.tellIdle()
	var err error
	if s.peers(id) && st.recv.got() == 0 {
		// Opened for nothing: whoever does this all the time wants us to work.
		err = s.strike()
	}
	s.mu.Unlock()

	st.leave()
	if !s.peers(id) {
		s.releaseSlot()
	}
	if err != nil {
		s.fail(err)
	}
	return true
}

// Strike notes that the peer has made this end work for nothing. An honest
// peer does so now and then; the session of one that does it all the time ends.
func (s *Session) Strike() {
	s.mu.Lock()
	err := s.strike()
	s.mu.Unlock()
	if err != nil {
		s.fail(err)
	}
}

func (s *Session) strike() error {
	if s.strikes.allow(1, time.Now()) {
		return nil
	}
	return violation("too much work for nothing")
}

// breakStreams wakes everybody who waits for a stream of a session that is
// over. Those who read get what had come before.
func (s *Session) breakStreams() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range s.streams {
		st.stopWriting()
		st.unread.tell()
		st.leave()
	}
	clear(s.streams)
	if s.idle != nil {
		close(s.idle)
		s.idle = nil
	}
}

// tellIdle tells those who wait in Drain, if it is so. The caller holds mu.
func (s *Session) tellIdle() {
	if len(s.streams) == 0 && s.handling == 0 && s.idle != nil {
		close(s.idle)
		s.idle = nil
	}
}
