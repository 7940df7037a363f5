package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
)

// busyReport is one of a server with so many flows, after so many seconds.
func busyReport(flows int, second int64) topReport {
	began := time.Now().Add(-time.Hour)
	r := topReport{
		Version: "1.0", Since: time.Unix(1_800_000_000, 0), At: time.Unix(1_800_000_000+second, 0),
		Totals:   totalsReport{Up: 1000 * second, Down: 5000 * second, Open: flows, Refused: 1, Denied: 2},
		Sessions: []sessionReport{{ID: "a", User: "anna", Device: "laptop", Since: began, Down: 5000 * second, Streams: flows}},
		Guests:   []guestReport{{User: "bob", Device: "phone", Address: "10.83.0.2", Since: began, Up: 1000 * second}},
		Refusals: []refusalReport{{Time: began, User: "anna", Command: "connect", Target: "10.0.0.1:22", Why: "it is forbidden by rule \"no\"", Times: 3}},
	}
	for i := range flows {
		r.Flows = append(r.Flows, flowReport{
			ID: int64(i), User: "anna", Target: fmt.Sprintf("host%d.example.org:443", i), Command: "connect", Since: began, Down: int64(i) * second * 1000,
		})
	}
	return r
}

// text is what a terminal would show.
func (v *topView) screen(width, height int, s topState) []string {
	var lines []string
	for _, l := range v.draw(width, height, s) {
		lines = append(lines, strings.TrimRight(l.text, " "))
	}
	return lines
}

func TestTopTellsWhatPassesASecond(t *testing.T) {
	v := newTopView()
	v.take(busyReport(3, 10))
	if v.up != 0 || v.flows[2].down != 0 {
		t.Errorf("after one look it knows of %v and %+v", v.up, v.flows[2])
	}
	v.take(busyReport(4, 12))
	if v.up != 1000 || v.down != 5000 || v.flows[2].down != 2000 || v.flows[3].down != 18_000 || v.sessions[0].down != 5000 || v.sessions[1].up != 1000 {
		t.Errorf("it tells of %v, %v, %+v and %+v", v.up, v.down, v.flows, v.sessions)
	}
	other := busyReport(4, 14)
	other.Since = other.Since.Add(time.Second)
	v.take(other)
	if v.up != 0 || v.flows[3].down != 0 {
		t.Error("it compares two servers")
	}
}

func TestTopFitsEveryTerminal(t *testing.T) {
	v := newTopView()
	v.take(busyReport(100, 10))
	v.take(busyReport(100, 11))
	for view := range topViews {
		v.view = view
		for _, size := range [][2]int{{80, 24}, {132, 50}, {40, 10}, {20, 5}, {10, 3}, {1, 1}, {500, 200}} {
			lines := v.draw(size[0], size[1], topState{})
			if len(lines) != size[1] {
				t.Errorf("%s has %d lines of %d", viewNames()[view], len(lines), size[1])
			}
			for _, l := range lines {
				if cells(l.text) > size[0] {
					t.Errorf("%s in %d columns has the line %q", viewNames()[view], size[0], l.text)
				}
			}
		}
	}
}

func TestTopShowsTheBusiestFlowsFirst(t *testing.T) {
	v := newTopView()
	v.take(busyReport(100, 10))
	v.take(busyReport(100, 11))
	want := []string{
		`^\d\d:\d\d:\d\d  sessions 2, flows 100   adit server 1.0, up 11s$`,
		`^down 4.9 KiB/s, up 1000 B/s   refused 1, failed 0, logins denied 2$`,
		`^\[flows\] sessions refusals   100 rows, by DOWN/S$`,
		`^USER  TARGET +DOWN/S\*  UP/S +DOWN +FOR  PROTOCOL  UP  RULE$`,
		`^anna  host99\.example\.org:443 +96\.7K     -`,
		`^anna  host98`,
	}
	lines := v.screen(80, 24, topState{})
	for i, w := range want {
		if !regexp.MustCompile(w).MatchString(lines[i]) {
			t.Errorf("line %d is %q", i, lines[i])
		}
	}
	if !strings.HasPrefix(lines[23], "tab view") {
		t.Errorf("the last is %q", lines[23])
	}
}

