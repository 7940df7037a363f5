package policy

import (
	"strings"
	"testing"
)

func TestNamesHaveOneSpelling(t *testing.T) {
	long := strings.Repeat("a", 63)
	for name, want := range map[string]string{
		"example.com": "example.com", "EXAMPLE.Com.": "example.com", "bücher.example": "xn--bcher-kva.example", "BÜCHER.example": "xn--bcher-kva.example",
		"XN--BCHER-KVA.example": "xn--bcher-kva.example", "www。example。com": "www.example.com", "ｅｘａｍｐｌｅ.com": "example.com",
		"_dmarc.example.com": "_dmarc.example.com", "faß.example": "xn--fa-hia.example", "localhost": "localhost",
		long + ".com": long + ".com", "\u212Aelvin.example": "kelvin.example",
		"": "", ".": "", "a..b": "", ".example.com": "", "example.com..": "", "a b": "", "a\x00b": "", "*.example.com": "", "a/b": "", "a:b": "",
		"a" + long + ".com": "", strings.Repeat("a.", 128): "", "[::1]": "", "\xff.com": "", "user@example.com": "", "127.1": "", "192.0.2.1": "", "0x7f000001": "", "2130706433": "", "a.0x1f": "", "a.b1": "a.b1", "0xg": "0xg", "a%2eb": "",
	} {
		got, err := CanonicalName(name)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q is %q, %v", name, got, err)
		}
		if again, _ := CanonicalName(got); again != got {
			t.Errorf("%q is spelled %q, and then %q", name, got, again)
		}
	}
}

// Such a rule would never match, and one that denies would let all of them through.
func TestAPatternOfAddressesIsNoName(t *testing.T) {
	for _, text := range []string{"192.0.2.*", "10.*", "192.0.2.1?"} {
		if _, err := parsePattern(text); err == nil || !strings.Contains(err.Error(), "networks") {
			t.Errorf("%s: error is %v", text, err)
		}
	}
	for _, text := range []string{"www.example.*", "1.*.example.com", "163.c*"} {
		if _, err := parsePattern(text); err != nil {
			t.Error(err)
		}
	}
}

func FuzzCanonicalName(f *testing.F) {
	for _, name := range []string{"example.com", "BÜCHER.example.", "www。example。com", "xn--a", "\u202e.com"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		got, err := CanonicalName(name)
		if err != nil {
			return
		}
		if again, err := CanonicalName(got); again != got || err != nil {
			t.Errorf("%q is spelled %q, and then %q, %v", name, got, again, err)
		}
		if strings.ToLower(got) != got || strings.HasSuffix(got, ".") || len(got) > 253 {
			t.Errorf("%q is spelled %q", name, got)
		}
	})
}

func FuzzGlobFits(f *testing.F) {
	f.Add("*.example.com", "www.example.com")
	f.Add("a*b*c.?", "abcbc.x")
	f.Fuzz(func(t *testing.T, glob, name string) {
		if len(glob) > 20 || len(name) > 20 {
			return
		}
		p, err := parseGlob(glob)
		if err != nil || !canonical(name) {
			return
		}
		if p.fits(name) != refName(p.text, name) {
			t.Errorf("%s fits %s: %t", p.text, name, p.fits(name))
		}
		if tail := p.tail(); p.fits(name) && tail != "" && name != tail && !strings.HasSuffix(name, "."+tail) {
			t.Errorf("%s fits %s, which does not end in %s", p.text, name, tail)
		}
	})
}
