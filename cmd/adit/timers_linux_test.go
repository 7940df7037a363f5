package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
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
		} else if err != nil {
			t.Fatal(err)
		}
		defer setSlack(thread, usual)
	}
	slackenTimers()
	for _, thread := range before {
		slack, err := os.ReadFile(filepath.Join(thread, "timerslack_ns"))
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.TrimSpace(string(slack)); got != "1000000" {
			t.Errorf("%s may be woken %s ns late", thread, got)
		}
	}
}
