package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// fresh is a directory that is being filled for the first time: either all of it
// comes about, or nothing is left behind.
type fresh struct {
	dir   string
	made  string   // the topmost directory that did not exist before, if any
	files []string // what was put into dir
}

// newFresh makes a directory of mode 0700. One that is there already will do if it
// is private and there is no adit in it.
func newFresh(dir, kind string) (*fresh, error) {
	if _, err := os.Lstat(filepath.Join(dir, configFile(kind))); err == nil {
		return nil, hint(fmt.Errorf("there is an adit %s in %s already", kind, dir), "name another directory with --dir, or move that one away")
	}
	f := &fresh{dir: dir}
	for at := dir; ; at = filepath.Dir(at) {
		if _, err := os.Stat(at); !errors.Is(err, fs.ErrNotExist) {
			break
		}
		f.made = at
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, hint(fmt.Errorf("make directory: %w", err), "name a directory that you may write to with --dir")
	}
	info, err := os.Stat(dir)
	if err == nil {
		err = checkOwner(dir, info)
	}
	if err != nil {
		return nil, errors.Join(err, f.discard())
	}
	return f, nil
}

// path names a file that is about to be put into the directory.
func (f *fresh) path(name string) string {
	p := filepath.Join(f.dir, name)
	if _, err := os.Lstat(p); errors.Is(err, fs.ErrNotExist) {
		f.files = append(f.files, p)
	}
	return p
}

// discard removes everything that was made.
func (f *fresh) discard() error {
	if f.made != "" {
		return os.RemoveAll(f.made)
	}
	var all []error
	for _, p := range f.files {
		if err := os.Remove(p); !errors.Is(err, fs.ErrNotExist) {
			all = append(all, err)
		}
	}
	return errors.Join(all...)
}
