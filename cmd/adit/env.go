package main

import (
	"io"
	"os"

	"golang.org/x/term"
)

// env is what a command has of the world around it. Tests make their own.
type env struct {
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer

	// columns is how wide the terminal on stdout is, or 0 if stdout is no
	// terminal: then programs read it, and get no decoration.
	columns int
	// terminalSize is how large that terminal is now.
	terminalSize func() (width, height int)
	// progress tells whether people watch stderr.
	progress bool
}

func systemEnv() env {
	e := env{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
	if width, _, err := term.GetSize(int(os.Stdout.Fd())); err == nil {
		e.columns = max(width, 1)
	}
	e.terminalSize = func() (width, height int) {
		width, height, err := term.GetSize(int(os.Stdout.Fd()))
		if err != nil || width < 1 || height < 1 {
			return 80, 24 // one that does not say it
		}
		return width, height
	}
	e.progress = term.IsTerminal(int(os.Stderr.Fd()))
	return e
}
