package audit

import (
	"bufio"
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

const (
	// asVictim makes the test program a process that records in the directory that the
	// variable names until it is killed, and asCramped one that has no room for it.
	asVictim  = "ADIT_TEST_AUDIT_VICTIM"
	asCramped = "ADIT_TEST_AUDIT_CRAMPED"
)

// beVictim records flows called 1, 2, 3 …, of which each fourth lasts until a later batch and each
// hundredth for ever. It prints how far it is whenever a batch has been written.
func beVictim(ctx context.Context, dir string) error {
	w, err := Open(ctx, Config{Dir: dir})
	if err != nil {
		return err
	}
	var long []*Entry
	for n := 1; ; n++ {
		r := flowNumber(n)
		r.Name = strconv.Itoa(n)
		switch {
		case n%4 != 0:
			if err := w.Note(r); err != nil {
				return err
			}
		default:
			r.What = "long"
			e, err := (&open{}).begin(w, r)
			if err != nil {
				return err
			}
			if n%100 != 0 {
				long = append(long, e)
			}
		}
		if n%57 != 0 {
			continue
		}
		w.flush(ctx)
		if err := w.Failed(); err != nil {
			return err
		}
		fmt.Println(n)
		for _, e := range long {
			e.End(e.subject.(*open).line)
		}
		long = long[:0]
	}
}

// full tells whether the long tests run, too.
var full = os.Getenv("ADIT_FULL") != ""

func TestKillLosesNothingButTheLastBatch(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	kills := 8
	if full {
		kills = 200
	}
	var before int64
	for i := range kills {
		said := killVictim(t, dir, time.Duration(rand.IntN(40))*time.Millisecond)
		w := newWriter(t, Config{Dir: dir})
		w.flush(t.Context())
		must(t, w.Close())
		verifySound(t, dir)
		before = checkVictim(t, dir, before, said)
		if t.Failed() {
			t.Fatalf("after kill %d", i+1)
		}
	}
}

// killVictim lets a process record for a while, kills it, and gives what it had written for
// certain.
func killVictim(t *testing.T, dir string, after time.Duration) (said int) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), asVictim+"="+dir)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if said == 0 {
			// A while in which it may be anywhere; nothing is waited for.
			kill := time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
			defer kill.Stop()
		}
		if n, err := strconv.Atoi(lines.Text()); err == nil {
			said = n // a line that is cut off is none
		}
	}
	if err := cmd.Wait(); err == nil || stderr.Len() > 0 {
		t.Fatalf("the victim ended by itself: %v %s", err, stderr.String())
	}
	return said
}

// verifySound fails the test if the warehouse is not as it was written.
func verifySound(t testing.TB, dir string) Report {
	t.Helper()
	r, err := Verify(t.Context(), dir, Head{})
	must(t, err)
	for _, p := range r.Problems {
		t.Error(p)
	}
	return r
}

// checkVictim looks at the records after the one with the number before: each flow that the
// victim has told of is there once, no flow is there twice, and none that it did not begin.
func checkVictim(t *testing.T, dir string, before int64, said int) (last int64) {
	t.Helper()
	db := theFile(t, dir)
	defer db.Close()
	var flows where
	flows.add("r.seq > ? AND r.kind = 1", before)
	seen := make(map[int]bool)
	most := 0
	_, err := records(t.Context(), db, "records", flows, "ASC", func(r Record) bool {
		n, err := strconv.Atoi(r.Name)
		must(t, err)
		if seen[n] {
			t.Errorf("flow %d is there twice", n)
		}
		seen[n] = true
		most, last = max(most, n), r.Seq
		if want := flowNumber(n); r.User != want.User || r.Up != 0 && r.Up != want.Up || r.Address != want.Address || r.Rule != want.Rule {
			t.Errorf("flow %d is not what was recorded: %+v", n, r)
		}
		if n%100 == 0 && r.End != endLost {
			t.Errorf("flow %d ended by %q", n, r.End)
		}
		return true
	})
	must(t, err)
	for n := 1; n <= max(said, most); n++ {
		if !seen[n] {
			t.Errorf("flow %d is missing; the victim had got to %d", n, said)
		}
	}
	if most > said+57+57 {
		t.Errorf("there is flow %d, where the victim had got to %d", most, said)
	}
	return last
}

// theFile opens the only file of a directory for reading.
func theFile(t testing.TB, dir string) *sql.DB {
	t.Helper()
	all, err := files(dir)
	must(t, err)
	if len(all) != 1 {
		t.Fatalf("there are %d files", len(all))
	}
	db, err := all[0].readable()
	must(t, err)
	return db
}
