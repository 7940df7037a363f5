package tunneltest

import (
	"encoding/hex"
	"os"
	"strings"
	"testing"
)

// Vector is an entry of a file in testdata/wire: what somebody does, in a few words
// that a test plays, what it means, and its bytes.
type Vector struct {
	Words []string
	Means string
	Bytes []byte
}

// Vectors reads such a file. The bytes are on indented lines below their entry, as
// hexadecimal digits.
func Vectors(t testing.TB, path string) (all []Vector) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		indented := strings.HasPrefix(line, " ")
		line = strings.TrimSpace(line)
		switch {
		case line == "" || line[0] == '#':
		case indented:
			b, err := hex.DecodeString(strings.ReplaceAll(line, " ", ""))
			if err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			v := &all[len(all)-1]
			v.Bytes = append(v.Bytes, b...)
		default:
			does, means, _ := strings.Cut(line, ": ")
			all = append(all, Vector{Words: strings.Fields(does), Means: means})
		}
	}
	return all
}
