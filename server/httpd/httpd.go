// Package httpd runs an HTTP server for as long as a context lasts.
package httpd

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"
)

// Serve answers at ln, which it closes, until ctx ends; answers that are under way then have
// grace to get out. It returns when the last connection is closed: nil if ctx has ended, and
// otherwise why ln takes no more. s must be new, and is not to be used again.
func Serve(ctx context.Context, s *http.Server, ln net.Listener, grace time.Duration) error {
	var conns, answers sync.WaitGroup
	handler := s.Handler
	s.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answers.Add(1) // its connection counts, so nobody waits yet
		defer answers.Done()
		handler.ServeHTTP(w, r)
	})
	s.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			conns.Add(1)
		case http.StateHijacked, http.StateClosed:
			conns.Done()
		}
	}
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { defer close(ended); end(s, grace) })
	err := s.Serve(ln)
	if stop() {
		end(s, grace)
	} else {
		<-ended
	}
	conns.Wait()
	answers.Wait()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// end lets the answers that are under way get out.
func end(s *http.Server, grace time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if s.Shutdown(ctx) != nil {
		_ = s.Close() // that was all that could be done
	}
}
