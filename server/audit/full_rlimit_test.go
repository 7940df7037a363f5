//go:build linux || darwin

package audit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
)

// A limit for the size of files stands in for a full disk. It holds for a whole process.
func TestDiskFullEndsFlowsOfAStrictWriterAndLosesThoseOfALenientOne(t *testing.T) {
	for _, mode := range []string{"strict", "lenient"} {
		t.Run(mode, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), mode)
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), asCramped+"="+dir)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			verifySound(t, dir)
		})
	}
}

func beCramped(ctx context.Context, dir string) error {
	strict := filepath.Base(dir) == "strict"
	signal.Ignore(syscall.SIGXFSZ)
	w, err := Open(ctx, Config{Dir: dir, Strict: strict, Log: quiet()})
	if err != nil {
		return err
	}
	w.most = 500
	goes := &open{}
	e, err := goes.begin(w, flowNumber(1))
	if err != nil {
		return err
	}
	w.flush(ctx)
	if err := w.Failed(); err != nil {
		return fmt.Errorf("before the disk is full: %w", err)
	}
	info, err := os.Stat(w.day.path + "-wal")
	if err != nil {
		return err
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		return err
	}
	free := limit.Cur
	limit.Cur = uint64(info.Size())
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		return err
	}
	if err := w.Note(flowNumber(2)); err != nil {
		return err
	}
	w.flush(ctx)
	if w.Failed() == nil {
		return errors.New("the disk is full, and the Writer does not notice")
	}
	if err := crampedFlows(w, strict, goes); err != nil {
		return err
	}
	limit.Cur = free
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		return err
	}
	w.flush(ctx)
	if err := w.Failed(); err != nil {
		return fmt.Errorf("after the disk has got room: %w", err)
	}
	if s := w.Stats(); s.Written < 1 || !strict && s.Lost < int64(w.most) || s.Failed != nil || s.Refusal != nil {
		return fmt.Errorf("after the disk has got room there are %+v", s)
	}
	e.End(flowNumber(1))
	if err := w.Note(flowNumber(3)); err != nil {
		return err
	}
	return w.Close()
}

// crampedFlows looks what becomes of flows while the disk is full.
func crampedFlows(w *Writer, strict bool, goes *open) error {
	_, err := (&open{}).begin(w, flowNumber(4))
	switch {
	case strict && !errors.Is(err, ErrNotRecorded):
		return fmt.Errorf("a strict Writer says %w", err)
	case strict && !errors.Is(w.Stats().Refusal, ErrNotRecorded):
		return errors.New("a strict Writer does not say that it takes nothing")
	case strict && !errors.Is(goes.cut, ErrNotRecorded):
		return errors.New("a strict Writer lets a flow go on")
	case strict:
		return nil
	case err != nil || goes.cut != nil:
		return fmt.Errorf("a lenient Writer says %w and %w", err, goes.cut)
	}
	for n := range 2 * w.most {
		if err := w.Note(flowNumber(n)); err != nil {
			return err
		}
	}
	if w.lost < int64(w.most) || len(w.ended) > w.most {
		return fmt.Errorf("of %d records %d are lost and %d wait", 2*w.most, w.lost, len(w.ended))
	}
	return nil
}
