package audit

import (
	"errors"
	"testing"
)

// noteMany writes so many records.
func noteMany(t *testing.T, w *Writer, count int) {
	t.Helper()
	for n := range count {
		must(t, w.Note(flowNumber(n)))
	}
	flush(t, w)
}

// firstOfBlocks gives the first record of each block of a file.
func firstOfBlocks(t *testing.T, d *day) (all []int64) {
	t.Helper()
	rows, err := d.conn.QueryContext(t.Context(), "SELECT "+blockColumns+" FROM blocks ORDER BY n")
	must(t, err)
	defer rows.Close()
	for rows.Next() {
		var b block
		must(t, b.scan(rows))
		all = append(all, b.first)
	}
	must(t, rows.Err())
	return all
}

func TestBlockHasWhatOthersWriteInBetween(t *testing.T) {
	const full = 1 << blockBits
	old := newWriter(t, Config{})
	noteMany(t, old, 1000)
	young := newWriter(t, Config{Dir: old.cfg.Dir})
	noteMany(t, young, 1)
	if f := young.day.filling; f.first != 1 || f.next != 1002 {
		t.Errorf("who comes later goes on from %d with a block from %d on", f.next, f.first)
	}
	noteMany(t, old, 1) // goes on with one of another's
	noteMany(t, young, full)
	noteMany(t, old, full) // others have filled a block, and begun one
	noteMany(t, young, full)
	if got := firstOfBlocks(t, old.day); len(got) != 3 || got[0] != 1 || got[1] != full || got[2] != 2*full {
		t.Errorf("blocks begin with %d", got)
	}
	must(t, errors.Join(old.Close(), young.Close()))
	verifySound(t, old.cfg.Dir)
}

func TestBlockOfANewFileBeginsWhereTheFileDoes(t *testing.T) {
	const full = 1 << blockBits
	w := newWriter(t, Config{})
	noteMany(t, w, 1000)
	must(t, w.rotate(t.Context()))
	noteMany(t, w, full)
	if got := firstOfBlocks(t, w.day); len(got) != 1 || got[0] != 1001 {
		t.Errorf("blocks begin with %d", got)
	}
	must(t, w.Close())
	verifySound(t, w.cfg.Dir)
}

func TestBlockIsWholeAfterABatchThatFailed(t *testing.T) {
	w := newWriter(t, Config{})
	noteMany(t, w, 1000)
	exec := func(text string) {
		_, err := w.day.conn.ExecContext(t.Context(), text)
		must(t, err)
	}
	exec("ALTER TABLE hours RENAME TO away") // it comes after the records
	must(t, w.Note(flowNumber(7)))
	if w.flush(t.Context()); w.Failed() == nil {
		t.Fatal("the batch has not failed")
	}
	exec("ALTER TABLE away RENAME TO hours")
	flush(t, w)
	noteMany(t, w, 1<<blockBits)
	if got := firstOfBlocks(t, w.day); len(got) != 1 || got[0] != 1 {
		t.Errorf("blocks begin with %d", got)
	}
	must(t, w.Close())
	verifySound(t, w.cfg.Dir)
}
