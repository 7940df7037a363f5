//go:build unix

package keys

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// checkFile tells whether a file belongs to the user who runs this program,
// and to nobody else.
func checkFile(path string, info fs.FileInfo) error {
	if owner, ok := info.Sys().(*syscall.Stat_t); !ok || int(owner.Uid) != os.Geteuid() {
		return fmt.Errorf("%s belongs to another user; run adit as that user, or chown the file", path)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("%s may be read or written by others (mode %04o): chmod 600 %s", path, mode, path)
	}
	return nil
}

// checkDir refuses a directory in which others could put a file of theirs in
// the place of a key file. The sticky bit keeps them from it.
func checkDir(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if mode := info.Mode(); mode.Perm()&0o022 != 0 && mode&fs.ModeSticky == 0 {
		return fmt.Errorf("%s may be written by others (mode %04o): chmod 700 %s", dir, mode.Perm(), dir)
	}
	return nil
}

// syncDir makes a rename in a directory outlive a power cut.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
