package main

import (
	"cmp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/adit-net/adit/server/audit"
)

// column is one of a table whose rows are made of T.
type column[T any] struct {
	title string
	text  func(T) string
	order func(a, b T) int // the largest, or last, first
	right bool             // it is a number, which is never cut
}

// table is what a view shows: all texts are such as a terminal shows as they are.
type table struct {
	titles []string
	right  []bool
	rows   [][]string
}

// tabulate makes a table of those that fit a filter, sorted by a column, whose title is marked.
func tabulate[T any](all []T, columns []column[T], by int, reversed bool, filter string) table {
	all = slices.Clone(all)
	slices.SortStableFunc(all, func(a, b T) int {
		if reversed {
			a, b = b, a
		}
		return columns[by].order(a, b)
	})
	var t table
	for _, c := range columns {
		t.titles, t.right = append(t.titles, c.title), append(t.right, c.right)
	}
	t.titles[by] += "*"
	for _, x := range all {
		row := make([]string, len(columns))
		for i, c := range columns {
			row[i] = cmp.Or(audit.Show(c.text(x)), "-")
		}
		if filter == "" || slices.ContainsFunc(row, func(s string) bool { return strings.Contains(strings.ToLower(s), strings.ToLower(filter)) }) {
			t.rows = append(t.rows, row)
		}
	}
	return t
}

const (
	columnGap = 2
	readable  = 20 // to which a text is cut before a column is left out
	barely    = 6  // and to which it is cut when there is no other column to leave out
	atLeast   = 3  // columns
)

// widths gives how wide the columns are in so much room, for the rows that are to be seen. If there
// is not enough, texts are cut, and the last columns left out.
func (t *table) widths(room int, rows [][]string) []int {
	var whole []int
	for i, title := range t.titles {
		w := cells(title)
		for _, row := range rows {
			w = max(w, cells(row[i]))
		}
		whole = append(whole, w)
	}
	widths := t.cut(whole, readable)
	for len(widths) > atLeast && span(widths) > room {
		widths = widths[:len(widths)-1]
	}
	if span(widths) > room {
		widths = t.cut(widths, barely)
	}
	for len(widths) > 1 && span(widths) > room {
		widths = widths[:len(widths)-1]
	}
	// What is left goes to those that were cut, the narrowest first.
	for left := room - span(widths); left > 0; left-- {
		narrowest := -1
		for i, w := range widths {
			if w < whole[i] && (narrowest < 0 || w < widths[narrowest]) {
				narrowest = i
			}
		}
		if narrowest < 0 {
			break
		}
		widths[narrowest]++
	}
	return widths
}

// cut gives widths of which those of texts are no larger than most.
func (t *table) cut(widths []int, most int) []int {
	widths = slices.Clone(widths)
	for i, w := range widths {
		if !t.right[i] {
			widths[i] = min(w, max(most, cells(t.titles[i])))
		}
	}
	return widths
}

// span is the room that columns take.
func span(widths []int) int {
	sum := -columnGap
	for _, w := range widths {
		sum += w + columnGap
	}
	return sum
}

// line lays a row out.
func (t *table) line(row []string, widths []int) string {
	var b strings.Builder
	for i, w := range widths {
		if i > 0 {
			b.WriteString(strings.Repeat(" ", columnGap))
		}
		text := fit(row[i], w)
		pad := strings.Repeat(" ", w-cells(text))
		if t.right[i] {
			b.WriteString(pad + text)
		} else {
			b.WriteString(text + pad)
		}
	}
	return strings.TrimRight(b.String(), " ")
}

// fit cuts a text so that it takes no more than so many cells.
func fit(text string, width int) string {
	if cells(text) <= width {
		return text
	}
	used := 0
	for i, r := range text {
		if used += cellsOf(r); used > width-1 {
			if width < 1 {
				return ""
			}
			return text[:i] + "…"
		}
	}
	return text
}

// cells is how many cells of a terminal a text takes, or more.
func cells(text string) (n int) {
	if len(text) == utf8.RuneCountInString(text) {
		return len(text)
	}
	for _, r := range text {
		n += cellsOf(r)
	}
	return n
}

// cellsOf is 2 for what East Asian writing makes wide (UAX #11), and emoji. What goes over another
// letter counts, too: nobody gets room for a thousand of these.
func cellsOf(r rune) int {
	if unicode.Is(wide, r) {
		return 2
	}
	return 1
}

// wide is never written to.
var wide = &unicode.RangeTable{
	R16: []unicode.Range16{
		{0x1100, 0x115f, 1}, {0x231a, 0x231b, 1}, {0x2329, 0x232a, 1}, {0x23e9, 0x23f3, 1}, {0x25fd, 0x25fe, 1}, {0x2614, 0x2615, 1},
		{0x2648, 0x2653, 1}, {0x26a1, 0x26a1, 1}, {0x26aa, 0x26ab, 1}, {0x26bd, 0x26be, 1}, {0x26c4, 0x26c5, 1}, {0x26ce, 0x26ce, 1},
		{0x26d4, 0x26d4, 1}, {0x26ea, 0x26ea, 1}, {0x26f2, 0x26f5, 1}, {0x26fa, 0x26fd, 1}, {0x2705, 0x270b, 1}, {0x2728, 0x2728, 1},
		{0x274c, 0x2757, 1}, {0x2795, 0x2797, 1}, {0x27b0, 0x27bf, 1}, {0x2b1b, 0x2b1c, 1}, {0x2b50, 0x2b55, 1}, {0x2e80, 0xa4cf, 1},
		{0xa960, 0xa97c, 1}, {0xac00, 0xd7a3, 1}, {0xf900, 0xfaff, 1}, {0xfe10, 0xfe19, 1}, {0xfe30, 0xfe6f, 1}, {0xff00, 0xff60, 1}, {0xffe0, 0xffe6, 1},
	},
	R32: []unicode.Range32{{0x16fe0, 0x18dff, 1}, {0x1aff0, 0x1b2ff, 1}, {0x1f004, 0x1faff, 1}, {0x20000, 0x3fffd, 1}},
}
