package audit

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	_ "modernc.org/sqlite" // the "sqlite" driver
)

const (
	suffix        = ".db"
	applicationID = 0x61646974 // "adit": see migrations/0001.sql

	// What SQLite's file format says at the start of the file (section 1.3 of its
	// documentation).
	headerSize    = 100
	headerMagic   = "SQLite format 3\x00"
	headerVersion = 60
	headerAppID   = 68
)

// file is one of the warehouse's. They are numbered, because a clock may be set back.
type file struct {
	number int
	day    time.Time // that it was begun on, in UTC
	path   string
}

func fileAt(dir string, number int, at time.Time) file {
	day := at.UTC().Truncate(24 * time.Hour)
	return file{number: number, day: day, path: filepath.Join(dir, fmt.Sprintf("%06d-%s%s", number, day.Format(time.DateOnly), suffix))}
}

// files gives what there is in a directory, in order.
func files(dir string) ([]file, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var all []file
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), suffix)
		number, date, ok2 := strings.Cut(name, "-")
		n, err := strconv.Atoi(number)
		day, err2 := time.Parse(time.DateOnly, date)
		if !ok || !ok2 || err != nil || err2 != nil || n < 1 {
			continue // SQLite's own, or a stranger's
		}
		all = append(all, file{n, day, filepath.Join(dir, e.Name())})
	}
	slices.SortFunc(all, func(a, b file) int { return cmp.Compare(a.number, b.number) })
	for i := range len(all) - 1 {
		if all[i].number == all[i+1].number {
			return nil, fmt.Errorf("%s and %s have the same number: move the one that does not belong here away", all[i].path, all[i+1].path)
		}
	}
	return all, nil
}

// name is the file's without its directory.
func (f file) name() string { return filepath.Base(f.path) }

// size is what the file and SQLite's own files beside it take.
func (f file) size() (n int64) {
	for _, path := range append(siblings(f.path), f.path) {
		if info, err := os.Lstat(path); err == nil {
			n += info.Size()
		}
	}
	return n
}

// remove removes the file and what SQLite has put beside it.
func (f file) remove() error {
	err := os.Remove(f.path)
	for _, path := range siblings(f.path) {
		if e := os.Remove(path); e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	return err
}

// siblings are the files that SQLite puts next to its own.
func siblings(path string) []string {
	return []string{path + "-wal", path + "-shm", path + "-journal"}
}

// inspect looks at a file before SQLite does, which would make a new database of an
// empty one.
func (f file) inspect() (fs.FileInfo, error) {
	for _, path := range append(siblings(f.path), f.path) {
		info, err := os.Lstat(path)
		if errors.Is(err, fs.ErrNotExist) && path != f.path {
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := checkFile(path, info); err != nil {
			return nil, err
		}
	}
	r, err := os.Open(f.path)
	if err != nil {
		return nil, err
	}
	defer r.Close() // nothing was written
	var b [headerSize]byte
	if n, _ := r.ReadAt(b[:], 0); n < len(b) || string(b[:len(headerMagic)]) != headerMagic {
		return nil, fmt.Errorf("%s is damaged: restore it from a backup, or move it away", f.path)
	}
	if binary.BigEndian.Uint32(b[headerAppID:]) != applicationID {
		return nil, fmt.Errorf("%s is another program's database: move it away", f.path)
	}
	if v := int(binary.BigEndian.Uint32(b[headerVersion:])); v > newestVersion() {
		return nil, fmt.Errorf("%s: %w", f.path, tooNew(v))
	}
	return r.Stat()
}

// dsn names a file that has to be there.
func dsn(path, more string) string {
	path = filepath.ToSlash(path)
	if filepath.VolumeName(path) != "" {
		path = "/" + path // file:/C:/audit/…
	}
	u := url.URL{Path: path}
	return "file:" + u.EscapedPath() + "?_defensive=1&_dqs=0&" + more
}

// privateDir makes a directory that only this user looks into, or says why the one that is
// there is not one.
func privateDir(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	return checkDir(dir, info)
}
