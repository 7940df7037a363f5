package sniff

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"
)

// show shows a stream its two directions, each in pieces of at most n bytes.
func show(s *Stream, up, down string, n int) (v Verdict) {
	for ; up != ""; up = up[min(n, len(up)):] {
		v = s.Up([]byte(up[:min(n, len(up))]))
	}
	for ; down != ""; down = down[min(n, len(down)):] {
		v = s.Down([]byte(down[:min(n, len(down))]))
	}
	return v
}

func (v Verdict) withoutMore() Verdict { v.More = false; return v }

func TestStreamsAreRecognised(t *testing.T) {
	for _, c := range streamVectors {
		t.Run(c.name, func(t *testing.T) {
			if got := show(new(Stream), c.up, c.down, 1<<20).withoutMore(); got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestPiecesOfAnySizeGiveTheSameVerdict(t *testing.T) {
	for _, c := range streamVectors {
		want := show(new(Stream), c.up, c.down, 1<<20)
		for n := range 40 {
			if got := show(new(Stream), c.up, c.down, n+1); got != want {
				t.Errorf("%s in pieces of %d: got %+v, want %+v", c.name, n+1, got, want)
			}
		}
		for at := range c.up {
			s := new(Stream)
			s.Up([]byte(c.up[:at]))
			if got := show(s, c.up[at:], c.down, 1<<20); got != want {
				t.Errorf("%s cut at %d: got %+v, want %+v", c.name, at, got, want)
			}
		}
	}
}

// asked gives what each test says of bytes that came as a whole.
func asked(tests []test, b []byte) (answers []answer) {
	h := head{b: b}
	h.scan()
	for _, t := range tests {
		answers = append(answers, t(h))
	}
	return answers
}

func TestNoOtherTestTakesAVectorForItsOwn(t *testing.T) {
	for _, c := range streamVectors {
		for _, side := range []struct {
			name  string
			tests []test
			b     string
		}{{"up", upTests[:], c.up}, {"down", downTests[:], c.down}} {
			count := 0
			for _, a := range asked(side.tests, []byte(side.b)) {
				if a.grade >= known {
					count++
				}
			}
			if count > 1 {
				t.Errorf("%s, %s: %d tests take it for theirs", c.name, side.name, count)
			}
		}
	}
}

// heedsRules fails if a test takes back what it said of a beginning, asks for
// what is there already, or would be asked for every single byte.
func heedsRules(t *testing.T, tests []test, b []byte) {
	t.Helper()
	for i, ask := range tests {
		h, last, next, calls := head{}, answer{grade: perhaps}, 0, 0
		for n := 1; n <= len(b) && n <= limit; n++ {
			h.b = b[:n]
			if !h.scan() && n < next {
				continue
			}
			a := ask(h)
			calls++
			switch {
			case last.grade == never && a.grade != never, last.grade == sure && a != last, last.grade == known && a.grade < known:
				t.Fatalf("test %d takes back %+v for %+v at %d of %q", i, last, a, n, b)
			case (a.grade == perhaps || a.grade == likely || a.grade == known) && a.need <= n:
				t.Fatalf("test %d asks for %d of %d bytes of %q", i, a.need, n, b)
			}
			last, next = a, a.need
			if a.grade == never || a.grade == sure {
				next = n + 97 // look again, but not at every byte
			}
		}
		if calls > 700+2*bytes.Count(b, []byte("\n")) {
			t.Errorf("test %d was asked %d times about %d bytes", i, calls, len(b))
		}
	}
}

func TestTestsHeedTheirRules(t *testing.T) {
	for _, c := range streamVectors {
		heedsRules(t, upTests[:], []byte(c.up+"and more\r\n\r\n"))
		heedsRules(t, downTests[:], []byte(c.down+"and more\r\n\r\n"))
	}
}

func TestRandomBytesAreUnknown(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	known := 0
	for range 20_000 {
		b := make([]byte, 64+r.IntN(512))
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		s := new(Stream)
		s.Up(b)
		if v := s.Expire(); v.Protocol != Unknown {
			known++
		}
	}
	if known > 2 {
		t.Errorf("%d of 20000 random beginnings are taken for a protocol", known)
	}
}

func FuzzStream(f *testing.F) {
	for _, c := range streamVectors {
		f.Add([]byte(c.up), []byte(c.down), uint8(3))
	}
	f.Add([]byte("SSH-0000a0000000\n"), []byte("SSH-0"), uint8(1))
	f.Add([]byte("NICK bob\r\nUSER bob 0 *@\x00"), []byte(nil), uint8(3))
	f.Fuzz(func(t *testing.T, up, down []byte, size uint8) {
		whole := show(new(Stream), string(up), string(down), 1<<20)
		s := new(Stream)
		if got := show(s, string(up), string(down), int(size)+1); got != whole {
			t.Errorf("in pieces of %d: %+v, as a whole: %+v", int(size)+1, got, whole)
		}
		held := cap(s.up.b) + cap(s.down.b) + cap(s.turn.tail) + cap(s.turn.answer.b)
		if held > 4*helloLimit {
			t.Errorf("%d bytes are held", held)
		}
		if whole.Certain && s.Expire().Protocol != whole.Protocol {
			t.Error("the end of time changes what was certain")
		}
	})
}

func FuzzTests(f *testing.F) {
	for _, c := range streamVectors {
		f.Add([]byte(c.up))
		f.Add([]byte(c.down))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		heedsRules(t, upTests[:], b)
		heedsRules(t, downTests[:], b)
	})
}

func TestEverySignatureIsFoundByItsFirstByte(t *testing.T) {
	for _, s := range signs {
		b := []byte(strings.ReplaceAll(s.magic, "?", "\x00"))
		if a := signature(head{b: b}); s.magic[0] == '?' || a.grade != sure || a.protocol != s.protocol {
			t.Errorf("%q: %+v", s.magic, a)
		}
		if a, all := signature(head{b: b[:len(b)-1]}), oneOf(signs[:], b[:len(b)-1]); a != all {
			t.Errorf("%q without its end: %+v, and among all %+v", s.magic, a, all)
		}
	}
}
