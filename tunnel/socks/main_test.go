package socks

import (
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	playRole() // does not return where a test has started this binary again
	goleak.VerifyTestMain(m)
}
