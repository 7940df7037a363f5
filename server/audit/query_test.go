package audit

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// filled makes a warehouse of two days with n flows each, a second apart, the first at
// 20:00, of which each tenth is refused. One more flow goes on.
func filled(t testing.TB, n int) (*Writer, *Reader, []Record) {
	t.Helper()
	w := newWriter(t, Config{})
	now := time.Date(2026, 3, 1, 20, 0, 0, 0, time.UTC)
	w.now = func() time.Time { return now }
	must(t, w.rotate(t.Context()))
	var all []Record
	for day := range 2 {
		now = time.Date(2026, 3, 1+day, 20, 0, 0, 0, time.UTC)
		for i := range n {
			r := flowNumber(i)
			r.Begin = now.Add(time.Duration(i) * time.Second)
			r.Groups = []string{"staff", "guests,staff", ""}[i%3]
			if i%10 == 9 {
				r.Decision, r.Rule, r.Up, r.Down = Refused, "nobody may", 0, 0
			}
			must(t, w.Note(r))
			all = append(all, r)
			if i%1000 == 999 {
				flush(t, w)
			}
		}
		flush(t, w)
	}
	must(t, w.Note(Record{Kind: Login, Begin: now, Origin: Origin{User: "user1"}}))
	flush(t, w)
	goes := flowNumber(0)
	goes.Begin, goes.Name = now, "live.example.org"
	_, err := (&open{up: 5}).begin(w, goes)
	must(t, err)
	flush(t, w)
	t.Cleanup(func() { must(t, w.Close()) })
	return w, NewReader(w.cfg.Dir), append(all, goes)
}

// fits is what a Query says, written down in another way.
func fits(q Query, r Record) bool {
	groups := strings.Split(r.Groups, ",")
	to := len(q.To) == 0
	for _, want := range q.To {
		p, err := netip.ParsePrefix(want)
		domain, wild := strings.CutPrefix(want, "*")
		to = to || strings.EqualFold(want, r.Name) || want == r.Address.String() || err == nil && p.Contains(r.Address) || wild && strings.HasSuffix(r.Name, domain)
	}
	return to && (len(q.Users) == 0 || slices.Contains(q.Users, r.User)) &&
		(len(q.Groups) == 0 || slices.ContainsFunc(q.Groups, func(g string) bool { return slices.Contains(groups, g) })) &&
		(len(q.Protocols) == 0 || slices.Contains(q.Protocols, r.Protocol)) && (len(q.Rules) == 0 || slices.Contains(q.Rules, r.Rule)) &&
		(q.Since.IsZero() || !r.Begin.Before(q.Since)) && (q.Until.IsZero() || r.Begin.Before(q.Until)) &&
		(!q.Denied || r.Decision == Refused) && r.Up+r.Down >= q.MinBytes
}

func TestQueriesAndSumsFindWhatFits(t *testing.T) {
	_, reader, all := filled(t, 5000)
	all[len(all)-1].Up = 5
	at := func(day, hour, minute int) time.Time { return time.Date(2026, 3, day, hour, minute, 30, 0, time.UTC) }
	for name, q := range map[string]Query{
		"all":              {},
		"a user":           {Users: []string{"user7"}},
		"two users":        {Users: []string{"user7", "user9", "nobody"}},
		"a group":          {Groups: []string{"guests"}},
		"a host":           {To: []string{"Host81.example.org"}},
		"a domain":         {To: []string{"*.example.org"}},
		"a network":        {To: []string{"203.0.113.0/25"}},
		"an address":       {To: []string{"203.0.1.20"}},
		"a host at night":  {To: []string{"host81.example.org", "live.example.org"}, Since: at(1, 21, 0), Until: at(2, 20, 1)},
		"an evening":       {Since: at(1, 20, 15), Until: at(1, 21, 40)},
		"some minutes":     {Since: at(1, 20, 15), Until: at(1, 20, 20)},
		"from some time":   {Since: at(2, 20, 7)},
		"until some time":  {Until: at(2, 20, 7)},
		"what was refused": {Denied: true, Protocols: []string{"http", "ssh"}},
		"a rule":           {Rules: []string{"staff may"}, Users: []string{"user4"}},
		"much":             {MinBytes: 15_000},
		"nothing":          {Users: []string{"' OR 1=1 --"}},
	} {
		t.Run(name, func(t *testing.T) {
			var want []string
			sums := map[string]Sum{}
			for _, r := range all {
				if fits(q, r) {
					want = append(want, r.Begin.String()+r.Name)
					s := sums[r.User+" "+r.Protocol]
					s.add(Sum{Flows: 1, Up: r.Up, Down: r.Down, Duration: r.Duration})
					sums[r.User+" "+r.Protocol] = s
				}
			}
			var got []string
			for r, err := range reader.Records(t.Context(), q) {
				must(t, err)
				got = append(got, r.Begin.String()+r.Name)
			}
			if !slices.Equal(got, want) {
				t.Errorf("%d records fit, and %d are found", len(want), len(got))
			}
			last, err := reader.Last(t.Context(), q, 100)
			must(t, err)
			if len(last) != min(100, len(want)) || len(last) > 0 && last[0].Begin.String()+last[0].Name != want[len(want)-len(last)] {
				t.Errorf("the last 100 are %d", len(last))
			}
			found, err := reader.Sums(t.Context(), q, []string{"user", "protocol"})
			must(t, err)
			for _, s := range found {
				w := sums[strings.Join(s.Key, " ")]
				if s.Flows != w.Flows || s.Up != w.Up || s.Down != w.Down {
					t.Errorf("%v is %+v, not %+v", s.Key, s, w)
				}
			}
			if len(found) != len(sums) {
				t.Errorf("there are %d sums, not %d", len(found), len(sums))
			}
		})
	}
}

