package netwatch

import "time"

// nap is the shortest sleep that is told. It is longer than a busy machine
// delays a timer or a time server moves a clock as a rule, and too short for
// anything to have given up on a connection.
const nap = 2 * time.Second

// reading is what two clocks show. Both begin anywhere.
type reading struct {
	wall time.Duration // goes on while the machine sleeps, and may be set
	mono time.Duration // is never set, and stands still in sleep on most systems
}

func newClock() func() reading {
	start := time.Now()
	return func() reading {
		now := time.Now()
		return reading{wall: now.Round(0).Sub(start.Round(0)), mono: now.Sub(start)}
	}
}

// slept says how long the machine slept, or the process was stopped, in a wait that was to take
// as long as due at most; 0 if that is no sleep. After a sleep the wall clock is ahead of the
// other; after a stop both are of what was due.
func slept(before, after reading, due time.Duration) time.Duration {
	wall, mono := after.wall-before.wall, after.mono-before.mono
	away := max(wall, mono) - min(mono, due)
	if away < nap {
		return 0
	}
	return away
}
