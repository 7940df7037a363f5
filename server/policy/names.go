package policy

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

var errName = errors.New("it is no host name")

// lookup is how names that are not ASCII are spelled in the DNS (UTS 46).
var lookup = idna.New(idna.MapForLookup(), idna.BidiRule(), idna.StrictDomainName(false))

// CanonicalName spells a host name in the one way in which rules judge it: in lower
// case, in ASCII and without the dot behind it. Whoever looks a name up that was
// judged must look up this spelling.
func CanonicalName(name string) (string, error) {
	if canonical(name) {
		return name, nil
	}
	if !utf8.ValidString(name) {
		return "", fmt.Errorf("%q: %w", name, errName)
	}
	ascii := strings.ToLower(name)
	if strings.ContainsFunc(name, func(r rune) bool { return r >= 0x80 }) {
		var err error
		if ascii, err = lookup.ToASCII(name); err != nil {
			return "", fmt.Errorf("spell %q in ASCII: %w", name, err)
		}
	}
	ascii = strings.TrimSuffix(ascii, ".")
	if !canonical(ascii) {
		return "", fmt.Errorf("%q: %w", name, errName)
	}
	return ascii, nil
}

// number tells whether a label is one. There is no such top-level domain, but resolvers
// that take 127.1 or 0x7f000001 for an address.
func number(label string) bool {
	digits := "0123456789"
	if hex, found := strings.CutPrefix(label, "0x"); found {
		label, digits = "0"+hex, digits+"abcdef"
	}
	return strings.Trim(label, digits) == ""
}

// canonical tells whether CanonicalName would leave a name as it is.
func canonical(name string) bool {
	if name == "" || len(name) > 253 {
		return false
	}
	label := 0
	for i := range len(name) {
		switch c := name[i]; {
		case c == '.':
			if label == 0 {
				return false
			}
			label = -1
		case !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_'):
			return false
		}
		if label++; label > 63 {
			return false
		}
	}
	return label > 0 && !number(name[len(name)-label:])
}

// pattern is a word for names: "example.com" is that name, ".example.com" it and all
// below it; in a glob, each * stands for some characters other than dots, and ? for one.
type pattern struct {
	text string // without the dot in front
	kind patternKind
}

type patternKind byte

const (
	exact patternKind = iota
	below
	glob
)

func parsePattern(text string) (pattern, error) {
	if strings.ContainsAny(text, "*?") {
		return parseGlob(text)
	}
	p := pattern{kind: exact}
	name, found := strings.CutPrefix(text, ".")
	if found {
		p.kind = below
	}
	var err error
	if p.text, err = CanonicalName(name); err != nil {
		return pattern{}, fmt.Errorf("%q is no name, such as www.example.com, .example.com or *.example.com", text)
	}
	return p, nil
}

func parseGlob(text string) (pattern, error) {
	p := pattern{text: strings.TrimSuffix(strings.ToLower(text), "."), kind: glob}
	if strings.Trim(p.text, "*?.") == "" {
		return pattern{}, fmt.Errorf("%q has no name in it; for all names write asked = [\"name\"]", text)
	}
	if strings.Trim(p.text, "*?.0123456789") == "" {
		return pattern{}, fmt.Errorf("%q is no name with * or ? in it; addresses belong in networks, such as 192.0.2.0/24", text)
	}
	// What stands for something may stand for this.
	if !canonical(strings.NewReplacer("*", "x", "?", "x").Replace(p.text)) {
		return pattern{}, fmt.Errorf("%q is no name with * or ? in it, and may have no letters but those of ASCII", text)
	}
	return p, nil
}

func (p pattern) fits(name string) bool {
	switch p.kind {
	case exact:
		return name == p.text
	case below:
		rest, found := strings.CutSuffix(name, p.text)
		return found && (rest == "" || rest[len(rest)-1] == '.')
	}
	return globFits(p.text, name)
}

// globFits goes back to the last star only, which is enough: what an earlier one of the
// same label could take instead, the last one can take as well.
func globFits(glob, name string) bool {
	star, mark := -1, 0 // the last star, and where what comes after it begins
	g, n := 0, 0
	for n < len(name) {
		switch {
		case g < len(glob) && (glob[g] == name[n] && glob[g] != '*' || glob[g] == '?' && name[n] != '.'):
			g++
			n++
		case g < len(glob) && glob[g] == '*':
			star, mark = g, n
			g++
		case star >= 0 && name[mark] != '.':
			mark++
			g, n = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(glob[g:], "*") == ""
}

// tail is the part of a glob that is in all names which it fits: whole labels at the
// end, "" if there are none.
func (p pattern) tail() string {
	last := strings.LastIndexAny(p.text, "*?")
	_, tail, _ := strings.Cut(p.text[last+1:], ".")
	return tail
}
