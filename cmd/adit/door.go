package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"path/filepath"
	"runtime"
	"sync"

	"github.com/adit-net/adit/tunnel/socks"
)

// openDoors opens the client's door wherever the config says, and notes in
// p.way how to come in.
func (p *clientProcess) openDoors(ctx context.Context) (*socks.Door, error) {
	door := &socks.Door{Relay: p.client, Log: p.log.Logger, EarlyReply: p.cfg.Door.EarlyReply}
	cfg := p.cfg.Door
	p.way = doorReport{Admission: cfg.admission()}
	switch p.way.Admission {
	case admitAnyone:
		door.Admission.Anyone = true
	case admitExit:
		door.Admission = exitAdmission(p.client, p.log.Logger)
	case admitPassword:
		path, password, err := doorPassword(p.dir, cfg)
		if err != nil {
			return nil, err
		}
		p.way.User, p.way.PasswordFile = cfg.User, path
		door.Admission.Authenticate = onePassword(cfg.User, password)
	}
	if err := p.listenAtDoors(ctx, cfg); err != nil {
		for _, ln := range p.doors {
			_ = ln.Close() // nobody has come in
		}
		return nil, err
	}
	return door, nil
}

func (p *clientProcess) listenAtDoors(ctx context.Context, cfg doorConfig) error {
	switch {
	case p.listener != nil:
		p.doors = append(p.doors, newDoorListener(p.listener))
	case cfg.Listen != "":
		all, err := listen(ctx, []string{cfg.Listen})
		if err != nil {
			return err
		}
		p.doors = append(p.doors, newDoorListener(all[0]))
	}
	if len(p.doors) > 0 {
		p.way.Listen = p.doors[0].Addr().String()
	}
	if cfg.Socket != "" && !p.private {
		path := cfg.Socket
		if !filepath.IsAbs(path) {
			path = filepath.Join(p.dir, path)
		}
		ln, err := listenPrivate(path)
		if err != nil {
			return fmt.Errorf("open the door's socket: %w", err)
		}
		p.doors = append(p.doors, newDoorListener(ln))
		p.way.Socket = path
	}
	return nil
}

// admission resolves auto: same-user where the system tells whose a connection is.
func (c doorConfig) admission() string {
	switch {
	case c.Admission != admitAuto:
		return c.Admission
	case runtime.GOOS == "linux":
		return admitSameUser
	}
	return admitPassword
}

// passwordFile names the file with the door's password. Relative names are those
// of files in the client's directory.
func (c doorConfig) passwordFile(dir string) string {
	path := cmp.Or(c.PasswordFile, doorPasswordFile)
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

// doorPassword reads the door's password, and makes one first if the config
// names no file and there is none yet.
func doorPassword(dir string, cfg doorConfig) (path, password string, err error) {
	path = cfg.passwordFile(dir)
	if cfg.PasswordFile == "" {
		if err := writeNew(path, []byte(rand.Text()+"\n")); err != nil && !errors.Is(err, fs.ErrExist) {
			return "", "", fmt.Errorf("make the door's password: %w", err)
		}
	}
	password, err = readPassword(path)
	return path, password, err
}

// doorListener is a listener that can stop without an error: Accept then
// waits for Close, so that those who are in can stay.
type doorListener struct {
	net.Listener
	stopping sync.Once
	stopped  chan struct{}
	closing  sync.Once
	closed   chan struct{}
}

func newDoorListener(ln net.Listener) *doorListener {
	return &doorListener{Listener: ln, stopped: make(chan struct{}), closed: make(chan struct{})}
}

func (l *doorListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		return conn, nil
	}
	select {
	case <-l.stopped:
		<-l.closed
	default:
	}
	return nil, err
}

// stop lets nobody in any more.
func (l *doorListener) stop() {
	l.stopping.Do(func() {
		close(l.stopped)
		_ = l.Listener.Close() // Accept tells
	})
}

func (l *doorListener) Close() error {
	l.closing.Do(func() { close(l.closed) })
	l.stop()
	return nil
}

// onePassword takes as long for a wrong user as for a wrong password.
func onePassword(user, password string) func(context.Context, netip.AddrPort, string, string) bool {
	digest := func(user, password string) [sha256.Size]byte {
		return sha256.Sum256([]byte(user + "\x00" + password))
	}
	want := digest(user, password)
	return func(_ context.Context, _ netip.AddrPort, user, password string) bool {
		got := digest(user, password)
		return subtle.ConstantTimeCompare(got[:], want[:]) == 1
	}
}
