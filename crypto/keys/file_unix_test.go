//go:build unix

package keys

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestKeyFilesAreMadePrivate(t *testing.T) {
	_, path := savedDevice(t)
	for name, want := range map[string]os.FileMode{path: 0o600, filepath.Dir(path): 0o700} {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s has mode %04o, want %04o", name, got, want)
		}
	}
}

func TestKeyFilesThatOthersMayTouchAreRefused(t *testing.T) {
	_, path := savedDevice(t)
	for _, mode := range []os.FileMode{0o640, 0o620, 0o610, 0o604, 0o602, 0o601, 0o644, 0o666} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadDevice(path); err == nil || !strings.Contains(err.Error(), "chmod 600 "+path) {
			t.Errorf("mode %04o: %v", mode, err)
		}
	}
	for _, mode := range []os.FileMode{0o600, 0o400} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadDevice(path); err != nil {
			t.Errorf("mode %04o: %v", mode, err)
		}
	}
}

func TestDirectoriesThatOthersMayWriteAreRefused(t *testing.T) {
	_, path := savedDevice(t)
	dir := filepath.Dir(path)
	for _, mode := range []os.FileMode{0o770, 0o777, 0o702} {
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadDevice(path); err == nil || !strings.Contains(err.Error(), "chmod 700 "+dir) {
			t.Errorf("load, mode %04o: %v", mode, err)
		}
		if err := newDevice(t).Save(filepath.Join(dir, "new.key")); err == nil || !strings.Contains(err.Error(), "chmod 700 "+dir) {
			t.Errorf("save, mode %04o: %v", mode, err)
		}
	}
	if err := os.Chmod(dir, 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadDevice(path); err != nil {
		t.Errorf("sticky: %v", err)
	}
}

func TestKeyFilesThatAreNoPlainFilesAreRefused(t *testing.T) {
	_, path := savedDevice(t)
	link, fifo := path+".link", path+".fifo"
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{link, fifo, filepath.Dir(path), path + ".missing"} {
		if _, err := LoadDevice(name); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

// stranger is a file that belongs to somebody else.
type stranger struct {
	os.FileInfo
	uid uint32
}

func (s stranger) Sys() any { return &syscall.Stat_t{Uid: s.uid} }

func TestKeyFilesOfOthersAreRefused(t *testing.T) {
	_, path := savedDevice(t)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	me := uint32(os.Geteuid())
	if err := checkFile(path, stranger{info, me}); err != nil {
		t.Error(err)
	}
	if err := checkFile(path, stranger{info, me + 1}); err == nil || !strings.Contains(err.Error(), "another user") {
		t.Errorf("another user's file: %v", err)
	}
}