func TestSumsGoByAnything(t *testing.T) {
	_, reader, all := filled(t, 50)
	for _, by := range Groupings() {
		sums, err := reader.Sums(t.Context(), Query{}, []string{by})
		must(t, err)
		var flows int64
		for _, s := range sums {
			flows += s.Flows
		}
		if by != "group" && int(flows) != len(all) {
			t.Errorf("by %s there are %d flows of %d: %+v", by, flows, len(all), sums)
		}
	}
	sums, err := reader.Sums(t.Context(), Query{}, []string{"group"})
	must(t, err)
	if len(sums) != 3 {
		t.Errorf("the groups are %+v", sums)
	}
	if _, err := reader.Sums(t.Context(), Query{}, []string{"1; DROP TABLE records"}); !errors.Is(err, ErrGrouping) {
		t.Errorf("by anything: %v", err)
	}
	if sums, err := reader.Sums(t.Context(), Query{}, nil); err != nil || len(sums) != 1 || int(sums[0].Flows) != len(all) {
		t.Errorf("all in all: %+v, %v", sums, err)
	}
}

func TestFollowGivesEachRecordOnce(t *testing.T) {
	w, reader, _ := filled(t, 10)
	ctx, stop := contextOf(t)
	n := 0
	for r, err := range reader.Follow(ctx, Query{}, 15) {
		must(t, err)
		n++
		switch {
		case n == 5:
			must(t, w.Note(flowNumber(1000)))
			must(t, w.rotate(t.Context()))
			flush(t, w)
		case n == 6 && r.Name == flowNumber(1000).Name:
			stop()
		case n >= 6:
			t.Fatalf("record %d is %+v", n, r)
		}
	}
	if n != 6 {
		t.Errorf("there were %d", n)
	}
}

func TestSQLOnlyReads(t *testing.T) {
	w, reader, all := filled(t, 50)
	ask := func(text string) (rows [][]any, err error) {
		err = reader.SQL(t.Context(), text, time.Time{}, time.Time{}, func(_ []string, row []any) bool {
			rows = append(rows, slices.Clone(row))
			return true
		})
		return rows, err
	}
	rows, err := ask(" -- how many\n SELECT count(*), sum(up) FROM flows WHERE user <> ';' ; ")
	must(t, err)
	if rows[0][0] != int64(len(all)-1) {
		t.Errorf("SQL counts %v", rows)
	}
	for _, text := range []string{
		"DELETE FROM file0.records", "WITH x AS (SELECT 1) DELETE FROM file0.records", "SELECT 1; DELETE FROM file0.records", "PRAGMA query_only = 0",
		"ATTACH '" + t.TempDir() + "/x' AS x", "VACUUM INTO '" + t.TempDir() + "/x'", "SELECT $a('); PRAGMA query_only = 0 --')", "", ";", "SELECT 1;;SELECT 2",
		"SELECT load_extension('x')", "SELECT writefile('x', 'y')", "CREATE TEMP TABLE x (y)", "EXPLAIN", "/* x", "SELECT 1 /* ; */; SELECT 2",
		"WITH x AS (SELECT 1) INSERT INTO file0.seals SELECT 9, 9, 9, 9, 9, 9, zeroblob(32)",
	} {
		if rows, err := ask(text); err == nil {
			t.Errorf("%q gives %v", text, rows)
		}
	}
	verifySound(t, w.cfg.Dir)
}

func FuzzSQL(f *testing.F) {
	for _, text := range []string{"SELECT 1", "SELECT ';'; --", "WITH a AS (SELECT 1) SELECT * FROM a", "SELECT 1; SELECT 2", "SELECT \"a;b\", [c;d], `e;f`", "SELECT $a(')';')"} {
		f.Add(text)
	}
	w := newWriter(f, Config{})
	must(f, w.Note(flowNumber(1)))
	must(f, w.Close())
	reader := NewReader(w.cfg.Dir)
	f.Fuzz(func(t *testing.T, text string) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		before, err := os.ReadFile(w.day.path)
		must(t, err)
		n := 0
		_ = reader.SQL(ctx, text, time.Time{}, time.Time{}, func([]string, []any) bool { n++; return n < 100 })
		after, err := os.ReadFile(w.day.path)
		must(t, err)
		if !bytes.Equal(before, after) {
			t.Errorf("%q has changed the file", text)
		}
		// What follows a statement that was let through is nothing.
		if oneSelect(text) == nil && oneSelect(text+"\n;SELECT 2") == nil && !strings.Contains(text, "/*") && strings.Count(text, "'")+strings.Count(text, `"`)+strings.Count(text, "`")+strings.Count(text, "[") == 0 {
			t.Errorf("%q lets another statement follow", text)
		}
	})
}

