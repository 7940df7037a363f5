//go:build unix

package audit

import (
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
)

func TestProcessThatStartsIsNeverTakenForDead(t *testing.T) {
	dir := t.TempDir()
	ctx, stop := contextOf(t)
	var looking sync.WaitGroup
	looking.Go(func() {
		for ctx.Err() == nil {
			locks, _ := filepath.Glob(filepath.Join(dir, "run-*"))
			for _, path := range locks {
				if run := strings.TrimPrefix(filepath.Base(path), "run-"); !alive(dir, run) {
					t.Errorf("run %s is taken for dead", run)
				}
			}
		}
	})
	var locks []*runLock
	for n := range 500 {
		l, err := lockRun(dir, strconv.Itoa(n))
		if err != nil {
			t.Error(err)
			break
		}
		locks = append(locks, l)
	}
	stop()
	looking.Wait()
	for _, l := range locks {
		must(t, l.release())
	}
}
