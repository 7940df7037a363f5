package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/adit-net/adit/server/audit"
)

// Exit codes. Scripts go by them.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// hinted is an error for people: beside what went wrong it says what to do.
type hinted struct {
	error
	hint string
}

func (h hinted) Unwrap() error { return h.error }

// hint adds to an error what to do about it, in one line. A nil error stays nil.
func hint(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return hinted{err, fmt.Sprintf(format, args...)}
}

// usageError says that the command line itself is wrong.
type usageError struct{ error }

func (u usageError) Unwrap() error { return u.error }

// exitError ends the process with another command's exit code. That command has
// said all there is to say.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// exitCode gives the code that tells a script how a command has ended.
func exitCode(err error) int {
	if err == nil {
		return exitDone
	}
	if code, ok := errors.AsType[exitError](err); ok {
		return int(code)
	}
	if _, ok := errors.AsType[usageError](err); ok {
		return exitUsage
	}
	return exitFailed
}

// explain writes each error as one line of what, and one line of what to do if
// that is known.
func explain(w io.Writer, err error) {
	if _, ok := errors.AsType[exitError](err); ok || err == nil {
		return
	}
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		for _, one := range many.Unwrap() {
			explain(w, one)
		}
		return
	}
	fmt.Fprintf(w, "adit: %s\n", shown(err))
	if h, ok := errors.AsType[hinted](err); ok {
		fmt.Fprintf(w, "hint: %s\n", h.hint)
	}
}

// shown gives an error's text as a terminal may get it. Peers have a say in some: a TLS error has
// the names that a certificate is for, whoever has signed it.
func shown(err error) string {
	lines := strings.Split(err.Error(), "\n")
	for i, line := range lines {
		lines[i] = audit.Show(line)
	}
	return strings.Join(lines, "\n")
}