func TestHostileTextsStayInTheirPlace(t *testing.T) {
	w := newWriter(t, Config{})
	for _, text := range hostile {
		must(t, w.Note(Record{
			Kind: Flow, Begin: time.Now(), Command: text, Name: text, Protocol: text, Host: text, Rule: text, End: text, What: text, Decision: Allowed,
			Origin: Origin{text, text, text, text, text, netip.Addr{}, text, text, text, text, text, text, text, text, text},
		}))
	}
	must(t, w.Close())
	verifySound(t, w.cfg.Dir)
	reader := NewReader(w.cfg.Dir)
	for name, printer := range map[string]func(*bytes.Buffer) Printer{
		"table": func(b *bytes.Buffer) Printer { return NewTable(b) }, "csv": func(b *bytes.Buffer) Printer { return NewCSV(b) }, "json": func(b *bytes.Buffer) Printer { return NewJSON(b) },
		"parquet": func(b *bytes.Buffer) Printer { return NewParquet(b, nil, nil) },
	} {
		var b bytes.Buffer
		p := printer(&b)
		n := 0
		for r, err := range reader.Records(t.Context(), Query{}) {
			must(t, err)
			must(t, p.Print(r.Row()))
			n++
		}
		must(t, reader.SQL(t.Context(), "SELECT char(27) || '[2J', char(10), x'1b', 1.5, NULL, '=1+1'", time.Time{}, time.Time{}, func(c []string, row []any) bool {
			must(t, printer(new(bytes.Buffer)).Print(c, row))
			return true
		}))
		must(t, p.Flush())
		if n != len(hostile) {
			t.Errorf("%d records of %d", n, len(hostile))
		}
		printed(t, name, b.String(), n)
	}
	for i, text := range hostile {
		for r, err := range reader.Records(t.Context(), Query{Users: []string{text}}) {
			must(t, err)
			if r.User != Clean(text) {
				t.Errorf("%q (%d) is found as %q", text, i, r.User)
			}
		}
	}
}

func TestColumnsOfATableStayInLine(t *testing.T) {
	var b bytes.Buffer
	p := NewTable(&b)
	for _, row := range [][]any{{"a", "b"}, {"münchen", ""}, {"c", int64(1)}} {
		must(t, p.Print([]string{"to", "n"}, row))
		must(t, p.Flush())
	}
	if got, want := b.String(), "TO  N\na   b\nmünchen  -\nc        1\n"; got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestTextInATableIsNoOtherColumn(t *testing.T) {
	var b bytes.Buffer
	p := NewTable(&b)
	must(t, p.Print([]string{"to", "end"}, []any{"a     allowed", "closed"}))
	must(t, p.Flush())
	row := strings.Split(b.String(), "\n")[1]
	if columns := strings.Split(row, "  "); len(columns) != 2 || columns[0] != `a \x20 \x20 allowed` {
		t.Errorf("the row is %q", row)
	}
}

// printed looks at the output of n rows with a head.
func printed(t *testing.T, format, out string, n int) {
	t.Helper()
	if format == "parquet" {
		rows, _ := readParquet(t, []byte(out))
		if len(rows) != n {
			t.Errorf("the file has %d rows", len(rows))
		}
		out = fmt.Sprint(rows)
	}
	if strings.ContainsFunc(out, func(r rune) bool { return r != '\n' && !visible(r) }) {
		t.Errorf("%s does more than show", format)
	}
	switch format {
	case "table":
		if lines := strings.Count(out, "\n"); lines != n+1 {
			t.Errorf("the table has %d lines", lines)
		}
	case "csv":
		rows, err := csv.NewReader(strings.NewReader(out)).ReadAll() // each as long as the first
		if err != nil || len(rows) != n+1 || strings.Count(out, "\n") != n+1 {
			t.Errorf("the CSV has %d rows, %v", len(rows), err)
		}
		for _, cell := range slices.Concat(rows...) {
			if cell != "" && strings.ContainsRune("=+-@", rune(cell[0])) {
				t.Errorf("a spreadsheet computes %q", cell)
			}
		}
	case "json":
		for line := range strings.Lines(out) {
			var object map[string]any
			if err := json.Unmarshal([]byte(line), &object); err != nil || len(object) != len(recordColumnNames) {
				t.Errorf("%s: %v", line, err)
			}
		}
	}
}
