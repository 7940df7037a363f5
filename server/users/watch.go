package users

import (
	"context"
	"fmt"
	"os"
	"time"
)

// watchInterval is how often a watch looks for changes. One look reads one
// cached page.
const watchInterval = 300 * time.Millisecond

// Watch calls changed once it watches, and again within a second after
// anything has changed what somebody may do, in this process or another one.
// Changes that come together are told together; that a device was seen is not
// told. It blocks until ctx ends and then returns nil. Any other end means
// that what was read from the store may be out of date: the file is gone,
// replaced, or cannot be read.
func (s *Store) Watch(ctx context.Context, changed func()) error {
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	last := int64(-1)
	for {
		now, err := s.revision(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("watch store: %w", err)
		}
		if now != last {
			last = now
			changed()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// revision counts the changes so far.
func (s *Store) revision(ctx context.Context) (int64, error) {
	// A file that was moved away can still be read, but nobody writes to it.
	file, err := os.Lstat(s.path)
	if err != nil {
		return 0, err
	}
	if !os.SameFile(file, s.file) {
		return 0, fmt.Errorf("%s was replaced: open it anew", s.path)
	}
	var n int64
	err = s.reads.QueryRowContext(ctx, "SELECT n FROM revision").Scan(&n)
	return n, err
}
