package audit

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"
)

// maxProblems is how many problems a report holds.
const maxProblems = 100

// Report is what [Verify] has found.
type Report struct {
	Files    int
	Seals    int64
	Records  int64
	Open     int  // flows and sessions that have begun and not ended
	Head     Head // to note down elsewhere
	Problems []string
}

// Sound tells whether all is as it was written.
func (r Report) Sound() bool { return len(r.Problems) == 0 }

// Verify reads the warehouse in a directory and looks whether it is what a [Writer] has
// written. It finds records that were edited, removed, swapped or put in, files that are missing
// in between, and sums that do not fit the records. It may run while a Writer does.
//
// The hashes need no secret, so whoever may write to the directory and knows this program can
// make them anew, or take the end away; nothing in the directory can tell. A head that was
// noted down elsewhere does: what it covers is as it was then, or a problem is reported. A zero
// witness is none. What goes on is sealed with what is known at its beginning; its bytes
// are when it has ended.
//
// The error says that Verify could not look, not that something is wrong.
func Verify(ctx context.Context, dir string, witness Head) (Report, error) {
	v := verifier{witness: witness, open: make(map[flowKey]bool)}
	all, err := files(dir)
	if err == nil && len(all) == 0 {
		err = errors.New("there are no records")
	}
	for _, f := range all {
		if err == nil {
			err = v.file(ctx, f)
		}
	}
	if err != nil {
		return Report{}, fmt.Errorf("verify audit: %w", err)
	}
	v.conclude()
	return v.Report, nil
}

type verifier struct {
	Report
	witness Head
	seen    bool // the witness's seal
	last    seal
	first   seal   // that the oldest file begins with
	removed []Head // by retention
	open    map[flowKey]bool

	// Of the file at hand.
	name    string
	tx      *sql.Tx
	tables  [tables]*table
	words   []string // by id
	origins []string // their runs, by id
}

func (v *verifier) problem(format string, args ...any) {
	switch {
	case len(v.Problems) < maxProblems:
		v.Problems = append(v.Problems, Show(v.name+": "+fmt.Sprintf(format, args...)))
	case len(v.Problems) == maxProblems:
		v.Problems = append(v.Problems, "there are more problems than these")
	}
}

func (v *verifier) file(ctx context.Context, f file) (err error) {
	v.name, v.words, v.origins = f.name(), []string{""}, []string{""}
	v.Files++
	db, err := f.readable()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	// One moment of the file, which may grow.
	if v.tx, err = db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true}); err != nil {
		return err
	}
	defer v.tx.Rollback() // nothing was changed
	var verdict string
	if err := v.tx.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&verdict); err != nil || verdict != "ok" {
		v.problem("the file is damaged: %s %v", verdict, err)
		return ctx.Err()
	}
	for i := range v.tables {
		if v.tables[i], err = openTable(ctx, v.tx, tableNames[i]); err != nil {
			return err
		}
		defer v.tables[i].close()
	}
	if err := v.seals(ctx); err != nil {
		return err
	}
	for i, t := range v.tables {
		if t.row != nil {
			v.problem("%s has rows that no seal covers, from %d", tableNames[i], t.id())
		}
		if t.err != nil {
			return t.err
		}
	}
	if err := v.sums(ctx); err != nil {
		return err
	}
	return v.blocks(ctx)
}

// seals goes through the file seal by seal.
func (v *verifier) seals(ctx context.Context) error {
	rows, err := v.tx.QueryContext(ctx, "SELECT "+sealColumns+" FROM seals ORDER BY n")
	if err != nil {
		return err
	}
	defer rows.Close() // Err has the error
	var before seal
	for first := true; rows.Next(); first = false {
		s, err := scanSeal(rows)
		switch {
		case err != nil:
			v.problem("%v", err)
			return nil
		case first:
			v.anchor(s)
		default:
			v.check(before, s)
		}
		if v.witness.N > 0 && s.N == v.witness.N {
			v.seen = true
			if s.Head != v.witness {
				v.problem("seal %d is not the one that was noted down: what is before it has been rewritten", s.N)
			}
		}
		before = s
	}
	if before.Hash == [32]byte{} && before.N > 0 || before.N == 0 && v.Files > 1 {
		v.problem("there is no seal")
	}
	v.last, v.Head = before, before.Head
	return rows.Err()
}

// anchor looks at the seal that a file begins with.
func (v *verifier) anchor(s seal) {
	switch {
	case v.Files == 1:
		v.first = s
	case s.Head != v.last.Head:
		v.problem("it does not go on where the file before ended: seal %d there, seal %d here; a file is missing or was cut short or rewritten", v.last.N, s.N)
	}
	// The words and origins of a file are its own, and begin anew.
	s.last[tableWords], s.last[tableOrigins] = 0, 0
	for i, t := range v.tables {
		t.after = s.last[i]
	}
}

// check looks at a seal and the rows that it covers.
func (v *verifier) check(before, s seal) {
	v.Seals++
	if s.N != before.N+1 {
		v.problem("seals %d to %d are missing", before.N+1, s.N-1)
	}
	sealing := newSealing(before)
	sealing.before.N = s.N - 1
	for i, t := range v.tables {
		for t.row != nil && t.id() <= s.last[i] {
			sealing.add(i, t.row)
			v.learn(i, t.row)
			if t.id() != t.after+1 {
				v.problem("%s has no row %d", tableNames[i], t.after+1)
			}
			t.after = t.id()
			t.next()
		}
	}
	if made := sealing.close(s.time); made.Hash != s.Hash {
		at := time.UnixMilli(s.time).UTC().Format(time.RFC3339)
		v.problem("seal %d of %s is broken: what was recorded between record %d and record %d has been changed, removed, swapped or put in",
			s.N, at, before.last[tableRecords], s.last[tableRecords]+1)
	}
}

