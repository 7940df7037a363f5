package audit

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"
)

// minute is how often what goes on is looked at, and what is old.
const minute = time.Minute

// flush writes what there is. What comes meanwhile waits for the next time, unless it is
// a whole batch: a few records at a time would keep the disk busy for nothing.
func (w *Writer) flush(ctx context.Context) {
	w.writing.Lock()
	defer w.writing.Unlock()
	switch ready, err := w.ready(ctx); {
	case err != nil:
		w.fail(err)
		return
	case !ready:
		return
	}
	for first := true; (first || w.full()) && w.take(); first = false {
		if err := w.write(ctx); err != nil {
			w.fail(err)
			return
		}
		w.works()
	}
	if err := w.look(ctx); err != nil {
		w.fail(err)
		return
	}
	w.works()
}

// look does what is to be done without records, too.
func (w *Writer) look(ctx context.Context) error {
	if err := w.follow(ctx); err != nil {
		return err
	}
	if w.before != nil && !w.waiting() {
		err := w.before.leave(context.WithoutCancel(ctx), w.run)
		w.before = nil
		if err != nil {
			w.cfg.Log.Warn("close an audit file", "error", err)
		}
	}
	now := w.now()
	if since := now.Sub(w.updated); since >= 0 && since < minute {
		return nil
	}
	w.updated = now
	return w.tidy(ctx)
}

// full tells whether a whole batch waits.
func (w *Writer) full() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.ended)+len(w.begun) >= maxBatch
}

// waiting tells whether something that goes on has no place in the file yet.
func (w *Writer) waiting() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.begun) > 0
}

// take makes a batch of what waits, unless one is left. It tells whether there is any.
func (w *Writer) take() bool {
	if !w.batch.empty() {
		return true
	}
	w.mu.Lock()
	n := min(len(w.begun), maxBatch)
	begun := slices.Clone(w.begun[:n])
	w.begun = slices.Delete(w.begun, 0, n)
	n = min(len(w.ended), maxBatch)
	w.batch.records = slices.Clone(w.ended[:n])
	w.ended = slices.Delete(w.ended, 0, n)
	begun = slices.DeleteFunc(begun, (*Entry).over)
	w.mu.Unlock()

	w.opening = begun
	for _, e := range begun {
		now, _ := e.now()
		w.batch.opened = append(w.batch.opened, &now)
	}
	return !w.batch.empty()
}

// write writes the batch.
func (w *Writer) write(ctx context.Context) error {
	w.writes(time.Now())
	defer w.writes(time.Time{})
	if err := w.follow(ctx); err != nil {
		return err
	}
	openings, err := w.day.write(ctx, &w.batch, w.now())
	if errors.Is(err, errClosed) {
		// Another process was faster.
		if err = w.rotate(ctx); err == nil {
			openings, err = w.day.write(ctx, &w.batch, w.now())
		}
	}
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, e := range w.opening {
		e.opening = openings[i]
		if e.ended != nil {
			e.ended.opening = openings[i] // it waits to be written
		}
	}
	w.written += int64(len(w.batch.records))
	w.batch, w.opening = batch{}, nil
	return nil
}

func (w *Writer) writes(since time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.since = since
}

// follow goes on to the next file if it is time to.
func (w *Writer) follow(ctx context.Context) error {
	if err := w.day.there(); err != nil {
		if w.cfg.Strict {
			return err // somebody has to look at it
		}
		return w.replace(ctx)
	}
	now := w.now()
	today := now.UTC().Truncate(24 * time.Hour)
	// A clock that is put right by a little, around midnight, is no reason.
	if today.After(w.day.day) || now.Before(w.day.day.Add(-time.Hour)) {
		return w.rotate(ctx)
	}
	return nil
}

// rotate goes on to the next file.
func (w *Writer) rotate(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	now := w.now()
	if err := w.day.finish(ctx, now); err != nil {
		return fmt.Errorf("%s: %w", w.day.path, err)
	}
	next, err := following(ctx, w.cfg.Dir, w.day, now)
	if err != nil {
		return err
	}
	if w.before != nil {
		err = w.before.leave(ctx, w.run)
	}
	w.cfg.Log.Info("audit file closed", "file", w.day.name(), "head", w.day.last.Head, "next", next.name())
	w.before, w.day = w.day, next
	w.reopen()
	return err
}

// replace begins a new file where there is none any more.
func (w *Writer) replace(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	if err := privateDir(w.cfg.Dir); err != nil {
		return err
	}
	all, err := files(w.cfg.Dir)
	if err != nil {
		return err
	}
	number := w.day.number
	if len(all) > 0 {
		number = max(number, all[len(all)-1].number)
	}
	next, err := createDay(ctx, fileAt(w.cfg.Dir, number+1, w.now()), w.day.last)
	if err != nil {
		return err
	}
	gone := w.day
	w.day = next
	w.reopen()
	_ = gone.close() // nobody can find it any more
	return w.Note(Record{Kind: Act, Begin: w.now(), What: "the file " + gone.name() + " had gone, and " + next.name() + " was begun"})
}

