package cfx

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"
)

func alice(t testing.TB, kind EncType) *Context {
	t.Helper()
	return newContext(t, State{
		Key: testKey(t, kind), AcceptorKey: true, Send: 0x2000, Receive: 0x1000,
		Peer: Peer{
			Principal: "alice", Realm: "EXAMPLE.ORG", Expires: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
			Flags: Mutual | Replay | Confidentiality | Integrity,
		},
	})
}

func TestExportHasTheBytesThatItSays(t *testing.T) {
	want := fromHex(t, "01 11 01 00000036 00000000695735a5 0000000000002000 0000000000001000"+
		"000102030405060708090a0b0c0d0e0f 05616c696365 0b4558414d504c452e4f5247")
	if got := alice(t, AES128SHA1).Export(); !bytes.Equal(got, want) {
		t.Errorf("%x, want %x", got, want)
	}
}

func TestImportedContextsGoOn(t *testing.T) {
	for _, kind := range encTypes {
		client, server := pair(t, kind, true)
		for range 3 {
			if _, _, err := server.Unwrap(client.Wrap(nil, []byte("a"), true)); err != nil {
				t.Fatal(err)
			}
			if _, _, err := client.Unwrap(server.Wrap(nil, []byte("b"), false)); err != nil {
				t.Fatal(err)
			}
		}
		old := client.Wrap(nil, []byte("c"), true)
		again := bytes.Clone(old)
		if _, _, err := server.Unwrap(old); err != nil {
			t.Fatal(err)
		}
		moved := imported(t, server.Export())
		if _, _, err := moved.UnwrapDatagram(again); !errors.Is(err, ErrSequence) {
			t.Errorf("%v: a token that came before the move: %v", kind, err)
		}
		client = imported(t, client.Export())
		if got, _, err := moved.Unwrap(client.Wrap(nil, []byte("d"), true)); err != nil || string(got) != "d" {
			t.Errorf("%v: %q (%v)", kind, got, err)
		}
		if got, _, err := client.Unwrap(moved.Wrap(nil, []byte("e"), true)); err != nil || string(got) != "e" {
			t.Errorf("%v: %q (%v)", kind, got, err)
		}
	}
}

func imported(t testing.TB, b []byte) *Context {
	t.Helper()
	c, err := Import(b)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestExportKeepsThePeer(t *testing.T) {
	before := alice(t, AES256SHA2)
	after := imported(t, before.Export())
	if after.Peer() != before.Peer() || after.Name() != "alice@EXAMPLE.ORG" || after.EncType() != AES256SHA2 {
		t.Errorf("%+v with %v, was %+v", after.Peer(), after.EncType(), before.Peer())
	}
}

func TestNoExportIsLongerThanItsBound(t *testing.T) {
	longest := strings.Repeat("x", 255)
	c := newContext(t, State{Key: testKey(t, AES256SHA1), Peer: Peer{Principal: longest, Realm: longest}})
	b := c.Export()
	if len(b) != MaxExport {
		t.Errorf("%d bytes, want %d", len(b), MaxExport)
	}
	if imported(t, b).Peer().Realm != longest {
		t.Error("the realm is another")
	}
	for _, p := range []Peer{{Principal: longest + "x"}, {Realm: longest + "x"}} {
		if _, err := New(State{Key: testKey(t, AES256SHA1), Peer: p}); err == nil {
			t.Error("a context has a longer name")
		}
	}
}

func TestContextsNeedAKey(t *testing.T) {
	if _, err := New(State{}); err == nil {
		t.Error("a context has no key")
	}
}

func TestImportTakesNothingButExports(t *testing.T) {
	whole := alice(t, AES256SHA1).Export()
	for n := range whole {
		if _, err := Import(whole[:n]); err == nil {
			t.Errorf("the first %d bytes are imported", n)
		}
	}
	for what, change := range map[string]func(b []byte) []byte{
		"a byte more":      func(b []byte) []byte { return append(b, 0) },
		"version 2":        func(b []byte) []byte { b[0] = 2; return b },
		"RC4":              func(b []byte) []byte { b[1] = 23; return b },
		"bits of tomorrow": func(b []byte) []byte { b[2] |= 4; return b },
	} {
		if _, err := Import(change(bytes.Clone(whole))); err == nil {
			t.Errorf("%s is imported", what)
		}
	}
}

func FuzzImport(f *testing.F) {
	for _, kind := range encTypes {
		f.Add(alice(f, kind).Export())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Import(b)
		if err != nil {
			return
		}
		if got := c.Export(); !bytes.Equal(got, b) {
			t.Fatalf("%x becomes %x", b, got)
		}
	})
}