// learn takes what has to be known about a row to judge others.
func (v *verifier) learn(table int, row []any) {
	if len(row) < [tables]int{3, originColumns, recordColumns, recordColumns}[table] {
		v.problem("%s has other columns than it should", tableNames[table])
		return
	}
	text := func(i int) string { s, _ := row[i].(string); return s }
	number := func(i int) int64 { n, _ := row[i].(int64); return n }
	at := func(of []string, i int64) string {
		if i < 0 || i >= int64(len(of)) {
			return ""
		}
		return of[i]
	}
	switch table {
	case tableWords:
		v.words = append(v.words, text(1))
	case tableOrigins:
		v.origins = append(v.origins, text(1))
	case tableOpened:
		v.open[flowKey{at(v.origins, number(2)), number(3)}] = true
	case tableRecords:
		v.Records++
		delete(v.open, flowKey{at(v.origins, number(2)), number(3)})
		if Kind(number(1)) == Act {
			v.heed(at(v.words, number(23)))
		}
	}
}

// heed looks whether a record says that retention has removed a file.
func (v *verifier) heed(what string) {
	if !strings.HasPrefix(what, "retention removed ") {
		return
	}
	_, head, _ := strings.Cut(what, ", head ")
	if h, err := ParseHead(head); err == nil {
		v.removed = append(v.removed, h)
	}
}

// sums looks whether what is made from the records fits them.
func (v *verifier) sums(ctx context.Context) error {
	const made = `SELECT h.hour, u.text, g.text, p.text, w.text, h.decision, sum(flows), sum(up), sum(down), sum(sent), sum(received), sum(duration)
		FROM hours h JOIN words u ON u.id = h.user JOIN words g ON g.id = h.groups JOIN words p ON p.id = h.protocol JOIN words w ON w.id = h.rule
		GROUP BY 1, 2, 3, 4, 5, 6`
	const counted = `SELECT (r.begin - (r.begin % 3600000 + 3600000) % 3600000) / 3600000, o.user, o.groups, p.text, w.text, r.decision,
		count(*), sum(r.up), sum(r.down), sum(r.sent), sum(r.received), sum(r.duration)
		FROM records r JOIN origins o ON o.id = r.origin JOIN words p ON p.id = r.protocol JOIN words w ON w.id = r.rule
		WHERE r.kind = 1 GROUP BY 1, 2, 3, 4, 5, 6`
	var n int
	err := v.tx.QueryRowContext(ctx, "WITH a AS ("+made+"), b AS ("+counted+`) SELECT
		(SELECT count(*) FROM (SELECT * FROM a EXCEPT SELECT * FROM b)) + (SELECT count(*) FROM (SELECT * FROM b EXCEPT SELECT * FROM a))`).Scan(&n)
	if err == nil && n > 0 {
		v.problem("the sums by hour do not fit the records (%d rows)", n)
	}
	return err
}

// blocks does the same for what searches go by.
func (v *verifier) blocks(ctx context.Context) error {
	rows, err := v.tx.QueryContext(ctx, "SELECT "+blockColumns+" FROM blocks ORDER BY n")
	if err != nil {
		return err
	}
	defer rows.Close() // Err has the error
	for rows.Next() {
		var b block
		if err := b.scan(rows); err != nil {
			return err
		}
		made := block{n: b.n}
		if err := made.read(ctx, v.tx, b.n<<blockBits, (b.n+1)<<blockBits-1, func() {}); err != nil {
			return err
		}
		if made.first == 0 || !reflect.DeepEqual(b, made) {
			v.problem("what a search goes by does not fit the records from %d on", b.n<<blockBits)
		}
	}
	return rows.Err()
}

// conclude judges what only the whole can say.
func (v *verifier) conclude() {
	v.name = "the warehouse"
	v.Open = len(v.open)
	if v.first.N > 0 {
		told := false
		for _, h := range v.removed {
			told = told || h == v.first.Head
		}
		if !told {
			v.problem("it begins with seal %d, and no record says that what was before has been removed for its age or size", v.first.N)
		}
	}
	switch {
	case v.witness.N > v.last.N:
		v.problem("it ends with seal %d, before the one that was noted down, %d: its end has been taken away", v.last.N, v.witness.N)
	case v.witness.N > 0 && !v.seen && v.witness.N > v.first.N:
		v.problem("seal %d, which was noted down, is missing", v.witness.N)
	}
}

// table reads a table row by row.
type table struct {
	rows  *sql.Rows
	row   []any // nil: there are no more
	cells []any // pointers into row
	after int64 // the id of the row before
	err   error
}

func openTable(ctx context.Context, q queryer, name string) (*table, error) {
	rows, err := q.QueryContext(ctx, "SELECT * FROM "+name+" ORDER BY 1")
	if err != nil {
		return nil, err
	}
	columns, err := rows.Columns()
	if err != nil {
		return nil, errors.Join(err, rows.Close())
	}
	t := &table{rows: rows, row: make([]any, len(columns))}
	for i := range t.row {
		t.cells = append(t.cells, &t.row[i])
	}
	t.next()
	return t, nil
}

func (t *table) next() {
	if !t.rows.Next() {
		t.row, t.err = nil, t.rows.Err()
		return
	}
	if err := t.rows.Scan(t.cells...); err != nil {
		t.row, t.err = nil, err
	}
}

func (t *table) id() int64 { id, _ := t.row[0].(int64); return id }

func (t *table) close() { _ = t.rows.Close() } // next has the error
