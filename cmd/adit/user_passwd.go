package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/adit-net/adit/server/users"
)

const userPasswdHelp = `Give a user a password, for doors that ask for one. It is read from the terminal,
twice and without showing it, or else it is the first line of standard input. The
store keeps no more of it than an argon2id hash.

A connection that is open goes on. Disabling the user ends it.`

func newUserPasswd(e env) *cobra.Command {
	var remove bool
	c := newUserChange("passwd NAME [--remove]", "Give a user a password, or take it away", func(ctx context.Context, s *users.Store, name string) error {
		if remove {
			return s.RemovePassword(ctx, name)
		}
		if _, err := s.User(ctx, name); err != nil {
			return err // before anybody types
		}
		password, err := e.newPassword(name)
		if err != nil {
			return err
		}
		return s.SetPassword(ctx, name, password)
	})
	c.Long = userPasswdHelp
	c.Flags().BoolVar(&remove, "remove", false, "take the password away")
	return c
}

// newPassword reads a password that is to be set.
func (e env) newPassword(user string) (string, error) {
	in, ok := e.stdin.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return readNewPassword(e.stdin)
	}
	ask := func(what string) (string, error) {
		fmt.Fprintf(e.stderr, "%s for %s: ", what, user)
		text, err := term.ReadPassword(int(in.Fd()))
		fmt.Fprintln(e.stderr)
		if err != nil {
			return "", fmt.Errorf("read password: %w", err)
		}
		return string(text), soundPassword(string(text))
	}
	password, err := ask("password")
	if err != nil {
		return "", err
	}
	if again, err := ask("the same again"); err != nil || again != password {
		return "", hint(errors.New("the two are not the same"), "try again; nothing was changed")
	}
	return password, nil
}

// readNewPassword reads the first line.
func readNewPassword(in io.Reader) (string, error) {
	line, err := bufio.NewReader(io.LimitReader(in, users.MaxPassword+2)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read password: %w", err)
	}
	password := strings.TrimRight(line, "\r\n")
	return password, soundPassword(password)
}

func soundPassword(password string) error {
	if n := len(password); n < users.MinPassword || n > users.MaxPassword {
		return hint(fmt.Errorf("the password has %d bytes", n), "a password has %d to %d bytes", users.MinPassword, users.MaxPassword)
	}
	return nil
}
