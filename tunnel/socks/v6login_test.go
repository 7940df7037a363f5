package socks

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
)

func TestLoginsInsideTheTunnelAreReadAsTheyWereWritten(t *testing.T) {
	for pad := range 4 {
		zeros := make([]byte, pad)
		a, err := PasswordLogin6("anna", "correct horse")
		if err != nil {
			t.Fatal(err)
		}
		user, password, err := ParsePasswordLogin6(append(a.Data, zeros...))
		if user != "anna" || password != "correct horse" || err != nil {
			t.Errorf("%q, %q, %v", user, password, err)
		}
		a, err = TokenLogin6([]byte("ticket\x00"))
		if err != nil {
			t.Fatal(err)
		}
		if token, err := ParseTokenLogin6(append(a.Data, zeros...)); string(token) != "ticket\x00" || err != nil {
			t.Errorf("%q, %v", token, err)
		}
		for _, want := range []TokenGrant6{
			{User: "anna", Protection: GSSUnprotected, NEC: true, Reply: []byte("reply"), Context: []byte("key\x00")},
			{User: "x", Reply: []byte{}, Context: []byte{}},
		} {
			a, err := want.Data()
			if err != nil {
				t.Fatal(err)
			}
			if got, err := ParseTokenGrant6(append(a.Data, zeros...)); !reflect.DeepEqual(got, want) || err != nil {
				t.Errorf("%+v, %v, want %+v", got, err, want)
			}
			for n := range a.Data {
				if got, err := ParseTokenGrant6(a.Data[:n]); err == nil {
					t.Errorf("%d bytes of %d are %+v", n, len(a.Data), got)
				}
			}
		}
	}
	if g := (TokenGrant6{User: "anna", Context: []byte("secret")}); strings.Contains(g.String(), "secret") {
		t.Error("a grant shows its secret")
	}
}

func TestLoginsThatMakeNoSenseAreNotWritten(t *testing.T) {
	long := strings.Repeat("x", 256)
	for _, c := range [][2]string{{"", "x"}, {"x", ""}, {long, "x"}, {"x", long}} {
		if _, err := PasswordLogin6(c[0], c[1]); err == nil {
			t.Errorf("a login with %d and %d bytes", len(c[0]), len(c[1]))
		}
	}
	for _, g := range []TokenGrant6{{}, {User: long}, {User: "x", Protection: 4}, {User: "x", Reply: make([]byte, 1<<16)}} {
		if _, err := g.Data(); err == nil {
			t.Errorf("a %v", g)
		}
	}
	if _, err := TokenLogin6(make([]byte, 1<<16)); err == nil {
		t.Error("a token of 64 KiB")
	}
}

func FuzzLogin6(f *testing.F) {
	f.Add([]byte("\x01\x04anna\x05horse"))
	f.Add([]byte("\x01\x01\x00\x01x\x00\x00"))
	f.Add([]byte("\x03\x01\x04anna\x00\x00\x00\x01x"))
	f.Fuzz(func(t *testing.T, b []byte) {
		again := func(a AuthData6, err error) {
			t.Helper()
			if rest, ok := bytes.CutPrefix(b, a.Data); err != nil || !ok || !padding6(rest) {
				t.Errorf("%x is read, and written as %x (%v)", b, a.Data, err)
			}
		}
		if user, password, err := ParsePasswordLogin6(b); err == nil {
			again(PasswordLogin6(user, password))
		}
		if token, err := ParseTokenLogin6(b); err == nil {
			again(TokenLogin6(token))
		}
		if g, err := ParseTokenGrant6(b); err == nil {
			again(g.Data())
		}
	})
}
