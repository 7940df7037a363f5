package socks

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// TestMain also plays the other process where a test needs one.
func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		os.Exit(play(role))
	}
	goleak.VerifyTestMain(m)
}