// reopen gives what goes on a place in a new file.
func (w *Writer) reopen() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.batch.progress = nil
	w.begun = slices.Collect(maps.Keys(w.open))
	w.begun = slices.DeleteFunc(w.begun, func(e *Entry) bool { return e.held || slices.Contains(w.opening, e) })
}

// newest opens the last file of a directory, or the one that is to follow it.
func newest(ctx context.Context, dir string, now time.Time) (*day, error) {
	all, err := files(dir)
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return createDay(ctx, fileAt(dir, 1, now), seal{})
	}
	d, err := openDay(ctx, all[len(all)-1])
	if err != nil {
		return nil, err
	}
	closed, err := d.closed(ctx)
	if err != nil {
		return nil, errors.Join(err, d.close())
	}
	if !closed {
		return d, nil
	}
	next, err := following(ctx, dir, d, now)
	return next, errors.Join(err, d.close())
}

// following opens the file after one that is closed.
func following(ctx context.Context, dir string, d *day, now time.Time) (*day, error) {
	all, err := files(dir)
	if err != nil {
		return nil, err
	}
	if last := all[len(all)-1]; last.number > d.number {
		return openDay(ctx, last)
	}
	return createDay(ctx, fileAt(dir, d.number+1, now), d.last)
}

func (d *day) closed(ctx context.Context) (bool, error) {
	var n int
	err := d.conn.QueryRowContext(ctx, "SELECT count(*) FROM closed").Scan(&n)
	return n > 0, err
}

// tidy does what is to be done once a minute. Only that records cannot be written is
// an error.
func (w *Writer) tidy(ctx context.Context) error {
	w.tellLost()
	w.update()
	if err := w.recover(ctx); err != nil {
		w.cfg.Log.Warn("look for what other processes have left", "error", err)
	}
	if !w.batch.empty() {
		if err := w.write(ctx); err != nil {
			return err
		}
	}
	return w.expire(ctx)
}

// update notes how far everything has come that has moved.
func (w *Writer) update() {
	w.mu.Lock()
	open := slices.DeleteFunc(slices.Collect(maps.Keys(w.open)), func(e *Entry) bool { return e.opening == 0 })
	w.mu.Unlock()
	for _, e := range open {
		now, moved := e.now()
		if !moved {
			continue
		}
		w.batch.progress = append(w.batch.progress, now)
		w.mu.Lock()
		e.last = extentOf(&now.Record)
		w.mu.Unlock()
	}
}

// expire removes the files that are too old or too many. One that cannot be removed, and all
// after it, wait for somebody to look at it.
func (w *Writer) expire(ctx context.Context) error {
	all, err := files(w.cfg.Dir)
	if err != nil {
		w.cfg.Log.Warn("look for old audit files", "error", err)
		return nil
	}
	var total int64
	for _, f := range all {
		total += f.size()
	}
	if w.cfg.MaxSize > 0 && w.day.size() > w.cfg.MaxSize/4 {
		// Only whole files go, and one must stay.
		if err := w.rotate(ctx); err != nil {
			return err
		}
	}
	for _, f := range all {
		old := w.cfg.Keep > 0 && w.now().Sub(f.day.AddDate(0, 0, 1)) > w.cfg.Keep
		big := w.cfg.MaxSize > 0 && total > w.cfg.MaxSize
		if !old && !big || f.path == w.day.path || w.before != nil && f.path == w.before.path {
			return nil
		}
		size := f.size()
		last, err := f.lastSeal(ctx)
		if err == nil {
			// First the record: a crash in between leaves a file too many.
			if err := w.recordRemoval(ctx, f, last); err != nil {
				return err
			}
			err = f.remove()
		}
		switch {
		case err == nil:
			w.cfg.Log.Info("audit file removed", "file", f.name(), "records", last.last[tableRecords])
		case !errors.Is(err, os.ErrNotExist): // another process may have been faster
			w.cfg.Log.Warn("remove an old audit file", "file", f.name(), "error", err)
			return nil
		}
		total -= size
	}
	return nil
}

// recordRemoval leaves a record of the removal of a file.
func (w *Writer) recordRemoval(ctx context.Context, f file, last seal) error {
	note := &entry{run: w.run, Record: Record{Kind: Act, Begin: w.now(), What: expiredWhat(f.name(), last)}}
	note.Exit = w.cfg.Exit
	w.mu.Lock()
	w.number++
	note.number = w.number
	w.mu.Unlock()
	w.batch.records = append(w.batch.records, note)
	return w.write(ctx)
}

// expiredWhat is how the record of a removal reads. Verify looks for it.
func expiredWhat(name string, last seal) string {
	return fmt.Sprintf("retention removed %s up to record %d, head %s", name, last.last[tableRecords], last.Head)
}
