package audit

import (
	"errors"
	"strings"
	"testing"
)

// tampered makes a warehouse of three files with six flows in three batches each, does
// something to the file in the middle, and gives what Verify has to say.
func tampered(t *testing.T, witness func(*Writer) Head, statements ...string) Report {
	t.Helper()
	w := newWriter(t, Config{})
	var noted Head
	for i := range 3 {
		if i > 0 {
			must(t, w.rotate(t.Context()))
		}
		for n := range 6 {
			e, err := (&open{}).begin(w, flowNumber(10*i+n))
			must(t, err)
			if n%2 == 0 {
				flush(t, w)
			}
			e.End(flowNumber(10*i + n))
		}
		flush(t, w)
	}
	if witness != nil {
		noted = witness(w)
	}
	must(t, w.Close())
	verifySound(t, w.cfg.Dir)
	all, err := files(w.cfg.Dir)
	must(t, err)
	d, err := openDay(t.Context(), all[1])
	must(t, err)
	for _, s := range statements {
		_, err := d.conn.ExecContext(t.Context(), s)
		must(t, err)
	}
	must(t, d.close())
	r, err := Verify(t.Context(), w.cfg.Dir, noted)
	must(t, err)
	return r
}

func TestVerifyFindsWhatWasTamperedWith(t *testing.T) {
	const last = "(SELECT max(seq) FROM records)"
	for name, statements := range map[string][]string{
		"an edit":             {"UPDATE records SET down = down + 1 WHERE seq = 8"},
		"an edited word":      {"UPDATE words SET text = 'nobody' WHERE text = 'host1.example.org' OR id = 3"},
		"an edited origin":    {"UPDATE origins SET user = 'mallory' WHERE id = 2"},
		"an edited beginning": {"UPDATE opened SET begin = begin + 1000 WHERE seq = (SELECT min(seq) FROM opened)"},
		"a deletion":          {"DELETE FROM records WHERE seq = 8"},
		"a deletion with a gap closed": {
			"DELETE FROM records WHERE seq = 8", "UPDATE records SET seq = seq - 100 WHERE seq > 8", "UPDATE records SET seq = seq + 99 WHERE seq < 0",
		},
		"a deletion at the end":  {"DELETE FROM records WHERE seq = " + last},
		"a swap":                 {"UPDATE records SET seq = -8 WHERE seq = 8", "UPDATE records SET seq = 8 WHERE seq = 9", "UPDATE records SET seq = 9 WHERE seq = -8"},
		"a record put in":        {"INSERT INTO records SELECT seq + 1, kind, origin, 99, begin, duration, source_port, command, name, address, port, protocol, host, decision, rule, up, down, sent, received, connect, first_byte, resumes, ended, what FROM records WHERE seq = " + last},
		"a seal made up":         {"UPDATE seals SET hash = randomblob(32) WHERE n = (SELECT max(n) FROM seals)"},
		"a seal moved":           {"UPDATE seals SET time = time + 1 WHERE n = (SELECT max(n) FROM seals)"},
		"a batch taken out":      {"DELETE FROM records WHERE seq = 8", "DELETE FROM seals WHERE n = (SELECT min(n) + 2 FROM seals)"},
		"an end taken away":      {"DELETE FROM records WHERE seq > (SELECT records FROM seals ORDER BY n DESC LIMIT 1 OFFSET 1)", "DELETE FROM seals WHERE n = (SELECT max(n) FROM seals)"},
		"sums that hide a flow":  {"UPDATE hours SET flows = flows - 1"},
		"all seals gone":         {"DELETE FROM seals"},
		"a text for a number":    {"DROP TABLE opened", "CREATE TABLE opened (seq INTEGER PRIMARY KEY, x)", "INSERT INTO opened VALUES (1, 'x')"},
		"an identifier repeated": {"UPDATE records SET id = 12 WHERE seq = 8"},
	} {
		t.Run(name, func(t *testing.T) {
			r := tampered(t, nil, statements...)
			if r.Sound() {
				t.Error("Verify finds nothing")
			}
			t.Logf("%q", r.Problems)
		})
	}
}

