//go:build unix

package users

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// checkFile tells whether a file belongs to the user who runs this program, and
// to nobody else.
func checkFile(path string, info fs.FileInfo) error {
	if owner, ok := info.Sys().(*syscall.Stat_t); !ok || int(owner.Uid) != os.Geteuid() {
		return fmt.Errorf("%s belongs to another user: run adit as that user, or chown the file", path)
	}
	if mode := info.Mode().Perm(); mode != 0o600 {
		return fmt.Errorf("%s has mode %04o, and must be for its owner alone to read and write: chmod 600 %s", path, mode, path)
	}
	return nil
}

// checkDir refuses a directory in which others could put a file of theirs in
// the store's place. The sticky bit keeps them from it.
func checkDir(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return missing(err)
	}
	if mode := info.Mode(); mode.Perm()&0o022 != 0 && mode&fs.ModeSticky == 0 {
		return fmt.Errorf("%s may be written by others (mode %04o): chmod 700 %s", dir, mode.Perm(), dir)
	}
	return nil
}
