package audit

import (
	"testing"
	"time"
)

func TestOthersHaveTheirTurnWithinBounds(t *testing.T) {
	const us = time.Microsecond
	for name, test := range map[string]struct {
		since, took, all time.Duration
		due              bool
	}{
		"at first":               {time.Hour, 0, 0, true},
		"soon":                   {writeTime - us, us, us, false},
		"nobody had to wait":     {writeTime, us, us, true},
		"others took long":       {3*time.Millisecond - us, pauseShare * 3 * time.Millisecond, us, false},
		"others took long once":  {3 * time.Millisecond, pauseShare * 3 * time.Millisecond, us, true},
		"others have had enough": {time.Hour, us, pauseLimit, false},
	} {
		t.Run(name, func(t *testing.T) {
			now := time.Now()
			p := pauses{over: now.Add(-test.since), took: test.took, all: test.all}
			if p.due(now) != test.due {
				t.Errorf("a pause is due: %v", !test.due)
			}
		})
	}
}
