package audit

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"
)

// followEvery is how often Follow looks for records.
const followEvery = 500 * time.Millisecond

// Follow gives the records that fit and come after the one at the place after, until ctx ends:
// that is no error. A negative place is the end as it is now. Whoever keeps the last
// record's Seq can go on there, and so bring all records to another store.
func (r *Reader) Follow(ctx context.Context, q Query, after int64) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		f := follower{dir: r.dir, query: q, after: after}
		tick := time.NewTicker(followEvery)
		defer tick.Stop()
		for more := true; more; {
			err := f.poll(ctx, func(e Record) bool { more = yield(e, nil); return more })
			switch {
			case ctx.Err() != nil || !more:
				return
			case err != nil:
				yield(Record{}, fmt.Errorf("follow audit: %w", err))
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	}
}

// follower knows how far it has come.
type follower struct {
	dir    string
	query  Query
	after  int64
	number int // of the file that the last record was in
}

func (f *follower) poll(ctx context.Context, yield func(Record) bool) error {
	all, err := files(f.dir)
	if err != nil {
		return err
	}
	if f.after < 0 {
		if f.after = 0; len(all) > 0 {
			last, err := all[len(all)-1].lastSeal(ctx)
			if err != nil {
				return err
			}
			f.after, f.number = last.last[tableRecords], all[len(all)-1].number
		}
	}
	for _, one := range all {
		if one.number < f.number {
			continue
		}
		if more, err := f.file(ctx, one, yield); err != nil || !more {
			return err
		}
		f.number = one.number
	}
	return nil
}

// file gives what is new in a file.
func (f *follower) file(ctx context.Context, one file, yield func(Record) bool) (more bool, err error) {
	db, err := one.readable()
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	w := f.query.where()
	// Up to a seal: what comes meanwhile is for the next time.
	last, err := lastSeal(ctx, db)
	if err != nil {
		return false, err
	}
	w.add("r.seq > ? AND r.seq <= ?", f.after, last.last[tableRecords])
	more, err = records(ctx, db, "records", w, "ASC", func(e Record) bool {
		f.after = e.Seq
		return yield(e)
	})
	if more && err == nil {
		f.after = max(f.after, last.last[tableRecords])
	}
	return more, err
}
