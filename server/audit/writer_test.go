package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"
)

// recorded gives all records of a directory in order.
func recorded(t testing.TB, dir string) (all []Record) {
	t.Helper()
	list, err := files(dir)
	must(t, err)
	for _, f := range list {
		db, err := f.readable()
		must(t, err)
		_, err = records(t.Context(), db, "records", where{}, "ASC", func(r Record) bool { all = append(all, r); return true })
		must(t, errors.Join(err, db.Close()))
	}
	return all
}

func flush(t testing.TB, w *Writer) {
	t.Helper()
	w.flush(t.Context())
	must(t, w.Failed())
}

func TestRecordComesBackAsItWent(t *testing.T) {
	w := newWriter(t, Config{Exit: "exit.example.org"})
	want := flowNumber(7)
	want.Exit = "exit.example.org"
	want.Device, want.Door, want.KeyExchange, want.Cipher, want.IPsec, want.GSS = "laptop", "partners", "X25519", "AES", "esp", "integrity"
	want.Host, want.Sent, want.Received, want.FirstByte, want.Resumes, want.What = "sni.example.org", 3, 4, 5*time.Microsecond, 6, "what"
	want.Begin = want.Begin.UTC().Truncate(time.Millisecond)
	must(t, w.Note(want))
	must(t, w.Close())
	got := recorded(t, w.cfg.Dir)
	want.Seq, want.ID = 1, w.run+"-1"
	if len(got) != 1 || got[0] != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestShortFlowTakesOneRowAndLongOneIsSeenWhileItGoesOn(t *testing.T) {
	w := newWriter(t, Config{})
	short, err := (&open{}).begin(w, flowNumber(1))
	must(t, err)
	goes := &open{}
	long, err := goes.begin(w, flowNumber(2))
	must(t, err)
	short.End(flowNumber(1))
	flush(t, w)
	if w.day.last.last[tableOpened] != 1 || w.day.last.last[tableRecords] != 1 {
		t.Errorf("the seal is %+v", w.day.last)
	}
	goes.up = 77
	w.updated = time.Time{}
	flush(t, w)
	var up int64
	must(t, w.day.conn.QueryRowContext(t.Context(), "SELECT up FROM progress").Scan(&up))
	if up != 77 {
		t.Errorf("after a minute %d bytes are known", up)
	}
	long.End(flowNumber(2))
	long.End(flowNumber(3)) // does nothing
	must(t, w.Close())
	if got := recorded(t, w.cfg.Dir); len(got) != 2 || got[1].ID != long.ID() {
		t.Errorf("there is %+v", got)
	}
	if r := verifySound(t, w.cfg.Dir); r.Open != 0 || r.Records != 2 {
		t.Errorf("the report is %+v", r)
	}
}

func TestWhatIsHeldIsWrittenWhenItIsOpenedOrEnds(t *testing.T) {
	w := newWriter(t, Config{})
	var all []*Entry
	for n := range 5 {
		e, err := w.Hold(&open{line: flowNumber(n)})
		must(t, err)
		all = append(all, e)
	}
	ended, opened, dropped := all[0], all[1], all[2]
	opened.Open()
	opened.Open()
	if opened.Drop() {
		t.Error("what is in the file was dropped")
	}
	w.reopen() // as after midnight
	flush(t, w)
	if n := w.day.last.last[tableOpened]; n != 1 {
		t.Errorf("%d have been opened", n)
	}
	if !dropped.Drop() {
		t.Error("what was held was not dropped")
	}
	dropped.Open()
	dropped.End(flowNumber(2))
	ended.End(flowNumber(0))
	opened.End(flowNumber(1))
	must(t, w.Close()) // and with it nobody hears of what is still held
	if got := recorded(t, w.cfg.Dir); len(got) != 2 {
		t.Errorf("on record is %+v", got)
	}
}

func TestServeWritesFromManyGoroutinesAndCloseTheRest(t *testing.T) {
	w := newWriter(t, Config{})
	ctx, stop := contextOf(t)
	var all, served sync.WaitGroup
	served.Go(func() { must(t, w.Serve(ctx)) })
	for i := range 8 {
		all.Go(func() {
			for n := range 500 {
				e, err := (&open{}).begin(w, flowNumber(n*8+i))
				if err != nil {
					t.Error(err)
					return
				}
				if n%100 != 0 {
					e.End(flowNumber(n*8 + i))
				}
			}
		})
	}
	all.Wait()
	stop()
	served.Wait()
	must(t, w.Close())
	ends := make(map[string]int)
	for _, r := range recorded(t, w.cfg.Dir) {
		ends[r.End]++
	}
	if ends["ended"] != 8*495 || ends[endStopped] != 8*5 {
		t.Errorf("flows ended as %v", ends)
	}
	verifySound(t, w.cfg.Dir)
	if _, err := (&open{}).begin(w, flowNumber(1)); !errors.Is(err, ErrNotRecorded) {
		t.Errorf("a closed Writer says %v", err)
	}
}

func TestWhatGoesOnNamesTheExit(t *testing.T) {
	w := newWriter(t, Config{Exit: "exit.example.org"})
	_, err := (&open{}).begin(w, flowNumber(1))
	must(t, err)
	flush(t, w)
	last, err := NewReader(w.cfg.Dir).Last(t.Context(), Query{}, 1)
	must(t, err)
	if len(last) != 1 || !last[0].Open || last[0].Exit != "exit.example.org" {
		t.Errorf("there is %+v", last)
	}
	must(t, w.Close())
}

func TestCloseTellsWhatWasLost(t *testing.T) {
	w := newWriter(t, Config{})
	w.most = 1
	goes, err := (&open{}).begin(w, flowNumber(1))
	must(t, err)
	for n := range 4 {
		must(t, w.Note(flowNumber(n)))
	}
	must(t, w.Close())
	got := recorded(t, w.cfg.Dir)
	if len(got) != 3 || got[1].ID != goes.ID() || got[1].End != endStopped || got[2].What != "3 records were lost" {
		t.Errorf("there is %+v", got)
	}
}

func TestWhatWasLostIsCountedForGoodAndToldOnceThereIsRoom(t *testing.T) {
	w := newWriter(t, Config{})
	w.most = 2
	for n := range 5 {
		must(t, w.Note(flowNumber(n)))
	}
	w.tellLost() // two still wait
	if n := w.Stats().Lost; n != 3 {
		t.Errorf("%d are lost", n)
	}
	w.failed = errGone
	w.works()
	flush(t, w)
	w.tellLost()
	flush(t, w)
	if n := w.Stats().Lost; n != 3 {
		t.Errorf("later %d are lost", n)
	}
	must(t, w.Close())
	if got := recorded(t, w.cfg.Dir); len(got) != 3 || got[2].What != "3 records were lost" {
		t.Errorf("there is %+v", got)
	}
}

func TestDayEndsAndClockIsSetBack(t *testing.T) {
	w := newWriter(t, Config{})
	now := time.Date(2026, 3, 1, 23, 59, 59, 0, time.UTC)
	w.now = func() time.Time { return now }
	must(t, w.rotate(t.Context())) // the file of today is of no use here
	goes := &open{}
	over, err := goes.begin(w, flowNumber(1))
	must(t, err)
	flush(t, w)
	now = now.Add(2 * time.Second)
	must(t, w.Note(flowNumber(2)))
	flush(t, w)
	flush(t, w)
	now = now.Add(-30 * time.Minute) // that is no other day
	must(t, w.Note(flowNumber(3)))
	flush(t, w)
	now = now.AddDate(0, 0, -7)
	must(t, w.Note(flowNumber(4)))
	flush(t, w)
	over.End(flowNumber(1))
	must(t, w.Close())
	all, err := files(w.cfg.Dir)
	must(t, err)
	var days []string
	for _, f := range all[1:] {
		days = append(days, strings.TrimSuffix(f.name(), suffix))
	}
	if got := strings.Join(days, " "); got != "000002-2026-03-01 000003-2026-03-02 000004-2026-02-22" {
		t.Errorf("there are %s", got)
	}
	if r := verifySound(t, w.cfg.Dir); r.Open != 0 || r.Records != 4 {
		t.Errorf("the report is %+v", r)
	}
}

func TestTwoProcessesWriteToOneChain(t *testing.T) {
	old := newWriter(t, Config{})
	left, err := (&open{}).begin(old, flowNumber(1))
	must(t, err)
	flush(t, old)
	young := newWriter(t, Config{Dir: old.cfg.Dir})
	for n := range 20 {
		must(t, old.Note(flowNumber(n)))
		flush(t, old)
		must(t, young.Note(flowNumber(n)))
		flush(t, young)
	}
	must(t, young.rotate(t.Context())) // as at midnight
	flush(t, young)
	must(t, old.Note(flowNumber(99)))
	flush(t, old)
	left.End(flowNumber(1))
	must(t, errors.Join(young.Close(), old.Close()))
	if got := recorded(t, old.cfg.Dir); len(got) != 42 || got[41].End != "ended" {
		t.Errorf("there are %d records, the last one %+v", len(got), got[len(got)-1])
	}
	if r := verifySound(t, old.cfg.Dir); r.Files != 2 || r.Open != 0 {
		t.Errorf("the report is %+v", r)
	}
}

func TestProcessesThatMakeTheSameFileAllGetIt(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	must(t, privateDir(dir))
	for n := range 3 {
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				d, err := createDay(t.Context(), fileAt(dir, n+1, time.Now()), seal{})
				if err == nil {
					err = d.close()
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*.new*")); err != nil || len(left) > 0 {
		t.Errorf("drafts are left: %q, %v", left, err)
	}
}

func TestWhatACrashHasLeftIsRecordedOnceInTheNextFile(t *testing.T) {
	w := newWriter(t, Config{})
	_, err := (&open{}).begin(w, flowNumber(1))
	must(t, err)
	flush(t, w)
	must(t, errors.Join(w.lock.release(), w.day.close())) // as the kernel does
	for n := range 3 {
		next := newWriter(t, Config{Dir: w.cfg.Dir})
		next.now = func() time.Time { return time.Now().Add(24 * time.Hour) }
		for i := range 10 {
			must(t, next.Note(flowNumber(i)))
		}
		flush(t, next)
		if len(next.recovered) != 1 {
			t.Errorf("process %d holds %d flows of others", n, len(next.recovered))
		}
		must(t, next.Close())
	}
	got := recorded(t, w.cfg.Dir)
	lost := slices.DeleteFunc(slices.Clone(got), func(r Record) bool { return r.End != endLost })
	if len(got) != 31 || len(lost) != 1 {
		t.Errorf("there are %d records, %d of them of what was lost", len(got), len(lost))
	}
	if r := verifySound(t, w.cfg.Dir); r.Files != 2 || r.Open != 0 {
		t.Errorf("the report is %+v", r)
	}
}

func TestFileThatGoesAwayEndsFlowsOfAStrictWriter(t *testing.T) {
	w := newWriter(t, Config{Strict: true})
	goes := &open{}
	_, err := goes.begin(w, flowNumber(1))
	must(t, err)
	flush(t, w)
	must(t, os.Rename(w.day.path, w.day.path+".away"))
	w.flush(t.Context())
	if !errors.Is(w.Failed(), errGone) || !errors.Is(goes.cut, ErrNotRecorded) {
		t.Errorf("it says %v, and the flow's end is %v", w.Failed(), goes.cut)
	}
	if _, err := (&open{}).begin(w, flowNumber(2)); !errors.Is(err, ErrNotRecorded) {
		t.Errorf("a flow that cannot be recorded: %v", err)
	}
	must(t, os.Rename(w.day.path+".away", w.day.path))
	flush(t, w)
	_, err = (&open{}).begin(w, flowNumber(3))
	must(t, err)
	must(t, w.Close())
	verifySound(t, w.cfg.Dir)
}

func TestFileThatGoesAwayIsFollowedByAnotherOfALenientWriter(t *testing.T) {
	w := newWriter(t, Config{})
	must(t, w.Note(flowNumber(0)))
	flush(t, w)
	must(t, w.rotate(t.Context()))
	goes := &open{}
	_, err := goes.begin(w, flowNumber(1))
	must(t, err)
	flush(t, w)
	must(t, w.day.remove())
	must(t, w.Note(flowNumber(2)))
	flush(t, w)
	if goes.cut != nil {
		t.Errorf("the flow has ended: %v", goes.cut)
	}
	must(t, w.Close())
	got := recorded(t, w.cfg.Dir)
	if len(got) != 4 || !strings.Contains(got[2].What+got[1].What, "had gone") || got[3].Open {
		t.Errorf("there is %+v", got)
	}
	r, err := Verify(t.Context(), w.cfg.Dir, Head{})
	must(t, err)
	if len(r.Problems) != 1 || !strings.Contains(r.Problems[0], "a file is missing") {
		t.Errorf("the problems are %q", r.Problems)
	}
}

func TestOldAndTooManyFilesGo(t *testing.T) {
	w := newWriter(t, Config{Keep: 48 * time.Hour})
	now := time.Now()
	w.now = func() time.Time { return now }
	for range 5 {
		must(t, w.Note(flowNumber(1)))
		flush(t, w)
		flush(t, w)
		now = now.Add(24 * time.Hour)
	}
	flush(t, w)
	w.updated = time.Time{}
	flush(t, w)
	all, err := files(w.cfg.Dir)
	must(t, err)
	if len(all) != 3 { // two whole days, and the one at hand
		t.Errorf("%d files are kept", len(all))
	}
	verifySound(t, w.cfg.Dir)

	w.cfg.MaxSize = 1
	w.updated = time.Time{}
	flush(t, w)
	w.updated = time.Time{}
	flush(t, w)
	must(t, w.Close())
	if all, err = files(w.cfg.Dir); err != nil || len(all) > 2 {
		t.Errorf("%d files are kept, %v", len(all), err)
	}
	verifySound(t, w.cfg.Dir)
	must(t, all[0].remove()) // not by retention
	r, err := Verify(t.Context(), w.cfg.Dir, Head{})
	must(t, err)
	if r.Sound() {
		t.Error("a file at the beginning was removed, and nobody notices")
	}
}

func TestOldFileThatIsDamagedEndsNothing(t *testing.T) {
	w := newWriter(t, Config{Strict: true, Keep: 24 * time.Hour})
	old := w.day.file
	now := time.Now()
	w.now = func() time.Time { return now }
	for range 5 { // until it is old, and not looked at for what was left
		now = now.Add(24 * time.Hour)
		w.updated = now
		flush(t, w)
		flush(t, w)
	}
	must(t, os.Truncate(old.path, 50))
	goes := &open{}
	_, err := goes.begin(w, flowNumber(1))
	must(t, err)
	w.updated = time.Time{}
	flush(t, w)
	if goes.cut != nil {
		t.Errorf("the flow has ended: %v", goes.cut)
	}
	if _, err := os.Stat(old.path); err != nil {
		t.Errorf("the damaged file is not kept: %v", err)
	}
	must(t, w.Close())
}

func TestFileIsUpgradedAndKeepsItsHashes(t *testing.T) {
	w := newWriter(t, Config{})
	for n := range 10 {
		must(t, w.Note(flowNumber(n)))
	}
	must(t, w.Close())
	f, err := files(w.cfg.Dir)
	must(t, err)
	first, err := fs.ReadFile(migrations, "migrations/0001.sql")
	must(t, err)
	later := fstest.MapFS{
		"migrations/0001.sql": {Data: first},
		"migrations/0002.sql": {Data: []byte("ALTER TABLE records ADD COLUMN later INTEGER; ALTER TABLE origins ADD COLUMN more TEXT;")},
	}
	d, err := openDay(t.Context(), f[0])
	must(t, err)
	must(t, migrate(t.Context(), d.conn, later))
	must(t, migrate(t.Context(), d.conn, later)) // is done
	for table, name := range tableNames {
		if rows := rowsOf(t, d, name); table == tableRecords && len(rows[0]) != recordColumns+1 {
			t.Errorf("records have %d columns", len(rows[0]))
		}
	}
	before := sealFrom(t, d, seal{})
	must(t, d.close())
	if before.Hash != w.day.last.Hash {
		t.Error("a column that was added has changed the seal")
	}
	// This program does not know version 2.
	if _, err := Open(t.Context(), Config{Dir: w.cfg.Dir}); err == nil || !strings.Contains(err.Error(), "use a newer adit") {
		t.Errorf("a file of a later version: %v", err)
	}
}

// rowsOf gives all rows of a table.
func rowsOf(t *testing.T, d *day, name string) (all [][]any) {
	t.Helper()
	rows, err := openTable(t.Context(), d.conn, name)
	must(t, err)
	defer rows.close()
	for ; rows.row != nil; rows.next() {
		all = append(all, append([]any(nil), rows.row...))
	}
	must(t, rows.err)
	return all
}

// sealFrom makes the seal of a whole file anew, which had one batch.
func sealFrom(t *testing.T, d *day, before seal) seal {
	t.Helper()
	s := newSealing(before)
	for table, name := range tableNames {
		for _, row := range rowsOf(t, d, name) {
			s.add(table, row)
		}
	}
	return s.close(d.last.time)
}

func TestDirectoryAndFilesArePrivate(t *testing.T) {
	w := newWriter(t, Config{})
	must(t, w.Note(flowNumber(1)))
	flush(t, w)
	must(t, filepath.WalkDir(w.cfg.Dir, func(path string, e fs.DirEntry, err error) error {
		info, err2 := e.Info()
		if err := errors.Join(err, err2); err != nil {
			return err
		}
		if info.Mode().Perm()&0o077 != 0 {
			return fmt.Errorf("%s has mode %v", path, info.Mode())
		}
		return nil
	}))
	must(t, w.Close())
	for path, mode := range map[string]fs.FileMode{w.cfg.Dir: 0o755, w.day.path: 0o640} {
		before, err := os.Stat(path)
		must(t, err)
		must(t, os.Chmod(path, mode))
		if _, err := Open(t.Context(), Config{Dir: w.cfg.Dir}); err == nil || !strings.Contains(err.Error(), "chmod") {
			t.Errorf("%s with mode %v: %v", path, mode, err)
		}
		must(t, os.Chmod(path, before.Mode()))
	}
}

func TestWriterGoesOnUntilTheWarehouseCanBeOpened(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	must(t, os.WriteFile(dir, nil, 0o600)) // in the way
	w := New(Config{Dir: dir, Log: quiet()})
	must(t, w.Note(flowNumber(1)))
	w.flush(t.Context())
	if w.Failed() == nil {
		t.Error("a Writer without a file says that all is well")
	}
	must(t, w.Note(flowNumber(2)))
	must(t, os.Remove(dir))
	w.flush(t.Context()) // within the same second
	w.started = time.Time{}
	flush(t, w)
	must(t, w.Close())
	verifySound(t, dir)
	all, err := NewReader(dir).Last(t.Context(), Query{Kinds: []Kind{Flow, Act}}, 10)
	must(t, err)
	if len(all) != 3 || all[2].Kind != Act || !strings.Contains(all[2].What, "0 were lost") {
		t.Errorf("on record is %+v", all)
	}
}

func TestClosingAWarehouseThatWasNeverOpenedSaysWhy(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	must(t, os.WriteFile(dir, nil, 0o600))
	w := New(Config{Dir: dir, Log: quiet()})
	must(t, w.Note(flowNumber(1)))
	if err := w.Close(); err == nil {
		t.Error("the record has gone, and nobody was told")
	}
}
