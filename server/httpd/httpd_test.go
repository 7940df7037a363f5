package httpd

import (
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve serves until the context ends, and tells how that has ended.
func serve(t *testing.T, ctx context.Context, h http.HandlerFunc, grace time.Duration) (address string, ended <-chan error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, &http.Server{Handler: h, ReadTimeout: time.Minute}, ln, grace) }()
	return ln.Addr().String(), done
}

func TestAnswersThatAreUnderWayGetOut(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	address, ended := serve(t, ctx, func(w http.ResponseWriter, _ *http.Request) {
		cancel()
		_, _ = io.WriteString(w, "whole")
	}, time.Minute)
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Get("http://" + address)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if b, err := io.ReadAll(answer.Body); string(b) != "whole" {
		t.Errorf("the answer is %q, %v", b, err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestWhoeverAsksForNothingIsNotWaitedForLong(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	address, ended := serve(t, ctx, func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, time.Millisecond)
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
