package audit

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"
)

var (
	errGone   = errors.New("the file that records go to has been removed or replaced")
	errClosed = errors.New("another process has begun the next file")
)

// forWriting are the settings of the one connection that writes. What has been committed
// survives a crash of the machine.
const forWriting = "mode=rw&_synchronous=FULL&_busy_timeout=700&_journal_mode=WAL&_pragma=cache_size(-32768)&_pragma=wal_autocheckpoint(4000)&_pragma=journal_size_limit(67108864)"

// day is a file open for writing. It is not safe for concurrent use, but other processes may
// write to the same file.
type day struct {
	file
	info fs.FileInfo // what was at path when it was opened
	db   *sql.DB
	conn *sql.Conn
	last seal    // that this process has seen
	lost outcome // of the batch before, if it is not known whether it was committed

	words     cache[string, int64]
	addresses cache[netip.Addr, int64]
	origins   cache[originKey, int64]

	filling filling // as far as no other process writes in between

	addWord, addOrigin, addOpened, addRecord     *statement
	addHour, addBlock, setProgress, dropProgress *statement
	statements                                   []*statement // all of these
}

type originKey struct {
	run string
	Origin
}

// openDay opens a file for writing.
func openDay(ctx context.Context, f file) (*day, error) {
	info, err := f.inspect()
	if err != nil {
		return nil, err
	}
	db, err := sql.Open("sqlite", dsn(f.path, forWriting))
	if err != nil {
		return nil, err
	}
	d := &day{file: f, info: info, db: db}
	if err := d.prepare(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", f.path, err), d.close())
	}
	return d, nil
}

func (d *day) prepare(ctx context.Context) (err error) {
	if d.conn, err = d.db.Conn(ctx); err != nil {
		return err
	}
	if err := migrate(ctx, d.conn, migrations); err != nil {
		return err
	}
	for s, text := range map[**statement]string{
		&d.addWord:      "INSERT INTO words VALUES " + marks(3),
		&d.addOrigin:    "INSERT INTO origins VALUES " + marks(originColumns),
		&d.addOpened:    "INSERT INTO opened VALUES " + marks(recordColumns),
		&d.addRecord:    "INSERT INTO records VALUES " + marks(recordColumns),
		&d.addHour:      addHourQuery,
		&d.addBlock:     "INSERT INTO blocks VALUES " + marks(8),
		&d.setProgress:  "INSERT OR REPLACE INTO progress VALUES " + marks(8),
		&d.dropProgress: "DELETE FROM progress WHERE opening = ?",
	} {
		if *s, err = prepare(ctx, d.conn, text); err != nil {
			return err
		}
		d.statements = append(d.statements, *s)
	}
	d.last, err = lastSeal(ctx, d.conn)
	return err
}

// marks are the placeholders of a row.
func marks(n int) string { return "(?" + strings.Repeat(",?", n-1) + ")" }

// createDay makes the file that follows a seal, and opens it. If another process has made it
// meanwhile, it opens that one.
func createDay(ctx context.Context, f file, before seal) (*day, error) {
	// Nobody sees it before it is whole, and another process has a draft of its own.
	empty, err := os.CreateTemp(filepath.Dir(f.path), f.name()+".*.new")
	if err != nil {
		return nil, err
	}
	draft := file{path: empty.Name()}
	if err = empty.Close(); err == nil {
		err = draft.fill(ctx, before)
	}
	if err == nil {
		if err = os.Link(draft.path, f.path); errors.Is(err, fs.ErrExist) {
			err = nil
		}
	}
	if err := errors.Join(err, draft.remove()); err != nil {
		return nil, err
	}
	return openDay(ctx, f)
}

// fill gives an empty file its tables and its first seal.
func (f file) fill(ctx context.Context, before seal) (err error) {
	db, err := sql.Open("sqlite", dsn(f.path, "mode=rw&_synchronous=FULL"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if err := migrate(ctx, conn, migrations); err != nil {
		return err
	}
	before.last[tableWords], before.last[tableOrigins] = 0, 0 // each file has its own
	return addSeal(ctx, conn, before)
}

func (d *day) close() error {
	var err error
	for _, s := range d.statements {
		err = errors.Join(err, s.close())
	}
	d.statements = nil
	if d.conn != nil {
		err = errors.Join(err, d.conn.Close())
	}
	return errors.Join(err, d.db.Close())
}

// there tells whether the file is still where it was: SQLite would go on writing to one
// that nobody can find any more.
func (d *day) there() error {
	info, err := os.Lstat(d.path)
	if err != nil || !os.SameFile(info, d.info) {
		return fmt.Errorf("%s: %w", d.path, errGone)
	}
	return nil
}

// write adds a batch, wholly or not at all, and gives the openings' places. After an error
// the same batch comes again.
func (d *day) write(ctx context.Context, b *batch, now time.Time) (openings []int64, err error) {
	if err := d.there(); err != nil {
		return nil, err
	}
	t := &turn{day: d, ctx: context.WithoutCancel(ctx), now: now}
	err = immediate(t.ctx, d.conn, func() error { return t.run(b) })
	d.lost = t.outcome
	if err != nil {
		// The ids that were given out are none.
		d.words.clear()
		d.addresses.clear()
		d.origins.clear()
		d.filling = filling{}
		return nil, fmt.Errorf("%s: %w", d.path, err)
	}
	d.last, d.lost = t.sealed, outcome{}
	return t.openings, nil
}

// finish says that another file will take this one's place.
func (d *day) finish(ctx context.Context, now time.Time) error {
	return immediate(ctx, d.conn, func() (err error) {
		if d.last, err = lastSeal(ctx, d.conn); err != nil {
			return err
		}
		_, err = d.conn.ExecContext(ctx, "INSERT INTO closed SELECT ? WHERE NOT EXISTS (SELECT 1 FROM closed)", now.UnixMilli())
		return err
	})
}

// leave takes the progress of a process away, which another file has by now, and closes
// the file. The last process to leave puts all into the one file.
func (d *day) leave(ctx context.Context, run string) error {
	_, err := d.conn.ExecContext(ctx, "DELETE FROM progress WHERE run = ?", run)
	// Others may be reading; then the log stays beside the file.
	_, _ = d.conn.ExecContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)")
	return errors.Join(err, d.close())
}

// queryer is what reads from a file.
type queryer interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

const sealColumns = "n, time, words, origins, opened, records, hash"

func lastSeal(ctx context.Context, q queryer) (seal, error) {
	return scanSeal(q.QueryRowContext(ctx, "SELECT "+sealColumns+" FROM seals ORDER BY n DESC LIMIT 1"))
}

func scanSeal(row interface{ Scan(...any) error }) (s seal, err error) {
	var sum []byte
	if err := row.Scan(&s.N, &s.time, &s.last[tableWords], &s.last[tableOrigins], &s.last[tableOpened], &s.last[tableRecords], &sum); err != nil {
		return seal{}, fmt.Errorf("read seal: %w", err)
	}
	if len(sum) != sha256.Size {
		return seal{}, errors.New("read seal: the hash is cut short")
	}
	s.Hash = [sha256.Size]byte(sum)
	return s, nil
}

func addSeal(ctx context.Context, conn *sql.Conn, s seal) error {
	_, err := conn.ExecContext(ctx, "INSERT INTO seals VALUES "+marks(7),
		s.N, s.time, s.last[tableWords], s.last[tableOrigins], s.last[tableOpened], s.last[tableRecords], s.Hash[:])
	return err
}
