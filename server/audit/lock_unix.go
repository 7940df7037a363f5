//go:build unix

package audit

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
)

// runLock says that a process is alive. The kernel lets go of it when the process
// ends, however that is.
type runLock struct {
	f    *os.File
	path string
}

func lockRun(dir, run string) (*runLock, error) {
	// It gets its name when it is locked: others would take it for a dead one's before.
	f, err := os.OpenFile(filepath.Join(dir, "new-"+run), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	l := &runLock{f, runPath(dir, run)}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		err = os.Rename(f.Name(), l.path)
	}
	if err != nil {
		return nil, errors.Join(err, os.Remove(f.Name()), f.Close())
	}
	return l, nil
}

func (l *runLock) release() error {
	return errors.Join(os.Remove(l.path), l.f.Close())
}

// alive tells whether the process of a run goes on.
func alive(dir, run string) bool {
	f, err := os.Open(runPath(dir, run))
	if err != nil {
		return false
	}
	defer f.Close() // nothing was written
	return syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB) != nil
}

func runPath(dir, run string) string { return filepath.Join(dir, "run-"+run) }
