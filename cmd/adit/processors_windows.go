package main

import (
	"syscall"
	"time"
)

// processorTime is how long processors have worked for the process.
func processorTime() time.Duration {
	var began, ended, kernel, user syscall.Filetime
	self, _ := syscall.GetCurrentProcess() // neither can fail
	_ = syscall.GetProcessTimes(self, &began, &ended, &kernel, &user)
	return ticks(kernel) + ticks(user)
}

// ticks reads a time of Windows that is a duration, in units of 100 ns.
func ticks(t syscall.Filetime) time.Duration {
	return time.Duration(int64(t.HighDateTime)<<32|int64(t.LowDateTime)) * 100
}
