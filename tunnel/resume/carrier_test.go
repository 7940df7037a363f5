package resume_test

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/adit-net/adit/tunnel/resume"
	"github.com/adit-net/adit/tunnel/tunneltest"
)

// TestReplacedCarrierIsClosedThoughItsPipeReadsOn is about the peer, who may know
// by nothing else that there is a later carrier.
func TestReplacedCarrierIsClosedThoughItsPipeReadsOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, resume.Config{Grace: time.Minute})
		p.drain()
		first := p.attach(tunneltest.Path{})
		synctest.Wait()
		p.attach(tunneltest.Path{})
		synctest.Wait()
		for _, s := range first.served() {
			// The end that attaches last may meet the other one's close before.
			if !errors.Is(s, resume.ErrReplaced) && !errors.Is(s, io.ErrUnexpectedEOF) {
				t.Errorf("a carrier that another one replaced ended with %v", s)
			}
		}
	})
}

func TestCarrierThatTakesOverAtOnceLeavesNoGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, resume.Config{Grace: time.Hour})
		p.drain()
		p.attach(tunneltest.Path{})
		time.Sleep(time.Minute)
		if second := p.attach(tunneltest.Path{}); second.a.Gap != 0 || second.b.Gap != 0 {
			t.Errorf("gaps of %v and %v", second.a.Gap, second.b.Gap)
		}
		time.Sleep(time.Second)
		p.last.conn.Cut()
		time.Sleep(7 * time.Second)
		if third := p.attach(tunneltest.Path{}); third.a.Gap != 7*time.Second || third.b.Gap != 7*time.Second {
			t.Errorf("gaps of %v and %v, want 7s", third.a.Gap, third.b.Gap)
		}
	})
}

func TestWhatWasWrittenArrivesBeforeTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, resume.Config{Grace: time.Minute})
		p.attach(tunneltest.Path{Delay: 50 * time.Millisecond})
		want := random(200_000, 1)
		go func() {
			p.a.Write(want)
			p.a.Close()
		}()
		got, err := io.ReadAll(p.b)
		if !bytes.Equal(got, want) || !errors.Is(err, resume.PeerClosed{}) {
			t.Errorf("%d bytes of %d and then %v", len(got), len(want), err)
		}
		time.Sleep(time.Second / 2)
		synctest.Wait()
		for _, s := range p.last.served() {
			if s == nil {
				t.Error("a carrier of a pipe that is over is still served")
			}
		}
	})
}
