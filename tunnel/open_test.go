package tunnel

import (
	"testing"

	"github.com/hashicorp/yamux"

	"github.com/adit-net/adit/tunnel/tunneltest"
)

// TestNoStreamIsOpenedOnceTheSessionIsOver has it end when yamux has opened a stream that nobody
// has taken yet.
func TestNoStreamIsOpenedOnceTheSessionIsOver(t *testing.T) {
	near, far := tunneltest.Link(tunneltest.Path{})
	s, stop := clientOf(t, near, far)
	mux := <-s.spares
	stop()
	s.spares = make(chan *yamux.Stream, 1)
	s.spares <- mux
	for len(s.spares) > 0 {
		if st, err := s.openInSlot(); st != nil || err != ErrSessionLost {
			t.Errorf("there is a stream: %v, and the error is %v", st != nil, err)
		}
	}
	if n := s.Stats().Streams; n != 0 {
		t.Errorf("%d streams are left", n)
	}
}
