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
)

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
