//go:build unix

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"
)

// checkOwner refuses what others could read or change.
func checkOwner(path string, info fs.FileInfo) error {
	if owner, ok := info.Sys().(*syscall.Stat_t); !ok || int(owner.Uid) != os.Geteuid() {
		return hint(fmt.Errorf("%s belongs to another user", path), "run adit as that user, or chown it")
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		want := 0o600
		if info.IsDir() {
			want = 0o700
		}
		return hint(fmt.Errorf("%s is open to others (mode %04o)", path, mode), "chmod %o %s", want, path)
	}
	return nil
}

// lockPatience is how long the lock is waited for: a process that was killed
// has ended for whoever killed it a little before its files are closed.
const lockPatience = time.Second

// lockDir makes sure that at most one process runs in a directory. The kernel
// lets go of the lock when the file is closed, by this process and by those that
// it has given the file to, however they end.
func lockDir(dir string) (*os.File, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("lock directory: %w", err)
	}
	err = syscall.Flock(int(d.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	for began := time.Now(); errors.Is(err, syscall.EWOULDBLOCK) && time.Since(began) < lockPatience; {
		time.Sleep(lockPatience / 50)
		err = syscall.Flock(int(d.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	}
	if err != nil {
		_ = d.Close() // nothing was written
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, errRunning(dir)
		}
		return nil, fmt.Errorf("lock directory: %w", err)
	}
	return d, nil
}
