package audit

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// recent is in how many of the last files something may go on that a process has left.
const recent = 3

// flowKey names something across files.
type flowKey struct {
	run    string
	number int64
}

// recover puts into the batch what processes that have ended had not recorded to its end.
func (w *Writer) recover(ctx context.Context) error {
	dead, err := w.deadRuns()
	if err != nil {
		return err
	}
	all, err := files(w.cfg.Dir)
	if err != nil {
		return err
	}
	all = all[max(0, len(all)-recent):]
	for i := len(all) - 1; i >= 0; i-- {
		if err := w.recoverFrom(ctx, all[i], all[i+1:]); err != nil {
			return err
		}
	}
	for _, path := range dead {
		_ = os.Remove(path) // the next process tries again
	}
	return nil
}

// deadRuns gives the lock files that processes have left.
func (w *Writer) deadRuns() (dead []string, err error) {
	locks, err := filepath.Glob(filepath.Join(w.cfg.Dir, "run-*"))
	if err != nil {
		return nil, err
	}
	for _, path := range locks {
		run := strings.TrimPrefix(filepath.Base(path), "run-")
		if run != w.run && !alive(w.cfg.Dir, run) {
			dead = append(dead, path)
		}
	}
	return dead, nil
}

// recoverFrom takes what is left in one file. What a later file knows of has gone on there.
func (w *Writer) recoverFrom(ctx context.Context, f file, later []file) error {
	left, err := w.leftIn(ctx, f)
	if err != nil {
		return err
	}
	left = slices.DeleteFunc(left, func(e entry) bool { return w.recovered[flowKey{e.run, e.number}] })
	if len(left) == 0 {
		return nil
	}
	for _, next := range later {
		if err := next.findIn(ctx, left, w.recovered); err != nil {
			return err
		}
	}
	for i := range left {
		e := &left[i]
		key := flowKey{e.run, e.number}
		if w.recovered[key] {
			continue
		}
		w.recovered[key] = true
		e.End = endLost
		w.batch.records = append(w.batch.records, e)
	}
	return nil
}

// findIn adds what of those left a file has an end of, or goes on with.
func (f file) findIn(ctx context.Context, left []entry, known map[flowKey]bool) (err error) {
	db, err := f.readable()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	var runs []string
	var ids []int64
	for _, e := range left {
		runs, ids = append(runs, e.run), append(ids, e.number)
	}
	slices.Sort(runs)
	wanted, _ := json.Marshal([]any{slices.Compact(runs), ids}) // texts and numbers always can
	const ofThem = ` r JOIN origins o ON o.id = r.origin WHERE o.run IN (SELECT value FROM json_each(?1, '$[0]'))
		AND r.id IN (SELECT value FROM json_each(?1, '$[1]'))`
	rows, err := db.QueryContext(ctx, "SELECT o.run, r.id FROM records"+ofThem+" AND r.kind IN (1, 2) UNION SELECT o.run, r.id FROM opened"+ofThem, string(wanted))
	if err != nil {
		return err
	}
	defer rows.Close() // Err has the error
	for rows.Next() {
		var key flowKey
		if err := rows.Scan(&key.run, &key.number); err != nil {
			return err
		}
		known[key] = true
	}
	return rows.Err()
}

// leftIn gives what goes on in a file and is nobody's any more.
func (w *Writer) leftIn(ctx context.Context, f file) (left []entry, err error) {
	db, err := f.readable()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	gone, err := w.goneRuns(ctx, db)
	if err != nil {
		return nil, err
	}
	for _, run := range gone {
		var its where
		its.add("r.origin IN (SELECT id FROM origins WHERE run = ?)", run)
		_, err := entries(ctx, db, live, its, "ASC", func(e *entry) bool {
			e.opening = e.Seq
			left = append(left, *e)
			return true
		})
		if err != nil {
			return nil, err
		}
	}
	return left, nil
}

// goneRuns gives the processes that have left something in a file.
func (w *Writer) goneRuns(ctx context.Context, db *sql.DB) (gone []string, err error) {
	rows, err := db.QueryContext(ctx, "SELECT DISTINCT run FROM progress")
	if err != nil {
		return nil, err
	}
	defer rows.Close() // Err has the error
	for rows.Next() {
		var run string
		if err := rows.Scan(&run); err != nil {
			return nil, err
		}
		if run != w.run && !alive(w.cfg.Dir, run) {
			gone = append(gone, run)
		}
	}
	return gone, rows.Err()
}