func TestVerifyFindsAFileThatIsMissingInBetween(t *testing.T) {
	w := newWriter(t, Config{})
	for n := range 3 {
		must(t, w.Note(flowNumber(n)))
		flush(t, w)
		must(t, w.rotate(t.Context()))
	}
	must(t, w.Close())
	all, err := files(w.cfg.Dir)
	must(t, err)
	must(t, all[1].remove())
	r, err := Verify(t.Context(), w.cfg.Dir, Head{})
	must(t, err)
	if len(r.Problems) != 1 || !strings.Contains(r.Problems[0], "a file is missing") {
		t.Errorf("the problems are %q", r.Problems)
	}
}

// Whoever makes all hashes anew is found by who has noted one down.
func TestWitnessFindsWhatWasWrittenAnew(t *testing.T) {
	atEnd := func(w *Writer) Head { return w.day.last.Head }
	early := func(w *Writer) Head { h := w.day.last.Head; h.N = 2; return h }
	if r := tampered(t, atEnd); !r.Sound() {
		t.Errorf("nothing was done, and the problems are %q", r.Problems)
	}
	if r := tampered(t, early); r.Sound() {
		t.Error("seal 2 is not the one that was noted down, and nobody notices")
	}

	w := newWriter(t, Config{})
	must(t, w.Note(flowNumber(1)))
	flush(t, w)
	must(t, w.Note(flowNumber(2)))
	flush(t, w)
	noted := w.day.last.Head
	must(t, w.Close())
	d, err := newest(t.Context(), w.cfg.Dir, w.now())
	must(t, err)
	for _, s := range []string{"DELETE FROM records WHERE seq = 2", "DELETE FROM seals WHERE n = 2", "DELETE FROM hours", "DELETE FROM words WHERE id > (SELECT words FROM seals WHERE n = 1)",
		"DELETE FROM origins WHERE id > (SELECT origins FROM seals WHERE n = 1)",
		"INSERT INTO hours SELECT r.begin / 3600000, (SELECT id FROM words WHERE text = o.user), (SELECT id FROM words WHERE text = o.groups), protocol, rule, decision, 1, up, down, sent, received, duration FROM records r JOIN origins o ON o.id = r.origin"} {
		_, err := d.conn.ExecContext(t.Context(), s)
		must(t, err)
	}
	must(t, d.close())
	// What Verify cannot find by itself, as it says.
	verifySound(t, w.cfg.Dir)
	r, err := Verify(t.Context(), w.cfg.Dir, noted)
	must(t, err)
	if r.Sound() {
		t.Error("the end was taken away, and the witness does not notice")
	}
}

func TestHeadIsReadAsItIsWritten(t *testing.T) {
	h := Head{N: 12, Hash: [32]byte{1, 2, 3}}
	if got, err := ParseHead(h.String()); err != nil || got != h {
		t.Errorf("%v is read as %v, %v", h, got, err)
	}
	for _, text := range []string{"", "12", "12:", ":00", "-1:" + strings.Repeat("00", 32), "1:" + strings.Repeat("0", 63), "1:" + strings.Repeat("00", 33)} {
		if _, err := ParseHead(text); !errors.Is(err, errHead) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func FuzzHead(f *testing.F) {
	f.Add(Head{N: 1}.String())
	f.Add("1:zz")
	f.Fuzz(func(t *testing.T, text string) {
		h, err := ParseHead(text)
		if err != nil {
			return
		}
		if again, err := ParseHead(h.String()); err != nil || again != h {
			t.Errorf("%q is read as %v and then as %v, %v", text, h, again, err)
		}
	})
}

// No two rows are spelled alike, but for NULLs at the end.
func TestRowsThatDifferAreSpelledDifferently(t *testing.T) {
	rows := [][]any{
		{}, {int64(0)}, {""}, {[]byte{}}, {nil, int64(0)}, {int64(0), nil, int64(0)}, {int64(1)}, {"1"}, {"a", "b"}, {"ab"}, {"ab", ""}, {"", "ab"},
		{[]byte("ab")}, {int64(-1)}, {"a", []byte("b")}, {"\x01a"}, {1.5}, {true},
	}
	seen := make(map[string]int)
	for i, row := range rows {
		spelled := string(appendRow(nil, row))
		if j, ok := seen[spelled]; ok {
			t.Errorf("%v and %v are spelled alike", rows[j], row)
		}
		seen[spelled] = i
		if string(appendRow(nil, append(row[:len(row):len(row)], nil, nil))) != spelled {
			t.Errorf("columns that were added change %v", row)
		}
	}
}
