package ipsec

import (
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	moveIn()
	goleak.VerifyTestMain(m)
}
