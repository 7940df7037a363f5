package audit

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"
)

const (
	// interval is how long a record waits for others: what a crash may lose.
	interval = 250 * time.Millisecond

	// maxBatch is how many records go to the file together. So many waiting ones do
	// not wait any longer.
	maxBatch = 8192

	// maxQueue is how many records may wait.
	maxQueue = 1 << 16

	// slow is how long a batch may take before a strict Writer takes no more, and stuck
	// before it ends what is open.
	slow, stuck = time.Second, 5 * time.Second
)

// ErrNotRecorded says that a strict Writer cannot record what is about to begin, which must
// not begin then.
var ErrNotRecorded = errors.New("it could not be recorded")

// Config says what a [Writer] does.
type Config struct {
	Dir  string // is made if need be, not what it is in
	Exit string // for records that name none

	// Strict refuses and ends what cannot be recorded. Otherwise it goes on, and what
	// was lost is counted and told.
	Strict bool

	Keep    time.Duration // how long files are kept after their day; 0: for ever
	MaxSize int64         // bytes of all files together, of which the oldest go; 0: no limit

	Log *slog.Logger // nil means slog.Default
}

// Subject is what a record is about that goes on. Its methods are called from another
// goroutine, and not while the Writer holds a lock.
type Subject interface {
	// Progress fills in the record: all that is known by now.
	Progress(*Record)

	// Cut ends it, because it cannot be recorded any more. It does not wait.
	Cut(reason error)
}

// Writer adds records to the warehouse. Its methods are safe for concurrent use, and none
// of them waits for the disk but Serve and Close.
type Writer struct {
	cfg  Config
	most int    // records that may wait: maxQueue
	run  string // names this process in the files
	lock *runLock
	now  func() time.Time
	wake chan struct{}

	mu     sync.Mutex
	number int64
	begun  []*Entry // have no place in opened yet
	ended  []*entry // are complete
	open   map[*Entry]struct{}
	failed error     // since the last batch that was written
	since  time.Time // when the batch under way began; zero: there is none
	lost   int64     // records that were not even queued

	written, told int64 // records in all, and those lost that are on record as such

	// Whoever writes: Serve, and after it Close.
	writing   sync.Mutex
	started   time.Time        // when opening was tried last
	day       *day             // nil: the warehouse is not open yet
	before    *day             // the file before, until its progress is in day
	batch     batch            // is left over if it could not be written
	opening   []*Entry         // of batch.opened
	recovered map[flowKey]bool // of other processes
	updated   time.Time
}

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

// New gives a Writer that opens the warehouse once Serve runs, and tries again every second
// while that fails. For a strict one that is too late: see [Open].
func New(cfg Config) *Writer {
	w := &Writer{
		cfg:  cfg,
		most: maxQueue,
		now:  time.Now,
		wake: make(chan struct{}, 1),
		open: make(map[*Entry]struct{}),

		recovered: make(map[flowKey]bool),
	}
	w.cfg.Log = cmp.Or(cfg.Log, slog.Default())
	var id [8]byte
	rand.Read(id[:]) // never fails
	w.run = hex.EncodeToString(id[:])
	return w
}

// Open opens the warehouse in a directory for writing, and makes it if there is none.
// What other processes were about to record when they ended is recorded now.
func Open(ctx context.Context, cfg Config) (*Writer, error) {
	w := New(cfg)
	if err := w.start(ctx); err != nil {
		return nil, fmt.Errorf("open audit: %w", err)
	}
	return w, nil
}

// start opens the warehouse, wholly or not at all.
func (w *Writer) start(ctx context.Context) (err error) {
	w.started = time.Now()
	defer func() {
		if err != nil {
			err = errors.Join(err, w.release())
			w.day, w.lock = nil, nil
		}
	}()
	if err := privateDir(w.cfg.Dir); err != nil {
		return err
	}
	if w.lock, err = lockRun(w.cfg.Dir, w.run); err != nil {
		return err
	}
	if w.day, err = newest(ctx, w.cfg.Dir, w.now()); err != nil {
		return err
	}
	return w.recover(ctx)
}

