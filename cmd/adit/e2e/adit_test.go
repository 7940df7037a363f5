//go:build linux

package e2e

import (
	"context"
	"strings"
	"time"
)

// Doors of the two clients. The first reaches the server over IPv4, the second
// over IPv6.
const (
	door4 = "127.0.0.1:1080"
	door6 = "[::1]:1080"
)

// startAdit sets up the server and two clients, as the README tells people to.
func (l *lab) startAdit() error {
	server := l.path("server")
	for _, args := range [][]string{
		{"server", "init", "--dir", server, "--listen", ":8443", "--name", serverName, "--allow", "private"},
		{"user", "add", "alice", "--dir", server},
	} {
		if _, err := l.adit(serverNS, args...); err != nil {
			return err
		}
	}
	if err := l.start(serverNS, "adit server", "ready", l.binary, "server", "run", "--dir", server); err != nil {
		return err
	}
	for _, c := range []struct{ dir, name, door string }{
		{l.path("client4"), serverName, door4},
		{l.path("client6"), serverName6, door6},
	} {
		invite, err := l.adit(serverNS, "invite", "alice", "--dir", server)
		if err != nil {
			return err
		}
		// The server is known by its pin, so any of its names will do.
		invite = strings.Replace(strings.TrimSpace(invite), serverName, c.name, 1)
		if _, err := l.adit(clientNS, "join", "--dir", c.dir, invite); err != nil {
			return err
		}
		title := "adit client at " + c.door
		if err := l.start(clientNS, title, "ready", l.binary, "client", "run", "--dir", c.dir, "--door", c.door); err != nil {
			return err
		}
	}
	return nil
}

// adit runs one adit command until it ends and returns what it printed.
func (l *lab) adit(ns namespace, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return ns.output(command(ctx, l.dir, l.binary, args...))
}
