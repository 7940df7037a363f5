package audit

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// slow is how long a batch may take before a strict Writer takes no more, and stuck
// before it ends what is open.
const slow, stuck = time.Second, 5 * time.Second

// ErrNotRecorded says that a strict Writer cannot record what is about to begin, which must
// not begin then.
var ErrNotRecorded = errors.New("it could not be recorded")

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

// tellLost tells how many records were lost.
func (w *Writer) tellLost() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.lost == 0 {
		return
	}
	w.cfg.Log.Warn("records were lost", "records", w.lost)
	w.tell(fmt.Sprintf("%d records were lost", w.lost))
}

// Failed tells why records cannot be written at this moment; nil if they can.
func (w *Writer) Failed() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.failed
}
