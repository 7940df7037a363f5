package resume_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/adit-net/adit/tunnel/resume"
	"github.com/adit-net/adit/tunnel/tunneltest"
)

// TestProbesInARowBreakNothing is about a network that changes many times in a
// moment, while the peer's acknowledgement of what was sent takes its time.
func TestProbesInARowBreakNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, resume.Config{Grace: time.Hour, Idle: idle})
		p.drain()
		p.attach(tunneltest.Path{Delay: 100 * time.Microsecond})
		for range 10 {
			p.a.Write(make([]byte, 100))
			for range 100 {
				p.a.Probe()
				time.Sleep(300 * time.Microsecond)
			}
		}
		for _, end := range []*resume.Pipe{p.a, p.b} {
			if state, _ := end.State(); state.Err != nil || !state.Attached || state.Resumes > 0 {
				t.Errorf("%+v", state)
			}
		}
	})
}
