package users

import (
	"errors"
	"fmt"
	"strings"
)

// maxName is the longest name of a user, group or device, in bytes.
const maxName = 64

var (
	errNameLength = fmt.Errorf("a name has 1 to %d characters", maxName)
	errNameStart  = errors.New("a name starts with a letter or a digit")
	errNameChar   = errors.New("a name has only the letters a to z and A to Z, digits, and . _ - @ in it")
)

// ValidName tells whether a user, group or device may have a name: 1 to 64
// ASCII letters, digits and . _ - @, of which a letter or digit comes first.
// Such a name is safe in a log, a file name and on a command line. The error
// does not repeat the name.
func ValidName(name string) error {
	if len(name) < 1 || len(name) > maxName {
		return errNameLength
	}
	for i := range len(name) {
		switch c := name[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case c != '.' && c != '_' && c != '-' && c != '@':
			return errNameChar
		case i == 0:
			return errNameStart
		}
	}
	return nil
}

// cleanName makes a name that is valid of what an owner calls a device, such
// as "Anna's phone".
func cleanName(s string) string {
	part := func(c rune) bool { return ValidName("x"+string(c)) != nil }
	s = strings.Join(strings.FieldsFunc(s, part), "-")
	s = strings.TrimLeft(s, "._-@")
	if s == "" {
		return "device"
	}
	return s[:min(len(s), maxName)]
}

func validNames(kind string, names ...string) error {
	for _, name := range names {
		if err := ValidName(name); err != nil {
			return fmt.Errorf("%s %q: %w", kind, name, err)
		}
	}
	return nil
}
