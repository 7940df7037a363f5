package main

import (
	"bytes"
	"unicode"
	"unicode/utf8"
)

// topState is what somebody who looks at adit top is about to do.
type topState struct {
	typing bool // a filter
	paused bool
	page   int // rows that are to be seen
	quit   bool
}

// maxFilter is how many characters a filter may have.
const maxFilter = 60

// key is a character, or one of these.
type key rune

const (
	keyUp key = -1 - iota
	keyDown
	keyLeft
	keyRight
	keyPageUp
	keyPageDown
	keyHome
	keyEnd
	keyBackTab
	keyOther // some other key that is no character
)

const (
	keyInterrupt key = 3 // Ctrl-C, which a raw terminal gives as it is
	keyTab       key = '\t'
	keyEnter     key = '\r'
	keyEscape    key = 0x1b
	keyBackspace key = 0x7f
)

// nextKey takes a key off what a terminal has sent at once, which is not empty.
func nextKey(b []byte) (k key, rest []byte) {
	if b[0] == 0x1b && len(b) > 1 && (b[1] == '[' || b[1] == 'O') {
		return escaped(b)
	}
	r, n := utf8.DecodeRune(b)
	if r == '\b' {
		r = rune(keyBackspace)
	}
	return key(r), b[n:]
}

// escaped takes a control sequence off (ECMA-48 5.4): parameters, and one last byte.
func escaped(b []byte) (k key, rest []byte) {
	end := bytes.IndexFunc(b[2:], func(r rune) bool { return r >= 0x40 && r <= 0x7e })
	if end < 0 {
		return keyOther, nil
	}
	sequence, rest := b[2:2+end+1], b[2+end+1:]
	known := map[string]key{
		"A": keyUp, "B": keyDown, "C": keyRight, "D": keyLeft, "5~": keyPageUp, "6~": keyPageDown,
		"H": keyHome, "F": keyEnd, "1~": keyHome, "4~": keyEnd, "Z": keyBackTab,
	}
	if k, ok := known[string(sequence)]; ok {
		return k, rest
	}
	return keyOther, rest
}

// press does what a key stands for.
func (v *topView) press(k key, s *topState) {
	switch {
	case k == keyInterrupt:
		s.quit = true
	case s.typing:
		v.typed(k, s)
	case k == 'q' || k == 'Q':
		s.quit = true
	case k == keyTab:
		v.turn(1)
	case k == keyBackTab:
		v.turn(-1)
	case k == keyLeft || k == '<':
		v.step(-1)
	case k == keyRight || k == '>':
		v.step(1)
	case k == 'r':
		v.reversed[v.view] = !v.reversed[v.view]
	case k == '/':
		s.typing = true
	case k == keyEscape:
		v.filter = ""
	case k == ' ' || k == 'p':
		s.paused = !s.paused
	default:
		v.scroll(k, s.page)
	}
}

func (v *topView) scroll(k key, page int) {
	const end = 1 << 30 // draw keeps to what there is
	switch k {
	case keyUp, 'k':
		v.first--
	case keyDown, 'j':
		v.first++
	case keyPageUp:
		v.first -= page
	case keyPageDown:
		v.first += page
	case keyHome, 'g':
		v.first = 0
	case keyEnd, 'G':
		v.first = end
	}
	v.first = max(0, v.first)
}

// typed is press while a filter is typed.
func (v *topView) typed(k key, s *topState) {
	switch {
	case k == keyEnter || k == '\n':
		s.typing = false
	case k == keyEscape:
		v.filter, s.typing = "", false
	case k == keyBackspace:
		_, n := utf8.DecodeLastRuneInString(v.filter)
		v.filter = v.filter[:len(v.filter)-n]
	case k > 0 && k != utf8.RuneError && unicode.IsPrint(rune(k)) && utf8.RuneCountInString(v.filter) < maxFilter:
		v.filter += string(rune(k))
	}
	v.first = 0
}
