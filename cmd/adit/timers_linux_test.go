package main

import (
	"errors"
	"io/fs"
	"testing"
	"time"
)

func TestThreadsMayBeWokenLate(t *testing.T) {
	const usual = 50 * time.Microsecond
	before := threads()
	for _, thread := range before {
		if err := setSlack(thread, usual); errors.Is(err, fs.ErrPermission) {
			slackenTimers() // does nothing, then
			return
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) { // it may have ended
			t.Fatal(err)
		}
		defer setSlack(thread, usual)
	}
	slackenTimers()
	for _, thread := range before {
		if got := slackOf(thread); got != "1000000" && got != "" {
			t.Errorf("%s may be woken %s ns late", thread, got)
		}
	}
	own := before[0]
	setSlack(own, 2*timerSlack)
	slackenTimers()
	if got := slackOf(own); got != "2000000" {
		t.Errorf("what was set by somebody else is %s ns now", got)
	}
}
