package server

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv(echoesHere) != "" {
		serveEchoes()
		return
	}
	goleak.VerifyTestMain(m)
}
