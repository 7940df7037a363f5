package keys

import (
	"errors"
	"strings"
	"testing"
)

func pinOfOnes() (p Pin) {
	for i := range p {
		p[i] = 1
	}
	return p
}

func TestInviteRoundTrips(t *testing.T) {
	token := NewToken()
	for _, want := range []Invite{
		{Address: "exit.example:443", Pin: pinOfOnes(), Token: token, Name: "alice"},
		{Address: "192.0.2.1:8443", Pin: pinOfOnes(), Token: token},
		{Address: "[2001:db8::1]:1", Token: token, ServerName: "www.example"},
		{Address: "exit.example:65535", Token: token, Name: "Zoë & co = 100%+?#"},
	} {
		uri, err := want.URI()
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{uri, " " + uri + "\n", strings.Replace(uri, "/?", "?", 1)} {
			if got, err := ParseInvite(text); err != nil || got != want {
				t.Errorf("ParseInvite(%q) = %v, %v", text, got, err)
			}
		}
	}
}

func TestInviteFormIsTheDocumentedOne(t *testing.T) {
	i := Invite{Address: "exit.example:443", Pin: pinOfOnes(), Token: TokenFrom(pinOfOnes()), Name: "alice"}
	const ones = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE"
	want := "adit://exit.example:443/?pin=" + ones + "&token=" + ones + "&name=alice"
	if got, err := i.URI(); err != nil || got != want {
		t.Errorf("got %s, %v", got, err)
	}
}

func TestMangledInvitesAreRefusedWithoutRepeatingThem(t *testing.T) {
	const pin = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE"
	token := NewToken().Reveal()
	good := "adit://h:443/?pin=" + pin + "&token=" + token
	if _, err := ParseInvite(good); err != nil {
		t.Fatal(err)
	}
	bad := map[string]string{
		"empty":                  "",
		"no scheme":              good[7:],
		"another scheme":         "https" + good[4:],
		"opaque":                 "adit:" + good[7:],
		"no port":                strings.Replace(good, ":443", "", 1),
		"port zero":              strings.Replace(good, ":443", ":0", 1),
		"port too high":          strings.Replace(good, ":443", ":65536", 1),
		"port with a sign":       strings.Replace(good, ":443", ":+443", 1),
		"port with leading zero": strings.Replace(good, ":443", ":0443", 1),
		"port by name":           strings.Replace(good, ":443", ":https", 1),
		"no host":                strings.Replace(good, "h:", ":", 1),
		"zone":                   strings.Replace(good, "h:", "[fe80::1%25eth0]:", 1),
		"space in the host":      strings.Replace(good, "h:", "h%20x:", 1),
		"token as user":          "adit://" + token + "@h:443/?pin=" + pin + "&token=" + token,
		"token as host":          "adit://" + token + "!:443/?pin=" + pin + "&token=" + token,
		"token as port":          "adit://h:" + token + "/?pin=" + pin + "&token=" + token,
		"token as path":          "adit://h:443/" + token + "?pin=" + pin + "&token=" + token,
		"token as fragment":      good + "#" + token,
		"token as parameter":     good + "&" + token + "=1",
		"token alone":            token,
		"bad escape":             good + "&name=%zz" + token,
		"semicolon":              good + ";name=x",
		"control character":      good + "\x7f" + token,
		"twice the token":        good + "&token=" + token,
		"twice the pin":          good + "&pin=" + pin,
		"empty name":             good + "&name=",
		"unknown parameter":      good + "&color=red",
		"upper case parameter":   strings.Replace(good, "pin=", "PIN=", 1),
		"pin and ca":             good + "&ca=1",
		"neither pin nor ca":     "adit://h:443/?token=" + token,
		"ca=0":                   "adit://h:443/?ca=0&token=" + token,
		"zero pin":               "adit://h:443/?pin=" + strings.Repeat("A", 43) + "&token=" + token,
		"short pin":              strings.Replace(good, "pin=A", "pin=", 1),
		"short token":            good[:len(good)-1],
		"long token":             good + "A",
		"zero token":             "adit://h:443/?pin=" + pin + "&token=" + strings.Repeat("A", 43),
		"bad server name":        good + "&sni=a/b",
		"long name":              good + "&name=" + strings.Repeat("n", 92),
		"line break in the name": good + "&name=a%0ab",
		"escape in the name":     good + "&name=%1b[2J",
		"turned-round name":      good + "&name=%e2%80%ae",
		"bytes not UTF-8":        good + "&name=%ff",
		"too long":               good + "&name=" + strings.Repeat("n", 3000),
	}
	for what, uri := range bad {
		i, err := ParseInvite(uri)
		if err == nil {
			t.Errorf("%s: taken as %v", what, i)
			continue
		}
		if strings.Contains(err.Error(), token[:8]) || strings.Contains(err.Error(), pin[:8]) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: the error repeats the invite: %v", what, err)
		}
	}
}

func TestInviteThatCouldNotBeParsedIsNotFormatted(t *testing.T) {
	for _, i := range []Invite{
		{},
		{Address: "h:1"},
		{Address: "h", Token: NewToken()},
		{Address: "a/b:1", Token: NewToken()},
		{Address: "h:1", Token: NewToken(), Name: "a\nb"},
		{Address: "h:1", Token: NewToken(), ServerName: "&x"},
	} {
		if uri, err := i.URI(); err == nil {
			t.Errorf("formatted as %s", uri)
		}
	}
}

func FuzzParseInvite(f *testing.F) {
	i := Invite{Address: "[2001:db8::1]:443", Pin: pinOfOnes(), Token: TokenFrom(pinOfOnes()), Name: "a b", ServerName: "x"}
	uri, err := i.URI()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uri)
	f.Add("adit://h:1?ca=1&token=x")
	f.Add("adit:///")
	f.Fuzz(func(t *testing.T, s string) {
		i, err := ParseInvite(s)
		if err != nil {
			if i != (Invite{}) || errors.Unwrap(err) == nil {
				t.Fatalf("an error comes with an invite, or without a cause: %v", err)
			}
			return
		}
		again, err := i.URI()
		if err != nil {
			t.Fatalf("%q parses but does not format: %v", s, err)
		}
		if back, err := ParseInvite(again); err != nil || back != i {
			t.Fatalf("%q formats as %q, which parses as %v, %v", s, again, back, err)
		}
	})
}
