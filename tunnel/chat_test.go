package tunnel

import "testing"

// TestTurningToBulkEndsAStreamsChatAlone has streams 1 and 3. A piece is large or small.
func TestTurningToBulkEndsAStreamsChatAlone(t *testing.T) {
	const small, large = smallFrame, smallFrame + 1
	type piece struct {
		stream uint32
		n      int
	}
	for name, test := range map[string]struct {
		pieces []piece
		chatty uint32 // the stream that chats in the end, or 0
	}{
		"a word":               {[]piece{{1, small}}, 1},
		"bulk":                 {[]piece{{1, large}, {1, large}}, 0},
		"the rest of bulk":     {[]piece{{1, large}, {1, small}}, 0},
		"a word behind a rest": {[]piece{{1, large}, {1, small}, {1, small}}, 1},
		"bulk behind a word":   {[]piece{{1, small}, {1, large}}, 0},
		"bulk beside a word":   {[]piece{{3, small}, {1, small}, {3, large}}, 1},
		"an end":               {[]piece{{1, 0}}, 0},
		"an end behind bulk":   {[]piece{{1, large}, {1, 0}, {1, small}}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			s := New(true, Config{})
			bulk := map[uint32]*bool{1: new(bool), 3: new(bool)}
			for _, p := range test.pieces {
				s.listen(p.stream, p.n, bulk[p.stream])
			}
			if got := s.chatty.Load(); got != test.chatty {
				t.Errorf("stream %d chats, want %d", got, test.chatty)
			}
		})
	}
}
