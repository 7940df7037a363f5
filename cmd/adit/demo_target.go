package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

const demoPage = "This page has come through adit.\n"

// demoTarget is what the demo connects to through the tunnel.
type demoTarget struct {
	web    *http.Server
	port   string
	echo   string // an address where each byte comes back
	closed string // an address where nobody listens

	stop  context.CancelFunc
	parts sync.WaitGroup
}

// startDemoTarget starts a web server and an echo. Close ends them.
func startDemoTarget(ctx context.Context) (*demoTarget, error) {
	ports, err := listen(ctx, []string{"127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"})
	if err != nil {
		return nil, fmt.Errorf("start the demo's target: %w", err)
	}
	web, echo, closed := ports[0], ports[1], ports[2]
	t := &demoTarget{
		web:    &http.Server{Handler: demoSite(), ReadHeaderTimeout: demoTimeout},
		port:   strconv.Itoa(web.Addr().(*net.TCPAddr).Port),
		echo:   echo.Addr().String(),
		closed: closed.Addr().String(),
	}
	closeAll([]net.Listener{closed})
	ctx, t.stop = context.WithCancel(ctx)
	t.parts.Go(func() { _ = t.web.Serve(web) }) // what fails here fails the checks
	t.parts.Go(func() { echoOnce(ctx, echo) })
	return t, nil
}

// url is what the demo asks for, by a name that the server has to resolve.
func (t *demoTarget) url(path string) string {
	return "http://" + net.JoinHostPort("localhost", t.port) + path
}

func (t *demoTarget) Close() {
	t.stop()
	_ = t.web.Close() // the checks are over
	t.parts.Wait()
}

func demoSite() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		// Whoever asked finds out what has failed; so with the others.
		_, _ = io.WriteString(w, demoPage)
	})
	mux.HandleFunc("GET /down", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(bulk))
		_, _ = io.Copy(w, randomBytes(2))
	})
	mux.HandleFunc("POST /up", func(w http.ResponseWriter, r *http.Request) {
		sum := sha256.New()
		if _, err := io.Copy(sum, r.Body); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		fmt.Fprintf(w, "%x\n", sum.Sum(nil))
	})
	return mux
}

// randomBytes gives the same bulk of bytes for the same seed. They do not compress.
func randomBytes(seed byte) io.Reader {
	return io.LimitReader(rand.NewChaCha8([32]byte{seed}), bulk)
}

// echoOnce serves one connection.
func echoOnce(ctx context.Context, ln net.Listener) {
	defer context.AfterFunc(ctx, func() { _ = ln.Close() })()
	c, err := ln.Accept()
	if err != nil {
		return
	}
	defer c.Close() // its peer has gone first
	if err := errors.Join(c.SetDeadline(time.Now().Add(demoTimeout)), ln.Close()); err == nil {
		// What fails here fails the check.
		_, _ = io.Copy(c, c)
	}
}
