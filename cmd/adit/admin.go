package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"syscall"
	"time"

	"github.com/adit-net/adit/tunnel/socks"
)

// adminTimeout bounds one question to a running process and its answer.
const adminTimeout = 5 * time.Second

// maxAdmin bounds an answer, in bytes.
const maxAdmin = 64 << 20

func errRunning(dir string) error {
	return hint(fmt.Errorf("an adit runs in %s already", dir), "see adit status --dir %s", dir)
}

var errNotRunning = errors.New("no adit runs there")

// admin is the Unix socket at which a running process answers questions. Only
// its own user can connect: the socket has mode 0600 in a directory of mode 0700.
type admin struct {
	listener net.Listener
	unlock   func() error
}

// openAdmin takes a directory for this process, and removes the socket that a
// process which died has left there. Close gives the directory back.
func openAdmin(dir string) (*admin, error) {
	unlock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, socketFile)
	ln, err := listenPrivate(path)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open admin socket: %w", err), unlock())
	}
	return &admin{listener: ln, unlock: unlock}, nil
}

// listenPrivate listens on a Unix socket of mode 0600.
func listenPrivate(path string) (net.Listener, error) {
	ln, err := socks.ListenUnix(path)
	if errors.Is(err, syscall.EINVAL) {
		return nil, hint(err, "the path of a Unix socket has about 90 bytes at most: use a directory with a shorter one")
	}
	return ln, hint(err, "move %s away if it is no socket of adit's", path)
}

// serve answers GET /status with what status gives, as JSON, until ctx ends.
func (a *admin) serve(ctx context.Context, status func() any) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		// If the asker has gone there is nobody to tell.
		_ = json.NewEncoder(w).Encode(status())
	})
	s := &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: adminTimeout,
		ReadTimeout:       adminTimeout,
		WriteTimeout:      adminTimeout,
		IdleTimeout:       adminTimeout,
		MaxHeaderBytes:    4 << 10,
	}
	defer context.AfterFunc(ctx, func() { _ = s.Close() })()
	if err := s.Serve(a.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve admin socket: %w", err)
	}
	return nil
}

// Close removes the socket and gives the directory back.
func (a *admin) Close() error {
	err := a.listener.Close() // which also removes the socket
	if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	return errors.Join(err, a.unlock())
}

// ask asks the process that runs in a directory, and decodes its answer. Its
// error is errNotRunning if there is none.
func ask(ctx context.Context, dir, question string, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	path := filepath.Join(dir, socketFile)
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		},
	}
	// The host is of no meaning on a Unix socket.
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://adit"+question, nil)
	if err != nil {
		return fmt.Errorf("ask %s: %w", question, err)
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" && ctx.Err() == nil {
			return errNotRunning
		}
		return fmt.Errorf("ask the running adit: %w", err)
	}
	defer resp.Body.Close() // reading only: nothing to lose
	if resp.StatusCode != http.StatusOK {
		return hint(fmt.Errorf("ask the running adit: %s", resp.Status), "it may be of another version: restart it")
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAdmin)).Decode(answer); err != nil {
		return fmt.Errorf("read the running adit's answer: %w", err)
	}
	return nil
}
