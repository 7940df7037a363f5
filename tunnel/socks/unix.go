package socks

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
)

// ListenUnix listens at a Unix socket that has mode 0600 from its first moment
// on. It replaces a socket that nobody listens at any more, but never one that
// is alive, nor a file of another kind. Close removes the socket.
func ListenUnix(path string) (net.Listener, error) {
	if err := checkFree(path); err != nil {
		return nil, fmt.Errorf("listen at %s: %w", path, err)
	}
	// A socket is born with the mode that the umask leaves it. It gets its own
	// in a directory that is closed to others, and then moves to its place.
	nursery, err := os.MkdirTemp(filepath.Dir(path), ".s")
	if err != nil {
		return nil, fmt.Errorf("listen at %s: %w", path, err)
	}
	defer func() { _ = os.RemoveAll(nursery) }()
	born := filepath.Join(nursery, "s")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: born, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen at %s: %w", path, err)
	}
	ln.SetUnlinkOnClose(false)
	info, err := moveSocket(born, path)
	if err != nil {
		ln.Close()
		return nil, fmt.Errorf("listen at %s: %w", path, err)
	}
	return &unixListener{UnixListener: ln, path: path, info: info}, nil
}

func moveSocket(from, to string) (fs.FileInfo, error) {
	if err := os.Chmod(from, 0o600); err != nil {
		return nil, err
	}
	if err := os.Rename(from, to); err != nil {
		return nil, err
	}
	return os.Lstat(to)
}

// checkFree fails if something at path must not be replaced.
func checkFree(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return errors.New("there is a file that is no socket")
	}
	c, err := net.Dial("unix", path)
	if err == nil {
		c.Close()
		return errors.New("another process listens there")
	}
	if CodeOf(err) != ConnectionRefused {
		return fmt.Errorf("see whether another process listens there: %w", err)
	}
	return nil
}

// unixListener knows the place to which its socket has moved.
type unixListener struct {
	*net.UnixListener
	path string
	info fs.FileInfo
	once sync.Once
}

func (l *unixListener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }

// Close stops listening and removes the socket, unless another has taken its
// place meanwhile.
func (l *unixListener) Close() error {
	l.once.Do(func() {
		if info, err := os.Lstat(l.path); err == nil && os.SameFile(info, l.info) {
			_ = os.Remove(l.path) // the next to listen there replaces it
		}
	})
	return l.UnixListener.Close()
}
