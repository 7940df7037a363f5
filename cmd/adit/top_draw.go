package main

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/adit-net/adit/server/audit"
)

// style is how a line is shown.
type style string

// The styles, as ECMA-48 has them (SGR).
const (
	normal  style = ""
	strong  style = "\x1b[1m"
	inverse style = "\x1b[7m"
)

// screenLine is a line of the screen. Its text has no escape sequences.
type screenLine struct {
	text string
	style
}

// topHead is how many lines there are above the rows, and topFoot below.
const topHead, topFoot = 4, 1

// draw gives what is to be seen in a terminal of so many cells: height lines at most, none wider than
// width.
func (v *topView) draw(width, height int, s topState) []screenLine {
	t := v.table()
	room := max(height-topHead-topFoot, 1)
	v.first = max(0, min(v.first, len(t.rows)-room))
	rows := t.rows[v.first:min(v.first+room, len(t.rows))]
	widths := t.widths(width, rows)

	lines := []screenLine{
		{v.headline(s), strong},
		{v.traffic(), normal},
		{v.viewline(t, s), normal},
		{t.line(t.titles, widths), inverse},
	}
	for _, row := range rows {
		lines = append(lines, screenLine{t.line(row, widths), normal})
	}
	for len(lines) < height-topFoot {
		lines = append(lines, screenLine{})
	}
	lines = append(lines, screenLine{footline(s), normal})
	lines = lines[:max(0, min(len(lines), height))]
	for i := range lines {
		text := fit(lines[i].text, width)
		if lines[i].style == inverse {
			text += strings.Repeat(" ", max(0, width-cells(text)))
		}
		lines[i].text = text
	}
	return lines
}

// headline says whose figures these are.
func (v *topView) headline(s topState) string {
	what := fmt.Sprintf("adit server %s, up %s", audit.Show(v.now.Version), age(v.now.At.Sub(v.now.Since)))
	switch {
	case v.failed != nil:
		what += "   NO ANSWER: " + audit.Show(v.failed.Error())
	case s.paused:
		what += "   PAUSED"
	}
	return v.now.At.Local().Format(time.TimeOnly) + "  " + v.population() + "   " + what
}

// viewline says what is shown, and how it is sorted.
func (v *topView) viewline(t table, s topState) string {
	names := slices.Clone(viewNames())
	names[v.view] = "[" + names[v.view] + "]"
	line := fmt.Sprintf("%s   %d rows", strings.Join(names, " "), len(t.rows))
	if v.first > 0 {
		line += fmt.Sprintf(" from %d on", v.first+1)
	}
	line += ", by " + v.titles()[v.by[v.view]]
	if v.reversed[v.view] {
		line += " reversed"
	}
	if v.filter != "" || s.typing {
		line += ", with /" + audit.Show(v.filter)
	}
	if s.typing {
		line += "_"
	}
	return line
}

func footline(s topState) string {
	if s.typing {
		return "type what rows must have   enter: keep   esc: all rows"
	}
	return "tab view   ←→ sort   r reverse   / filter   ↑↓ scroll   space pause   q quit"
}

// frame gives what makes a terminal show these lines, in one piece. Nothing of what was there before
// is left, and a line that a terminal takes to be wider than it is cannot move another.
func frame(lines []screenLine) []byte {
	var b bytes.Buffer
	for i, l := range lines {
		// After the last cell of a line the cursor is still on it, so this is emptied before.
		fmt.Fprintf(&b, "\x1b[%d;1H\x1b[K%s%s\x1b[0m", i+1, l.style, l.text)
	}
	return b.Bytes()
}

// What makes a terminal ready for frames: its other screen, which no line is wrapped on and no cursor
// is on; and what undoes that.
const (
	enterScreen = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[H\x1b[2J"
	leaveScreen = "\x1b[?7h\x1b[?25h\x1b[?1049l"
)
