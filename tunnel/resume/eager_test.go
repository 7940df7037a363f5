package resume_test

import (
	"bytes"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/adit-net/adit/tunnel/resume"
	"github.com/adit-net/adit/tunnel/tunneltest"
)

// eagerLink is an end of a link that takes everything without waiting.
type eagerLink struct {
	*tunneltest.Conn
	pairs *int // writes of two frames
}

func (e eagerLink) WriteNow(b, more []byte) (left bool, err error) {
	if len(more) > 0 {
		*e.pairs++
	}
	_, err = e.Write(append(bytes.Clone(b), more...))
	return false, err
}

func (e eagerLink) Flush() error { return nil }

func TestWhatMoreFollowsGoesOutWithIt(t *testing.T) {
	for name, test := range map[string]struct {
		second func(p *resume.Pipe, b *[]byte)
		size   int
		pairs  int
	}{
		"without waiting":  {func(p *resume.Pipe, b *[]byte) { p.TryWriteBuffer(b, false) }, 32 << 10, 1},
		"too much at once": {func(p *resume.Pipe, b *[]byte) { p.TryWriteBuffer(b, false) }, 40 << 10, 0},
		"waiting":          {func(p *resume.Pipe, b *[]byte) { p.WriteBuffer(b) }, 32 << 10, 0},
		"copied":           {func(p *resume.Pipe, b *[]byte) { p.Write((*b)[resume.Headroom:]) }, 32 << 10, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t, resume.Config{Grace: time.Minute})
				a, b := tunneltest.Link(tunneltest.Path{})
				pairs := 0
				p.couple(eagerLink{a, &pairs}, b)
				p.last = &link{conn: a}
				size := test.size - 100
				want := random(2*size, 1)
				got := make([]byte, len(want))
				p.ended.Go(func() { io.Copy(io.Discard, p.a) })
				read := make(chan error, 1)
				p.ended.Go(func() {
					_, err := io.ReadFull(p.b, got)
					read <- err
					io.Copy(io.Discard, p.b)
				})
				synctest.Wait() // they know each other then, and have nothing to say
				first, second := resume.NewBuffer(), resume.NewBuffer()
				*first, *second = append(*first, want[:size]...), append(*second, want[size:]...)
				if !p.a.TryWriteBuffer(first, true) {
					t.Fatal("an idle pipe does not take a frame at once")
				}
				test.second(p.a, second)
				select {
				case err := <-read:
					if err != nil || !bytes.Equal(got, want) {
						t.Error("something else has come:", err)
					}
				case <-time.After(time.Minute):
					t.Error("not everything has come")
				}
				if pairs != test.pairs {
					t.Errorf("%d writes of two frames, want %d", pairs, test.pairs)
				}
			})
		})
	}
}