// pressAll presses keys, as a terminal sends them.
func pressAll(v *topView, s *topState, keys string) {
	for b := []byte(keys); len(b) > 0; {
		var k key
		k, b = nextKey(b)
		v.press(k, s)
	}
}

func TestTopDoesWhatItsKeysSay(t *testing.T) {
	for keys, want := range map[string]string{
		"":                     `host99`,
		"r":                    `host0\.`,
		"<":                    `host0\..*$`, // by TARGET
		"\x1b[D\x1b[D":         `host`,
		"/host42\r":            `host42`,
		"/host42\x7f\x7f7\r":   `host79`,
		"/host42\x1b":          `host99`,
		"/\x1b[A\x1b[31mhost1": `host19`, // a terminal's own keys are no text
		"/q\x1bjj":             `host97`,
		"\x1b[6~":              `host80`,
		"\x1b[6~\x1b[5~":       `host99`,
		"G":                    `host18`,
		"\x1b[F\x1b[Hk":        `host99`,
		"\t":                   `anna +laptop`,
		"\t\t":                 `anna +connect +10\.0\.0\.1:22 +3 +it is forbidden by rule "no"`,
		"\x1b[Z":               `connect`,
		"\t\t\t":               `host99`,
		"x\x00\x1b[99;99R":     `host99`,
	} {
		v, s := newTopView(), topState{page: 19}
		v.take(busyReport(100, 10))
		v.take(busyReport(100, 11))
		v.screen(80, 24, s)
		pressAll(v, &s, keys)
		if line := v.screen(80, 24, s)[topHead]; !regexp.MustCompile(want).MatchString(line) {
			t.Errorf("after %q the first row is %q", keys, line)
		}
		if s.quit {
			t.Errorf("%q is its end", keys)
		}
	}
	for _, keys := range []string{"q", "\x03", "/q\x03"} {
		s := topState{}
		if pressAll(newTopView(), &s, keys); !s.quit {
			t.Errorf("%q is not its end", keys)
		}
	}
}

// Whatever an app has named, a terminal is told only what adit wants to tell it.
func TestTopIsDeafToHostileStrings(t *testing.T) {
	hostile := "a\x1b[2J\x1b]0;title\a\x9b31m\r\nb\u202ec\x00\u200d" + strings.Repeat("e\u0301", 300) + "日本語"
	r := busyReport(0, 1)
	r.Version = hostile
	r.Flows = []flowReport{{User: hostile, Target: hostile, Protocol: hostile, Rule: hostile, Command: hostile, Device: hostile, Source: hostile, Host: hostile, Address: hostile}}
	r.Sessions = []sessionReport{{User: hostile, Device: hostile, Remote: hostile, Detached: time.Unix(1, 0), Lost: hostile, ID: hostile}}
	r.Refusals = []refusalReport{{User: hostile, Command: hostile, Target: hostile, Why: hostile, Source: hostile}}
	for view := range topViews {
		v := newTopView()
		v.view, v.filter, v.failed = view, "a", errors.New(hostile)
		v.take(r)
		v.failed = errors.New(hostile)
		lines := v.draw(300, 24, topState{typing: true})
		for _, l := range lines {
			if cells(l.text) > 300 || strings.ContainsFunc(l.text, func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("there is the line %q", l.text)
			}
		}
		// In a frame there are no sequences but these.
		rest := regexp.MustCompile(`\x1b\[(\d+;1H|K|0m|1m|7m)`).ReplaceAll(frame(lines), nil)
		if i := bytes.IndexFunc(rest, func(r rune) bool { return unicode.IsControl(r) }); i >= 0 {
			t.Errorf("a frame has %q", rest[i:min(i+20, len(rest))])
		}
	}
}

