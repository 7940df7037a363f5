//go:build unix

package audit

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// checkFile tells whether a file belongs to the user who runs this program, and to nobody
// else.
func checkFile(path string, info fs.FileInfo) error {
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", path)
	}
	return checkPrivate(path, info, 0o600)
}

// checkDir tells the same of a directory.
func checkDir(path string, info fs.FileInfo) error {
	if !info.IsDir() {
		return fmt.Errorf("%s is not a directory", path)
	}
	return checkPrivate(path, info, 0o700)
}

func checkPrivate(path string, info fs.FileInfo, want fs.FileMode) error {
	if owner, ok := info.Sys().(*syscall.Stat_t); !ok || int(owner.Uid) != os.Geteuid() {
		return fmt.Errorf("%s belongs to another user: run adit as that user, or chown it", path)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("%s is open to others (mode %04o): chmod %o %s", path, mode, want, path)
	}
	return nil
}
