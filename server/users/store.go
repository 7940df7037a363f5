// Package users keeps who may come: users, their groups, their devices, the
// invites that enrol more of these, passwords and Kerberos principals. All of it is in one SQLite file, which
// several processes may use at once: an admin command changes it while the
// server runs, and the server hears of it from [Store.Watch].
package users

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	_ "modernc.org/sqlite" // the "sqlite" driver
)

const (
	// busyTimeout is how long a process waits for another one's transaction.
	busyTimeout = 5 * time.Second

	// readers is how many look-ups one process runs at once; more of them queue.
	readers = 4

	// maxRows bounds how many users there are, and devices, and invites.
	maxRows = 1_000_000
)

// Store is an open store. It is safe for concurrent use. A method that fails
// has changed nothing. One that waits for another process may go on doing so
// for 5 s after its context has ended.
type Store struct {
	path    string
	file    fs.FileInfo // what was at path when it was opened
	reads   *sql.DB
	writes  *sql.DB // one connection: a process is never in its own way
	lookup  *sql.Stmt
	now     func() time.Time
	maxRows int

	passwords *passwords
}

// Create makes a new store with mode 0600 in a directory that is there
// already. Where there is a store, or what is left of one, the error is an
// [fs.ErrExist].
func Create(ctx context.Context, path string) (*Store, error) {
	s, err := create(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("create store: %w", err)
	}
	return s, nil
}

func create(ctx context.Context, path string) (*Store, error) {
	if err := checkDir(filepath.Dir(path)); err != nil {
		return nil, err
	}
	for _, sibling := range siblings(path) {
		// SQLite would take this for the new store's own.
		if _, err := os.Lstat(sibling); err == nil {
			return nil, fmt.Errorf("%s: %w, left by an earlier store; move it away", sibling, fs.ErrExist)
		}
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("%w; open that one, or move it away", err)
	}
	if err != nil {
		return nil, err
	}
	s, err := fill(ctx, path, f)
	if err != nil {
		return nil, errors.Join(err, os.Remove(path))
	}
	return s, nil
}

// fill makes a store of the empty file that f has open, and closes f.
func fill(ctx context.Context, path string, f *os.File) (*Store, error) {
	file, err := f.Stat()
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	s, err := connect(path, file)
	if err != nil {
		return nil, err
	}
	if err := s.prepare(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	// The file itself has to say whose it is: see inspect.
	if _, err := s.writes.ExecContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)"); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Open opens a store that [Create] has made. It refuses a file that is
// missing, damaged, not ours, of a later version, or that another user of this
// machine could have read or changed.
func Open(ctx context.Context, path string) (*Store, error) {
	s, err := open(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	return s, nil
}

func open(ctx context.Context, path string) (*Store, error) {
	file, err := inspect(path)
	if err != nil {
		return nil, err
	}
	s, err := connect(path, file)
	if err != nil {
		return nil, err
	}
	if err := s.check(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	if err := s.prepare(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func connect(path string, file fs.FileInfo) (*Store, error) {
	// Nothing is opened before the first query.
	reads, err := sql.Open("sqlite", dsn(path, "_query_only=1"))
	if err != nil {
		return nil, err
	}
	writes, err := sql.Open("sqlite", dsn(path, "_txlock=immediate&_journal_mode=WAL"))
	if err != nil {
		return nil, errors.Join(err, reads.Close())
	}
	reads.SetMaxOpenConns(readers)
	reads.SetMaxIdleConns(readers)
	writes.SetMaxOpenConns(1)
	return &Store{path: path, file: file, reads: reads, writes: writes, now: time.Now, maxRows: maxRows, passwords: newPasswords()}, nil
}

// dsn names a file that has to be there.
func dsn(path, more string) string {
	path = filepath.ToSlash(path)
	if filepath.VolumeName(path) != "" {
		path = "/" + path // file:/C:/adit.db
	}
	u := url.URL{Path: path}
	return fmt.Sprintf("file:%s?mode=rw&_defensive=1&_dqs=0&_foreign_keys=1&_synchronous=FULL&_busy_timeout=%d&%s",
		u.EscapedPath(), busyTimeout.Milliseconds(), more)
}

// siblings are the files that SQLite puts next to its own.
func siblings(path string) []string {
	return []string{path + "-wal", path + "-shm", path + "-journal"}
}

// check reads the whole store once, so that damage is found now and not
// halfway through an answer.
func (s *Store) check(ctx context.Context) error {
	var verdict string
	err := s.reads.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&verdict)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return fmt.Errorf("check %s: %w; if it is damaged, restore it from a backup", s.path, err)
	case verdict != "ok":
		// The verdict may run over several lines.
		return fmt.Errorf("%s is damaged (%s): restore it from a backup", s.path, strings.Join(strings.Fields(verdict), " "))
	}
	return nil
}

// prepare makes a sound store ready for use.
func (s *Store) prepare(ctx context.Context) error {
	if err := s.migrate(ctx); err != nil {
		return err
	}
	var err error
	s.lookup, err = s.reads.PrepareContext(ctx, lookupQuery)
	return err
}

// Close closes the store. What is under way comes to its end first.
func (s *Store) Close() error {
	// The writer goes last: as the only connection it can fold the log into the file.
	return errors.Join(s.reads.Close(), s.writes.Close())
}

// change runs one transaction that other processes see whole or not at all.
func (s *Store) change(ctx context.Context, do func(*sql.Tx) error) error {
	tx, err := s.writes.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // does nothing after a Commit
	if err := do(tx); err != nil {
		return err
	}
	return tx.Commit()
}

// room tells whether one more row may go into a table.
func (s *Store) room(ctx context.Context, tx *sql.Tx, table string) error {
	var n int
	if err := tx.QueryRowContext(ctx, "SELECT count(*) FROM "+table).Scan(&n); err != nil {
		return err
	}
	if n >= s.maxRows {
		return fmt.Errorf("the store holds %d %s, as many as it may: remove some", n, table)
	}
	return nil
}

func millis(t time.Time) int64 { return t.UnixMilli() }

// instant is what millis was made from; 0 is no time at all.
func instant(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}
