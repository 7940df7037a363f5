package resume

import (
	"testing"
	"time"
)

func TestOthersHaveTheirTurn(t *testing.T) {
	const us = time.Microsecond
	for name, test := range map[string]struct {
		glanced, yielded, took time.Duration // the first two: how long ago
		chatting               bool
		glance, yield          bool
	}{
		"at first":                  {time.Hour, time.Hour, 0, true, true, true},
		"nobody chats":              {time.Hour, time.Hour, 0, false, true, false},
		"nobody chats, soon":        {glanceTime - us, time.Hour, 0, false, false, false},
		"somebody chats, soon":      {glanceChat - us, yieldTime - us, 0, true, false, false},
		"somebody chats":            {glanceChat, yieldTime, 0, true, true, true},
		"others took long":          {glanceChat, 11 * time.Millisecond, 3 * time.Millisecond, true, true, false},
		"others took long, of old":  {glanceChat, 12 * time.Millisecond, 3 * time.Millisecond, true, true, true},
		"others took next to none":  {glanceChat, yieldTime - us, us, true, true, false},
		"only the network has time": {glanceChat, us, 0, true, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			now := time.Now()
			turns := turns{glanced: now.Add(-test.glanced), yielded: now.Add(-test.yielded), took: test.took}
			if glance, yield := turns.due(now, test.chatting); glance != test.glance || yield != test.yield {
				t.Errorf("glance %v, yield %v, want %v, %v", glance, yield, test.glance, test.yield)
			}
		})
	}
}
