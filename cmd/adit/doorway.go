package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/adit-net/adit/tunnel/socks"
)

// doorway is how to come in at a running client's door.
type doorway struct {
	network  string // "tcp" or "unix"
	address  string
	user     string // both empty where the door asks nobody
	password string
}

// findDoorway asks the client that runs in a directory where its door is. Its error is
// errNotRunning if there is none.
func findDoorway(ctx context.Context, dir string) (doorway, error) {
	var r report
	if err := ask(ctx, dir, "/status", &r); err != nil {
		return doorway{}, err
	}
	if r.Client == nil {
		return doorway{}, hint(fmt.Errorf("a server runs in %s, not a client", dir), "name the client's directory with --dir")
	}
	return r.Client.Door.way()
}

// way reads the password that the door may want.
func (r doorReport) way() (doorway, error) {
	d := doorway{network: "tcp", address: r.Listen}
	if d.address == "" {
		d.network, d.address = "unix", r.Socket
	}
	if r.Admission == admitExit {
		return doorway{}, hint(errors.New("the door asks who you are, and lets the server verify it"),
			"use it with your own user and password; adit run needs another admission in client.toml")
	}
	if r.Admission == admitPassword {
		password, err := readPassword(r.PasswordFile)
		if err != nil {
			return doorway{}, err
		}
		d.user, d.password = r.User, password
	}
	return d, nil
}

// readPassword reads a file that holds a password and perhaps a line break.
func readPassword(path string) (string, error) {
	if err := checkFile(path); err != nil {
		return "", fmt.Errorf("read the door's password: %w", err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read the door's password: %w", err)
	}
	password := strings.TrimRight(string(text), "\r\n")
	if password == "" || len(password) > 255 {
		return "", hint(fmt.Errorf("read the door's password: %s has %d bytes", path, len(password)), "a password has 1 to 255 bytes")
	}
	return password, nil
}

// url is the door's address for programs that take a proxy, with its password.
func (d doorway) url(scheme string) string {
	u := url.URL{Scheme: scheme, Host: d.address}
	if d.user != "" {
		u.User = url.UserPassword(d.user, d.password)
	}
	return u.String()
}

// doorTimeout bounds what it takes to get through the door to a target.
const doorTimeout = 60 * time.Second

// dial connects to a target through the door, by SOCKS 5 (RFC 1928). If the
// door says no, the error is a [socks.Code].
func (d doorway) dial(ctx context.Context, target socks.Addr) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, doorTimeout)
	defer cancel()
	var dialer net.Dialer
	c, err := dialer.DialContext(ctx, d.network, d.address)
	if err != nil {
		return nil, fmt.Errorf("reach the door: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	if err := d.connect(c, target); err != nil {
		stop()
		return nil, errors.Join(err, c.Close())
	}
	if !stop() {
		return nil, errors.Join(context.Cause(ctx), c.Close())
	}
	return c, nil
}

// connect speaks the handshake.
func (d doorway) connect(c net.Conn, target socks.Addr) error {
	const (
		version, noAuth, byPassword = 5, 0, 2
	)
	method := byte(noAuth)
	if d.user != "" {
		method = byPassword
	}
	if _, err := c.Write([]byte{version, 1, method}); err != nil {
		return fmt.Errorf("greet the door: %w", err)
	}
	var answer [4]byte
	if _, err := io.ReadFull(c, answer[:2]); err != nil {
		return fmt.Errorf("greet the door: %w", err)
	}
	if answer[0] != version || answer[1] != method {
		return errors.New("the door does not admit this program")
	}
	if method == byPassword {
		if err := d.logIn(c); err != nil {
			return err
		}
	}
	if _, err := c.Write(connectRequest(target)); err != nil {
		return fmt.Errorf("ask the door: %w", err)
	}
	if _, err := io.ReadFull(c, answer[:]); err != nil {
		return fmt.Errorf("ask the door: %w", err)
	}
	if code := socks.Code(answer[1]); code != socks.Succeeded {
		return code
	}
	return skipBound(c, answer[3])
}

// logIn speaks RFC 1929.
func (d doorway) logIn(c net.Conn) error {
	b := append([]byte{1, byte(len(d.user))}, d.user...)
	b = append(append(b, byte(len(d.password))), d.password...)
	if _, err := c.Write(b); err != nil {
		return fmt.Errorf("log in at the door: %w", err)
	}
	var answer [2]byte
	if _, err := io.ReadFull(c, answer[:]); err != nil {
		return fmt.Errorf("log in at the door: %w", err)
	}
	if answer[1] != 0 {
		return errors.New("the door does not take the password")
	}
	return nil
}

// The address types of RFC 1928 section 5.
const (
	typeIPv4 = 1
	typeName = 3
	typeIPv6 = 4
)

func connectRequest(target socks.Addr) []byte {
	b := []byte{5, byte(socks.Connect), 0}
	switch {
	case target.IP.Is4():
		b = append(append(b, typeIPv4), target.IP.AsSlice()...)
	case target.IP.IsValid():
		b = append(append(b, typeIPv6), target.IP.AsSlice()...)
	default:
		b = append(append(b, typeName, byte(len(target.Name))), target.Name...)
	}
	return append(b, byte(target.Port>>8), byte(target.Port))
}

// skipBound reads over the rest of a reply, the address at the exit.
func skipBound(r io.Reader, kind byte) error {
	n := 0
	switch kind {
	case typeIPv4:
		n = net.IPv4len
	case typeIPv6:
		n = net.IPv6len
	default:
		return fmt.Errorf("ask the door: it answers with an address of type %d", kind)
	}
	if _, err := io.ReadFull(r, make([]byte, n+2)); err != nil {
		return fmt.Errorf("ask the door: %w", err)
	}
	return nil
}
