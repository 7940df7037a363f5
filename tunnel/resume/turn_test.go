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

func TestAWordHasItsTurnWhereDataMoves(t *testing.T) {
	const us = time.Microsecond
	for name, test := range map[string]struct {
		moved, yielded, took time.Duration // the first two: how long ago
		yield                bool
	}{
		"data moves":            {us, time.Hour, 0, true},
		"nothing moves":         {movesTime, time.Hour, 0, false},
		"after another":         {us, wordTime - us, 0, false},
		"others took long":      {us, 400 * us, 401 * us, false},
		"they took no longer":   {us, 400 * us, 400 * us, true},
		"nothing has ever been": {time.Hour, time.Hour, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			now := time.Now()
			turns := turns{moved: now.Add(-test.moved), yielded: now.Add(-test.yielded), took: test.took}
			if yield := turns.dueToWord(now); yield != test.yield {
				t.Errorf("yield %v, want %v", yield, test.yield)
			}
		})
	}
}

func TestOnlyDataHasOthersGoFirst(t *testing.T) {
	p := New(Config{})
	defer p.Close()
	p.GiveWayToWord()
	if !p.turns.yielded.IsZero() {
		t.Error("others have had their turn although nothing moves")
	}
	p.GiveWay()
	p.GiveWayToWord()
	if p.turns.yielded.IsZero() {
		t.Error("others have had no turn after a word beside data")
	}
}
