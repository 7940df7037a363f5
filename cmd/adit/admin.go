package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/adit-net/adit/server/httpd"
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
	lock     *os.File
}

// openAdmin takes a directory for this process, and opens its admin socket.
// Close gives the directory back.
func openAdmin(dir string) (*admin, error) {
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	a, err := listenAdmin(dir, lock)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return a, nil
}

// listenAdmin opens the admin socket of a directory whose lock this process
// has, in place of what a process that died has left there. Close closes the lock,
// too.
func listenAdmin(dir string, lock *os.File) (*admin, error) {
	ln, err := listenPrivate(filepath.Join(dir, socketFile))
	if err != nil {
		return nil, fmt.Errorf("open admin socket: %w", err)
	}
	return &admin{listener: ln, lock: lock}, nil
}

// listenPrivate listens on a Unix socket of mode 0600.
func listenPrivate(path string) (net.Listener, error) {
	ln, err := socks.ListenUnix(path)
	if errors.Is(err, syscall.EINVAL) {
		return nil, hint(err, "the path of a Unix socket has about 90 bytes at most: use a directory with a shorter one")
	}
	return ln, hint(err, "move %s away if it is no socket of adit's", path)
}

// route is a question that the admin socket answers beside GET /status.
type route struct {
	pattern string
	handle  http.HandlerFunc
}

// serve answers GET /status with what status gives, as JSON, and more, until
// ctx ends. It returns when all handlers have.
func (a *admin) serve(ctx context.Context, status func() any, more ...route) error {
	mux := http.NewServeMux()
	more = append(more, profiles()...)
	for _, r := range append(more, route{"GET /status", func(w http.ResponseWriter, _ *http.Request) { reply(w, status()) }}) {
		mux.HandleFunc(r.pattern, r.handle)
	}
	s := &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: adminTimeout,
		ReadTimeout:       adminTimeout,
		WriteTimeout:      adminTimeout,
		IdleTimeout:       adminTimeout,
		MaxHeaderBytes:    4 << 10,
	}
	if err := httpd.Serve(ctx, s, a.listener, adminTimeout); err != nil {
		return fmt.Errorf("serve admin socket: %w", err)
	}
	return nil
}

// reply answers a question with JSON.
func reply(w http.ResponseWriter, answer any) {
	w.Header().Set("Content-Type", "application/json")
	// If the asker has gone there is nobody to tell.
	_ = json.NewEncoder(w).Encode(answer)
}

// Close removes the socket and gives the directory back.
func (a *admin) Close() error {
	err := a.listener.Close() // which also removes the socket
	if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	return errors.Join(err, a.unlock())
}

// unlock gives the directory back, as far as this process has it.
func (a *admin) unlock() error {
	if err := a.lock.Close(); !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}

// ask asks the process that runs in a directory, and decodes its answer. Its
// error is errNotRunning if there is none.
func ask(ctx context.Context, dir, question string, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	return askAt(ctx, filepath.Join(dir, socketFile), "GET "+question, nil, answer)
}

// askAt asks the process that has an admin socket, until ctx ends. A question
// is a method and a path; the body may be nil.
func askAt(ctx context.Context, socket, question string, body []byte, answer any) error {
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}
	req, err := newQuestion(ctx, question, body)
	if err != nil {
		return err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" && ctx.Err() == nil {
			return fmt.Errorf("%w: %w", errNotRunning, err)
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

// newQuestion makes the request for a question.
func newQuestion(ctx context.Context, question string, body []byte) (*http.Request, error) {
	method, path, _ := strings.Cut(question, " ")
	// The host is of no meaning on a Unix socket.
	req, err := http.NewRequestWithContext(ctx, method, "http://adit"+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", question, err)
	}
	return req, nil
}
