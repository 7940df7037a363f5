package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/term"
)

// resizePeriod is how soon a terminal of another size is filled. There is no signal for that on every
// system.
const resizePeriod = 200 * time.Millisecond

// showTop shows frames on a terminal until its user wants no more, and leaves it as it was.
func showTop(ctx context.Context, e env, in *os.File, v *topView, o topOptions, looks <-chan look) (err error) {
	leave, err := enterTerminal(e.stdout, in)
	if err != nil {
		return err
	}
	defer leave()
	keys := make(chan []byte)
	// Nothing can break a read from a terminal: it ends with the process.
	go readKeys(ctx, in, keys)
	resize := time.NewTicker(resizePeriod)
	defer resize.Stop()
	s := topState{}
	t := topTerminal{out: e.stdout, size: e.terminalSize}
	for n := 0; ; {
		if err := t.draw(v, &s); err != nil {
			return err
		}
		select {
		case l := <-looks:
			if n++; s.paused {
				break
			}
			if v.failed = l.err; l.err == nil {
				v.take(l.report)
			}
		case b := <-keys:
			for len(b) > 0 && !s.quit {
				var k key
				k, b = nextKey(b)
				v.press(k, &s)
			}
		case <-resize.C:
			if !t.resized() {
				continue
			}
		case <-ctx.Done():
			return nil
		}
		if s.quit || o.count > 0 && n == o.count {
			return nil
		}
	}
}

// topTerminal is what frames are drawn on.
type topTerminal struct {
	out           io.Writer
	size          func() (width, height int)
	width, height int // of the last frame
}

func (t *topTerminal) resized() bool {
	width, height := t.size()
	return width != t.width || height != t.height
}

func (t *topTerminal) draw(v *topView, s *topState) error {
	t.width, t.height = t.size()
	s.page = max(1, t.height-topHead-topFoot)
	_, err := t.out.Write(frame(v.draw(t.width, t.height, *s)))
	return err
}

// readKeys passes on what a terminal sends.
func readKeys(ctx context.Context, in io.Reader, keys chan<- []byte) {
	for {
		b := make([]byte, 256)
		n, err := in.Read(b)
		if err != nil {
			b, n = []byte{byte(keyInterrupt)}, 1 // nobody is there any more
		}
		select {
		case keys <- b[:n]:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

// enterTerminal makes a terminal one for frames and keys. leave undoes that.
func enterTerminal(out io.Writer, in *os.File) (leave func(), err error) {
	before, err := term.MakeRaw(int(in.Fd()))
	if err != nil {
		return nil, fmt.Errorf("use the terminal: %w", err)
	}
	plain := showEscapes()
	leave = func() {
		// Whatever fails here, there is nothing left to try.
		_, _ = io.WriteString(out, leaveScreen)
		plain()
		_ = term.Restore(int(in.Fd()), before)
	}
	if _, err := io.WriteString(out, enterScreen); err != nil {
		leave()
		return nil, err
	}
	return leave, nil
}