func TestWideTextsKeepColumnsInLine(t *testing.T) {
	tab := table{titles: []string{"NAME", "N"}, right: []bool{false, true}, rows: [][]string{{"日本語", "1"}, {"abc", "22"}}}
	widths := tab.widths(80, tab.rows)
	if got := tab.line(tab.rows[0], widths) + "|" + tab.line(tab.rows[1], widths); got != "日本語   1|abc     22" {
		t.Errorf("it looks like %q", got)
	}
	for width := range 8 {
		if got := fit("日本語", width); cells(got) > width || !utf8.ValidString(got) {
			t.Errorf("in %d cells it is %q", width, got)
		}
	}
}

func TestNumbersAreNeverCut(t *testing.T) {
	v := newTopView()
	r := busyReport(1, 1)
	r.Flows[0].User, r.Flows[0].Target = strings.Repeat("u", 200), strings.Repeat("t", 200)
	r.Flows[0].Down = 123_456_789
	v.take(r)
	for width := 2*readable + 23; width < 200; width++ {
		if row := v.screen(width, 10, topState{})[topHead]; !strings.Contains(row, " 118M ") && !strings.HasSuffix(row, " 118M") {
			t.Errorf("in %d columns there is %q", width, row)
		}
	}
}

func TestTopPrintsLinesWhereThereIsNoTerminal(t *testing.T) {
	asked := int64(0)
	var out bytes.Buffer
	o := topOptions{view: "flows", every: 100 * time.Millisecond, count: 2, filter: "host7"}
	v, err := o.start()
	if err != nil {
		t.Fatal(err)
	}
	err = runTop(t.Context(), env{stdin: strings.NewReader("q"), stdout: &out}, v, o, func(context.Context) (topReport, error) {
		asked++
		return busyReport(100, asked), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	looks := strings.Split(strings.TrimSuffix(out.String(), "\n\n"), "\n\n")
	if len(looks) != 2 || asked != 3 {
		t.Fatalf("after %d questions it has printed %q", asked, looks)
	}
	lines := strings.Split(looks[1], "\n")
	if len(lines) != 2+11 || !strings.Contains(lines[0], "sessions 2, flows 100   down 4.9 KiB/s") || !strings.HasPrefix(lines[2], "anna  host79.example.org:443    77.1K") {
		t.Errorf("it has printed\n%s", looks[1])
	}
	if strings.Contains(out.String(), "\x1b") {
		t.Error("there is an escape sequence")
	}
}

func TestTopEndsWithAServerThatNeverWas(t *testing.T) {
	gone := errors.New("nobody is there")
	o := topOptions{every: time.Second}
	err := runTop(t.Context(), env{stdout: &bytes.Buffer{}}, newTopView(), o, func(context.Context) (topReport, error) { return topReport{}, gone })
	if !errors.Is(err, gone) {
		t.Errorf("it says %v", err)
	}
}

func TestTopKnowsItsViewsAndColumns(t *testing.T) {
	for _, o := range []topOptions{
		{view: "nothing", every: time.Second}, {view: "flows", sort: "nothing", every: time.Second}, {view: "flows"},
		{view: "flows", every: time.Second, count: -1}, {view: "refusals", sort: "down/s", every: time.Second},
	} {
		if _, err := o.start(); exitCode(err) != exitUsage {
			t.Errorf("%+v: %v", o, err)
		}
	}
	for i, view := range viewNames() {
		v := newTopView()
		v.view = i
		for by, title := range v.titles() {
			o := topOptions{view: view, sort: strings.ToLower(title), every: time.Second}
			if got, err := o.start(); err != nil || got.by[i] != by {
				t.Errorf("%s by %s: %v", view, title, err)
			}
		}
	}
}

func FuzzKeys(f *testing.F) {
	for _, seed := range []string{"q", "\x1b[A", "\x1b", "\x1b[", "\x1bOB", "\x1b[1;5C", "日", "\xff", "/x\x7f\r"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		v, s := newTopView(), topState{page: 10}
		v.take(busyReport(30, 1))
		for len(b) > 0 {
			k, rest := nextKey(b)
			if len(rest) >= len(b) {
				t.Fatalf("%q is a key of no bytes", b)
			}
			b = rest
			v.press(k, &s)
		}
		for _, l := range v.draw(80, 24, s) {
			if cells(l.text) > 80 || strings.ContainsFunc(l.text, func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("there is the line %q", l.text)
			}
		}
	})
}
