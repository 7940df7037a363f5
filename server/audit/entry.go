package audit

import (
	"cmp"
	"strconv"
)

// Entry is the record of something that goes on.
type Entry struct {
	w       *Writer
	subject Subject
	number  int64
	opening int64 // its place in opened; 0: it has none. It is the writing goroutine's
	last    extent
	ended   *entry // as it ended; nil: it goes on
	dropped bool
	held    bool // not in the file, and perhaps never
}

// extent is how far something had come when it was looked at.
type extent struct {
	up, down, sent, received int64
	resumes                  int
}

func extentOf(r *Record) extent { return extent{r.Up, r.Down, r.Sent, r.Received, r.Resumes} }

// Begin opens a record. A strict Writer that cannot says [ErrNotRecorded]. Otherwise the
// Entry must be ended.
func (w *Writer) Begin(s Subject) (*Entry, error) { return w.begin(s, false) }

// Hold is Begin for what may turn out to need no record. Nothing is written before Open or
// End.
func (w *Writer) Hold(s Subject) (*Entry, error) { return w.begin(s, true) }

func (w *Writer) begin(s Subject, held bool) (*Entry, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.refusal(); err != nil {
		return nil, err
	}
	w.number++
	e := &Entry{w: w, subject: s, number: w.number, held: held}
	w.open[e] = struct{}{}
	if !held {
		w.queue(e)
	}
	return e, nil
}

// queue has the file get what has begun. The caller holds mu.
func (w *Writer) queue(e *Entry) {
	if len(w.begun) < w.most {
		w.begun = append(w.begun, e)
	}
	w.hurry()
}

// Open has what was held go to the file from now on.
func (e *Entry) Open() {
	e.w.mu.Lock()
	defer e.w.mu.Unlock()
	if e.held && !e.over() {
		e.held = false
		e.w.queue(e)
	}
}

// Drop ends what is held without a record. It tells whether it is.
func (e *Entry) Drop() bool {
	e.w.mu.Lock()
	defer e.w.mu.Unlock()
	if !e.held {
		return false
	}
	e.dropped = true
	delete(e.w.open, e)
	return true
}

// Note records what takes no time. The error is as Begin's; then the record is lost.
func (w *Writer) Note(r Record) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.refusal(); err != nil {
		w.lost++
		return err
	}
	w.number++
	w.end(&entry{Record: r, run: w.run, number: w.number})
	return nil
}

// ID is what the record is known by.
func (e *Entry) ID() string { return recordID(e.w.run, e.number) }

// recordID is short, and no other record's.
func recordID(run string, number int64) string { return run + "-" + strconv.FormatInt(number, 10) }

// over tells whether there is no more to say. The Writer's mu is held.
func (e *Entry) over() bool { return e.dropped || e.ended != nil }

// End closes the record with all that is known by now. Only the first call counts.
func (e *Entry) End(r Record) {
	w := e.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if e.over() {
		return
	}
	e.ended = &entry{Record: r, run: w.run, number: e.number, opening: e.opening}
	delete(w.open, e)
	w.end(e.ended)
}

// end queues a record. One that has begun may always end: a strict Writer lets no more
// begin than it can take. The caller holds mu.
func (w *Writer) end(r *entry) {
	if w.crowded() {
		w.lost++
		return
	}
	r.Exit = cmp.Or(r.Exit, w.cfg.Exit)
	w.ended = append(w.ended, r)
	w.hurry()
}

// crowded tells whether there is no room for what has ended. The caller holds mu.
func (w *Writer) crowded() bool { return !w.cfg.Strict && len(w.ended) >= w.most }

// hurry wakes Serve when a batch is full. The caller holds mu.
func (w *Writer) hurry() {
	if len(w.ended)+len(w.begun) < maxBatch {
		return
	}
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// now is the record as it is now, and whether it has moved since it was written last.
func (e *Entry) now() (now entry, moved bool) {
	e.w.mu.Lock()
	now.run, now.number, now.opening = e.w.run, e.number, e.opening
	last := e.last
	e.w.mu.Unlock()
	e.subject.Progress(&now.Record)
	now.Exit = cmp.Or(now.Exit, e.w.cfg.Exit)
	return now, extentOf(&now.Record) != last
}
