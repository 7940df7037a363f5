package audit

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// hostile are texts that would like to be something else.
var hostile = []string{
	"a\nb", "a\r\nb", "a\tb", "a\x00b", "a\x1b[2Jb", "a\x1b]0;title\x07b", "a\u202eb", "a\u2066b", "a\u200bb", "a\u2028b", "a\u0085b", "a\x9bb",
	"a\xff\xfeb", "a\xed\xa0\x80b", "a\ufeffb", "=cmd|'/C calc'!A1", "+1", "-1", "@SUM(1)", "a,b", `a"b`, "a'b", `a\nb`, `\x1b`, "{\"a\":1}", "</script>", "| a |", strings.Repeat("é\n", 600),
	"'; DROP TABLE records; --", "\U000e0001", "\u00a0", "\xf0\x9f\x98", "�",
}

func TestCleanTextIsOneLineThatDoesNothing(t *testing.T) {
	for _, text := range hostile {
		got := Clean(text)
		if strings.ContainsFunc(got, func(r rune) bool { return !visible(r) }) || !utf8.ValidString(got) || len(got) > maxText {
			t.Errorf("%q becomes %q", text, got)
		}
		if Show(got) != got {
			t.Errorf("%q is shown as %q", got, Show(got))
		}
	}
	for text, want := range map[string]string{
		"host.example.org": "host.example.org", "münchen.example": "münchen.example", "": "", "a b": "a b",
		"a\nb": `a\x0ab`, `a\nb`: `a\\nb`, "a\u202eb": `a\u202eb`, "a\xffb": `a\xffb`, "\U000e0001": `\U000e0001`,
	} {
		if got := Clean(text); got != want {
			t.Errorf("%q becomes %q, not %q", text, got, want)
		}
	}
}

func FuzzClean(f *testing.F) {
	for _, text := range hostile {
		f.Add(text, text+"x")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		got := Clean(a)
		if strings.ContainsFunc(got, func(r rune) bool { return !visible(r) }) || !utf8.ValidString(got) || len(got) > maxText || Show(got) != got {
			t.Errorf("%q becomes %q", a, got)
		}
		if a != b && got == Clean(b) && !strings.HasSuffix(got, "…") {
			t.Errorf("%q and %q both become %q", a, b, got)
		}
	})
}
