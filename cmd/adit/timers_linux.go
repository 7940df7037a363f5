package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// timerSlack is how much later than asked for the kernel may wake a thread. 50 µs are usual.
const timerSlack = time.Millisecond

// slackenTimers lets the kernel wake the process's threads a bit late, if it may: that takes
// CAP_SYS_NICE, so a service manager had better do it. Go's scheduler sets timers all the time,
// with one thread napping for 20 µs again and again, which was a tenth of a busy process.
// None of our own timers has to be that exact: Go rounds what it waits for to milliseconds.
//
// Who has set another slack than the usual one knows why, and keeps it.
func slackenTimers() {
	for _, thread := range threads() {
		if slackOf(thread) == "50000" {
			setSlack(thread, timerSlack)
		}
	}
}

// threads gives a directory in /proc for each thread. Those that come later have the slack
// of the one that begins them.
func threads() []string {
	tasks, _ := os.ReadDir("/proc/self/task") // none where /proc is not mounted
	dirs := make([]string, len(tasks))
	for i, task := range tasks {
		dirs[i] = filepath.Join("/proc", task.Name())
	}
	return dirs
}

// slackOf is empty where the thread is gone, or may not be asked.
func slackOf(thread string) string {
	text, _ := os.ReadFile(filepath.Join(thread, "timerslack_ns"))
	return strings.TrimSpace(string(text))
}

func setSlack(thread string, slack time.Duration) error {
	return os.WriteFile(filepath.Join(thread, "timerslack_ns"), strconv.AppendInt(nil, int64(slack), 10), 0)
}
