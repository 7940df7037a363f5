package tunnel

import (
	"bytes"
	"testing"
)

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

// TestSeveralWhoChatAreACrowd has streams 1 and 3.
func TestSeveralWhoChatAreACrowd(t *testing.T) {
	const word, bulk = smallFrame, smallFrame + 1
	type piece struct {
		stream uint32
		n      int
	}
	for name, test := range map[string]struct {
		pieces []piece
		crowd  bool
	}{
		"a word":                {[]piece{{1, word}}, false},
		"one":                   {[]piece{{1, word}, {1, word}}, false},
		"a download":            {[]piece{{1, word}, {1, bulk}}, false},
		"two":                   {[]piece{{1, word}, {1, word}, {3, word}}, true},
		"the other has stopped": {[]piece{{1, word}, {3, word}, {3, word}}, false},
		"one turns to bulk":     {[]piece{{1, word}, {3, word}, {3, bulk}}, false},
		"one beside bulk":       {[]piece{{1, word}, {1, word}, {3, bulk}, {1, word}}, false},
		"two beside bulk":       {[]piece{{1, word}, {3, word}, {5, bulk}}, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := New(true, Config{})
			turned := map[uint32]*bool{1: new(bool), 3: new(bool), 5: new(bool)}
			for _, p := range test.pieces {
				s.listen(p.stream, p.n, turned[p.stream])
			}
			if got := s.out.crowd.Load(); got != test.crowd {
				t.Errorf("a crowd: %v, want %v", got, test.crowd)
			}
		})
	}
}

// TestWordsThatComeTogetherAreStillChat has the guard read frames that are there already.
func TestWordsThatComeTogetherAreStillChat(t *testing.T) {
	const small, large = smallFrame, smallFrame + 1
	for name, test := range map[string]struct {
		sizes  []int
		frames int
		chatty uint32
	}{
		"words":               {[]int{small, small, small}, 3, 1},
		"bulk":                {[]int{large, large}, 1, 0},
		"bulk and its rest":   {[]int{large, large, small}, 2, 0},
		"words behind a rest": {[]int{large, small, small}, 3, 1},
	} {
		t.Run(name, func(t *testing.T) {
			s := New(true, Config{})
			s.add(1)
			var in bytes.Buffer
			for _, n := range test.sizes {
				h := makeHeader(yamuxVersion, typeData, 0, 1, uint32(n))
				in.Write(append(h[:], make([]byte, n)...))
			}
			s.guard.source = &in
			frames := 0
			for s.guard.advance() == nil {
				frames++
			}
			if got := s.chatty.Load(); got != test.chatty || frames != test.frames {
				t.Errorf("stream %d chats after %d frames, want %d after %d", got, frames, test.chatty, test.frames)
			}
		})
	}
}
