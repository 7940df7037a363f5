package tunnel

import (
	"errors"
	"math"
	"testing"
)

func TestStreamsAreOpenedWhileThereAreIDs(t *testing.T) {
	for name, test := range map[string]struct {
		client      bool
		last        uint32 // id that this end has opened so far, or 0
		next        uint32
		isExhausted bool // after that
	}{
		"the client's first": {client: true, next: 1},
		"the server's first": {next: 2},
		"the client's next":  {client: true, last: 1, next: 3},
		"the server's next":  {last: 2, next: 4},
		"the client's last":  {client: true, last: math.MaxUint32 - 4, next: math.MaxUint32 - 2, isExhausted: true},
		"the server's last":  {last: math.MaxUint32 - 5, next: math.MaxUint32 - 3, isExhausted: true},
	} {
		t.Run(name, func(t *testing.T) {
			s := New(test.client, Config{})
			s.lastOwn = test.last
			if st, err := s.begin(); err != nil || st.id != test.next {
				t.Fatalf("opened %+v, %v, want stream %d", st, err, test.next)
			}
			st, err := s.begin()
			if test.isExhausted && !errors.Is(err, ErrDraining) || !test.isExhausted && err != nil {
				t.Errorf("opened %v then, %v", st, err)
			}
			if isClosed(s.draining) != test.isExhausted {
				t.Errorf("others are sent elsewhere: %v, want %v", !test.isExhausted, test.isExhausted)
			}
		})
	}
}
