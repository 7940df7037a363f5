package ipseclink

import (
	"testing"
	"testing/synctest"
	"time"
)

// walk looks every so often for a while, and gives the size at last and how often it was asked.
func (p *proof) walk(every, during time.Duration, answer func()) (size, asked int) {
	for end := time.Now().Add(during); time.Now().Before(end); time.Sleep(every) {
		var ask bool
		if size, ask = p.look(time.Now()); ask {
			asked++
			if answer != nil {
				answer()
			}
		}
	}
	return size, asked
}

func TestPathIsAskedAboutMoreRarelyIfItNeverAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p proof
		if size, asked := p.walk(time.Millisecond, time.Second, nil); size != 0 || asked != 3 { // at 0, 250 and 750 ms
			t.Errorf("size %d, asked %d times", size, asked)
		}
		p.walk(time.Millisecond, time.Minute, nil)
		if _, asked := p.walk(100*time.Millisecond, 10*time.Minute, nil); asked != 20 {
			t.Errorf("in ten minutes it is asked %d times", asked)
		}
	})
}

func TestPathThatFallsSilentIsNotTrusted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p proof
		yes := func() { p.answer(time.Now(), 1000) }
		if size, asked := p.walk(10*time.Millisecond, 20*time.Second, yes); size != 1000 || asked > 12 {
			t.Errorf("size %d, asked %d times", size, asked)
		}
		if size, _ := p.walk(10*time.Millisecond, unheard, nil); size != 1000 {
			t.Errorf("too soon there is size %d", size)
		}
		if size, _ := p.walk(10*time.Millisecond, confirmEvery+time.Second, nil); size != 0 {
			t.Errorf("size %d", size)
		}
		// It comes again.
		if size, _ := p.walk(10*time.Millisecond, askSeldom, yes); size != 1000 {
			t.Errorf("size %d", size)
		}
		time.Sleep(2 * stale)
		if size, ask := p.look(time.Now()); size != 0 || !ask {
			t.Errorf("after long, size %d, asked: %v", size, ask)
		}
	})
}

func TestPathThatHasBecomeNarrowIsAskedAtOnce(t *testing.T) {
	var p proof
	now := time.Now()
	p.look(now)
	p.answer(now, 1400)
	p.shrink()
	if size, ask := p.look(now); size != 0 || !ask {
		t.Errorf("size %d, asked: %v", size, ask)
	}
	p.shrink() // of a message that was sent before
	if _, ask := p.look(now); ask {
		t.Error("it is asked twice")
	}
}
