package tunnel

import (
	"testing"
	"time"
)

// TestWindowsBecomeAsWideAsTheWidestThatWasNeeded has readers who take half a window at a
// time over a path of 50 ms.
func TestWindowsBecomeAsWideAsTheWidestThatWasNeeded(t *testing.T) {
	const rtt, quick = 50 * time.Millisecond, 80 * time.Millisecond
	for name, test := range map[string]struct {
		took   time.Duration
		unread int64 // in parts of 8 of the window
		want   int64
	}{
		"behind the queues of others": {took: 3 * rtt, want: 4 * firstWindow},
		"too slow for any":            {took: catchUp, want: firstWindow},
		"with a slow reader":          {took: 3 * rtt, unread: 2, want: firstWindow},
		"needing more":                {took: quick, unread: 2, want: 32 * firstWindow},
	} {
		t.Run(name, func(t *testing.T) {
			var b budget
			now := time.Now()
			read := func(w *recvWindow, took time.Duration, unread int64) {
				now = now.Add(took)
				n := w.size / 2
				w.receive(w.consumed + n + unread*w.size/8 - w.received)
				w.consume(n, now, rtt)
			}
			var widest, w recvWindow
			widest.open(&b, now)
			for range 2 {
				read(&widest, quick, 0)
			}
			w.open(&b, now)
			for range 5 {
				read(&w, test.took, test.unread)
			}
			if widest.size != 4*firstWindow || w.size != test.want {
				t.Errorf("the windows are %d and %d KiB, want %d and %d", widest.size>>10, w.size>>10, 4*firstWindow>>10, test.want>>10)
			}
		})
	}
}
