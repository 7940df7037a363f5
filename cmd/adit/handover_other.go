//go:build !unix

package main

import (
	"errors"
	"net"
	"os"
	"runtime"
)

// mayHandOver says why this process cannot start another one in its place.
func mayHandOver(*commandLine) error {
	return hint(errors.New("a server cannot hand over to another process on "+runtime.GOOS), "stop it, and start it again")
}

func copyListener(net.Listener) (*os.File, error) { return nil, errors.ErrUnsupported }

func copyFile(*os.File) (*os.File, error) { return nil, errors.ErrUnsupported }

func closeOnExec(int) {}