// ready opens the warehouse if that has not worked yet. It tells whether it is open.
func (w *Writer) ready(ctx context.Context) (bool, error) {
	if w.day != nil || time.Since(w.started) < time.Second {
		return w.day != nil, nil
	}
	err := w.start(ctx)
	return err == nil, err
}

// release lets go of all files.
func (w *Writer) release() error {
	var err error
	if w.before != nil {
		err = w.before.leave(context.Background(), w.run)
	}
	if w.day != nil {
		err = errors.Join(err, w.day.leave(context.Background(), w.run))
	}
	if w.lock != nil {
		err = errors.Join(err, w.lock.release())
	}
	return err
}

// Serve writes what comes until ctx ends.
func (w *Writer) Serve(ctx context.Context) error {
	var watching sync.WaitGroup
	defer watching.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watching.Go(func() { w.watch(ctx) })
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-w.wake:
		}
		w.flush(ctx)
	}
}

// Close records what is open as ended, writes what is left, and closes the files. Nothing
// is taken any more.
func (w *Writer) Close() error {
	w.writing.Lock()
	defer w.writing.Unlock()
	w.mu.Lock()
	w.cfg.Strict, w.failed = true, errWriterClosed
	open := slices.Collect(maps.Keys(w.open))
	w.mu.Unlock()
	for _, e := range open {
		if e.Drop() {
			continue
		}
		now, _ := e.now()
		now.End = endStopped
		e.End(now.Record)
	}
	w.tellLost()
	var err error
	if w.day == nil {
		err = w.start(context.Background())
	}
	for err == nil && w.take() {
		err = w.write(context.Background())
	}
	if err = errors.Join(err, w.release()); err != nil {
		return fmt.Errorf("close audit: %w", err)
	}
	return nil
}

var errWriterClosed = errors.New("the exit is stopping")

// How something ends that did not come to its own end.
const (
	endStopped = "exit stopped"
	endLost    = "lost with the exit"
)

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

// refusal says why a strict Writer takes nothing. The caller holds mu.
func (w *Writer) refusal() error {
	switch {
	case !w.cfg.Strict:
		return nil
	case w.failed != nil:
		return fmt.Errorf("%w: %w", ErrNotRecorded, w.failed)
	case !w.since.IsZero() && time.Since(w.since) > slow, len(w.ended) >= w.most, len(w.begun) >= w.most:
		return fmt.Errorf("%w: %w", ErrNotRecorded, errSlow)
	}
	return nil
}

var errSlow = errors.New("the disk does not keep up")

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

// watch ends what is open when a batch does not come to an end.
func (w *Writer) watch(ctx context.Context) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		w.mu.Lock()
		late := !w.since.IsZero() && time.Since(w.since) > stuck
		w.mu.Unlock()
		if late {
			w.fail(errSlow)
		}
	}
}

// fail notes that records cannot be written, and ends what cannot go on for that reason.
func (w *Writer) fail(err error) {
	w.mu.Lock()
	first := w.failed == nil
	w.failed = err
	var open []*Entry
	if w.cfg.Strict && first {
		open = slices.Collect(maps.Keys(w.open))
	}
	w.mu.Unlock()
	if !first {
		return
	}
	w.cfg.Log.Error("records cannot be written", "error", err, "strict", w.cfg.Strict)
	for _, e := range open {
		e.subject.Cut(fmt.Errorf("%w: %w", ErrNotRecorded, err))
	}
}

// works notes that records can be written, and leaves a record of when they could not.
func (w *Writer) works() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failed == nil {
		return
	}
	w.cfg.Log.Warn("records are written again", "records", w.lost)
	what := fmt.Sprintf("records could not be written, and %d were lost: %v", w.lost, w.failed)
	w.failed = nil
	w.tell(what)
}

// tell leaves a record of how many were lost. If there is no room for it, they are told of the
// next time. The caller holds mu.
func (w *Writer) tell(what string) {
	if w.crowded() {
		return
	}
	w.told += w.lost
	w.lost = 0
	w.number++
	w.end(&entry{Record: Record{Kind: Act, Begin: w.now(), What: what}, run: w.run, number: w.number})
}

// Failed tells why records cannot be written at this moment; nil if they can.
func (w *Writer) Failed() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.failed
}
