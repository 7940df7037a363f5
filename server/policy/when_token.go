package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxExpression is how many tokens an expression may have.
const maxExpression = 1000

// token is a part of an expression's text; that of its end is empty.
type token struct {
	text string
	at   int // in characters, from 1
}

func (t token) String() string {
	switch {
	case t.text == "":
		return "its end"
	case strings.ContainsFunc(t.text, func(c rune) bool { return !unicode.IsPrint(c) }):
		return strconv.Quote(t.text)
	}
	return t.text
}

func (t token) is(texts ...string) bool { return slices.Contains(texts, t.text) }

func tokens(text string) (all []token, err error) {
	at := 1
	for text != "" {
		n := tokenSize(text)
		if !unicode.IsSpace(rune(text[0])) {
			all = append(all, token{text[:n], at})
		}
		if len(all) > maxExpression {
			return nil, fmt.Errorf("it has more than %d parts", maxExpression)
		}
		at += utf8.RuneCountInString(text[:n])
		text = text[n:]
	}
	return append(all, token{at: at}), nil
}

// tokenSize is how many bytes the first token of a text has, which is not empty.
func tokenSize(text string) int {
	isWord := func(c byte) bool {
		return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '$'
	}
	switch c := text[0]; {
	case isWord(c):
		n := 1
		for n < len(text) && isWord(text[n]) {
			n++
		}
		return n
	case c == '"' || c == '\'':
		for n := 1; n < len(text); n++ {
			switch {
			case text[n] == c:
				return n + 1
			case text[n] == '\\' && c == '"':
				n++
			}
		}
		return len(text)
	case slices.Contains([]string{"==", "!=", "<=", ">=", "&&", "||"}, text[:min(2, len(text))]):
		return 2
	}
	_, n := utf8.DecodeRuneInString(text)
	return n
}
