package audit

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxText bounds how many bytes of a text are kept.
const maxText = 1024

// Clean gives what the warehouse keeps of a text from a stranger. What a screen would not
// show as it is (control characters, what turns the direction of writing, broken UTF-8)
// becomes an escape such as \x1b or \u202e, and a backslash becomes two, so that no text can
// look like another one. A long text is cut off, and ends with an ellipsis.
func Clean(text string) string {
	if len(text) <= maxText && !strings.ContainsFunc(text, func(r rune) bool { return r == '\\' || !visible(r) }) {
		return text
	}
	var b strings.Builder
	for len(text) > 0 {
		r, size := utf8.DecodeRuneInString(text)
		if b.Len()+len(`\U0010ffff…`) > maxText {
			b.WriteString("…")
			break
		}
		if r == '\\' {
			b.WriteString(`\\`)
		} else {
			writeVisible(&b, r, text[:size])
		}
		text = text[size:]
	}
	return b.String()
}

// Show gives a text as it may be written to a terminal. It leaves what [Clean] has made as it
// is, and trusts nothing else: somebody may have written to the file.
func Show(text string) string {
	if isASCII(text) || !strings.ContainsFunc(text, func(r rune) bool { return !visible(r) }) {
		return text
	}
	var b strings.Builder
	for len(text) > 0 {
		r, size := utf8.DecodeRuneInString(text)
		writeVisible(&b, r, text[:size])
		text = text[size:]
	}
	return b.String()
}

// isASCII tells whether a text has only what ASCII has to be seen, as most have.
func isASCII(text string) bool {
	for i := range len(text) {
		if text[i] < ' ' || text[i] > '~' {
			return false
		}
	}
	return true
}

// visible tells whether a screen shows r and does nothing else. The replacement
// character is what broken UTF-8 decodes to.
func visible(r rune) bool { return r != utf8.RuneError && unicode.IsPrint(r) }

// writeVisible writes a rune, or what stands for it.
func writeVisible(b *strings.Builder, r rune, raw string) {
	switch {
	case visible(r):
		b.WriteRune(r)
	case len(raw) == 1:
		fmt.Fprintf(b, `\x%02x`, raw[0])
	case r <= 0xffff:
		fmt.Fprintf(b, `\u%04x`, r)
	default:
		fmt.Fprintf(b, `\U%08x`, r)
	}
}
