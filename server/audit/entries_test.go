package audit

import (
	"database/sql"
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestEachOfManyRecordsHasItsOwnTexts(t *testing.T) {
	w := newWriter(t, Config{})
	const n = 2*mostRun + 17
	for i := range n {
		must(t, w.Note(flowNumber(i)))
	}
	must(t, w.Close())
	reader := NewReader(w.cfg.Dir)
	var all []Record
	for r, err := range reader.Records(t.Context(), Query{}) {
		must(t, err)
		all = append(all, r)
	}
	last, err := reader.Last(t.Context(), Query{}, n+1)
	must(t, err)
	if len(all) != n || !slices.Equal(all, last) {
		t.Fatalf("%d records of %d from the first on, %d from the last on", len(all), n, len(last))
	}
	for i, r := range all {
		want := flowNumber(i)
		if r.Seq != int64(i+1) || r.Name != want.Name || r.Address != want.Address || r.Protocol != want.Protocol || r.User != want.User || r.Source != want.Source {
			t.Fatalf("record %d is %+v, want %+v", i, r, want)
		}
	}
}

// It may not be left out of an answer, either.
func TestRecordWithATextThatIsNotThereIsAnError(t *testing.T) {
	for _, what := range []string{"DELETE FROM origins", "DELETE FROM words WHERE id = (SELECT name FROM records WHERE seq = 2)"} {
		w := newWriter(t, Config{})
		for i := range 3 {
			must(t, w.Note(flowNumber(i)))
		}
		must(t, w.Close())
		all, err := files(w.cfg.Dir)
		must(t, err)
		db, err := sql.Open("sqlite", dsn(all[0].path, "mode=rw"))
		must(t, err)
		_, err = db.ExecContext(t.Context(), what)
		must(t, errors.Join(err, db.Close()))
		err = nil
		for _, e := range NewReader(w.cfg.Dir).Records(t.Context(), Query{}) {
			err = errors.Join(err, e)
		}
		if err == nil || !strings.Contains(err.Error(), "which the file has not") {
			t.Errorf("%s: the answer ends with %v", what, err)
		}
	}
}
