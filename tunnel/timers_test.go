package tunnel

import (
	"math"
	"testing"
)

// TestNoTimerOfYamuxsCanFire is about timers that would end a stream or a
// session because nothing has moved for a while: a reply may come after an hour.
func TestNoTimerOfYamuxsCanFire(t *testing.T) {
	for _, client := range []bool{true, false} {
		c := NewSession(nil, client, Config{}).muxConfig()
		if c.EnableKeepAlive || c.StreamCloseTimeout != 0 || c.StreamOpenTimeout != 0 || c.ConnectionWriteTimeout != math.MaxInt64 {
			t.Errorf("client %v: %+v", client, c)
		}
	}
}
