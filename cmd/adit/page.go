package main

import (
	"fmt"
	"io"
)

// page writes aligned lines for people: with a little emphasis on a terminal,
// and plain anywhere else.
type page struct {
	out  io.Writer
	bold string
	dim  string
	end  string
}

func newPage(e env) page {
	p := page{out: e.stdout}
	if e.columns > 0 {
		p.bold, p.dim, p.end = "\x1b[1m", "\x1b[2m", "\x1b[0m"
	}
	return p
}

// title begins a part of the page.
func (p page) title(text string) {
	fmt.Fprintf(p.out, "\n%s%s%s\n\n", p.bold, text, p.end)
}

// row writes a word and what there is to say about it.
func (p page) row(word, format string, args ...any) {
	fmt.Fprintf(p.out, "  %s%-12s%s  %s\n", p.dim, word, p.end, fmt.Sprintf(format, args...))
}

// note writes a line that stands apart.
func (p page) note(format string, args ...any) {
	fmt.Fprintf(p.out, "\n  %s\n", fmt.Sprintf(format, args...))
}
