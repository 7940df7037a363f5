package users

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// What SQLite's file format says at the start of the file (section 1.3 of its
// documentation).
const (
	headerSize      = 100
	headerMagic     = "SQLite format 3\x00"
	headerAppID     = 68
	applicationID   = 0x61646974 // "adit": see migrations/0001.sql
	restoreOrCreate = "restore it from a backup, or move it away and create a new one"
)

// inspect looks at a store's file before SQLite does, which would make a new
// database of an empty file and leave its own files beside a stranger's.
func inspect(path string) (fs.FileInfo, error) {
	if err := checkDir(filepath.Dir(path)); err != nil {
		return nil, err
	}
	for _, sibling := range siblings(path) {
		if err := checkSibling(sibling); err != nil {
			return nil, err
		}
	}
	named, err := os.Lstat(path)
	if err != nil {
		return nil, missing(err)
	}
	if err := checkRegular(path, named); err != nil {
		return nil, err
	}
	if err := checkFile(path, named); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0) // to learn whether it may be written to
	if err != nil {
		return nil, err
	}
	defer f.Close() // nothing was written
	file, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !os.SameFile(named, file) {
		return nil, fmt.Errorf("%s was replaced while it was being opened: try again", path)
	}
	return file, checkHeader(path, f)
}

func missing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w; create one first, or name the directory that holds it", err)
	}
	return err
}

func checkRegular(path string, info fs.FileInfo) error {
	switch mode := info.Mode(); {
	case mode&fs.ModeSymlink != 0:
		return fmt.Errorf("%s is a symbolic link: name the file itself", path)
	case !mode.IsRegular():
		return fmt.Errorf("%s is not a regular file", path)
	}
	return nil
}

func checkSibling(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return checkRegular(path, info)
}

func checkHeader(path string, r io.Reader) error {
	var b [headerSize]byte
	switch n, err := io.ReadFull(r, b[:]); {
	case n == 0 && errors.Is(err, io.EOF):
		return fmt.Errorf("%s is empty: %s", path, restoreOrCreate)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%s is cut short: %s", path, restoreOrCreate)
	case err != nil:
		return err
	}
	if !bytes.HasPrefix(b[:], []byte(headerMagic)) {
		return fmt.Errorf("%s is damaged, or no store at all: %s", path, restoreOrCreate)
	}
	if binary.BigEndian.Uint32(b[headerAppID:]) != applicationID {
		return fmt.Errorf("%s is another program's database: name the one that adit has made", path)
	}
	return nil
}
