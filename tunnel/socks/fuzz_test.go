package socks

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net/netip"
	"reflect"
	"testing"
)

func seedDoor(f *testing.F) {
	for _, v := range vectors(f, "socks4.txt", "socks5.txt", "socks6door.txt") {
		f.Add(v.sends, uint16(len(v.sends)/2))
	}
	for _, o := range []Options6{
		{SessionRequest: true, WindowRequest: 100, Auth: login6},
		{SessionRequest: true, SessionTeardown: true, SessionID: []byte("nobody's"), Auth: login6},
		{SessionID: []byte("nobody's"), Token: new(uint32)},
		{Offer: &MethodOffer6{Methods: []byte{1, 2}, InitialData: 4}, Stack: []StackOption6{{BothLegs6, StackTOS6, 0xb8}}},
	} {
		f.Add([]byte(encode6(f, connect6(o))+"dataand more"), uint16(12))
	}
	for _, s := range append(httpScripts(),
		[]byte("GET http://example.com/ HTTP/1.1\r\nHost: e.com\r\nProxy-Authorization: Basic ZnJlZDpzZWNyZXQ=\r\n\r\n"),
		[]byte("CONNECT example.com:80 HTTP/1.1\r\nProxy-Authorization: Basic ZnJlZDpzZWNyZXQ=\r\n\r\n"),
	) {
		f.Add(s, uint16(len(s)/2))
	}
}

// FuzzDoor checks that a door reads alike however bytes are split, and asks only
// for targets that can be asked for.
func FuzzDoor(f *testing.F) {
	seedDoor(f)
	f.Fuzz(func(t *testing.T, b []byte, split uint16) {
		if len(b) > 0 && 'A' <= b[0] && b[0] <= 'Z' && b[0] != 'C' {
			return // what plain HTTP does when the app ends is a matter of time
		}
		d := &Door{Relay: &recorder{}, UDP: UDP{Off: true}} // what comes of packets is a matter of time
		whole := run(t, d, newScript(bytes.Clone(b)))
		for _, q := range whole.asked {
			if again, err := ParseAddr(q.Dst.String()); err != nil || again != q.Dst {
				t.Errorf("the door asks for %q: %v", q.Dst, err)
			}
			if q.Command != Connect && q.Command != Bind || q.User != "" {
				t.Errorf("the door asks for %+v", q)
			}
		}
		if i := int(split); 0 < i && i < len(b) {
			if o := run(t, d, newScript(b[:i], b[i:])); !reflect.DeepEqual(o, whole) {
				t.Errorf("%q split at %d: %+v, want %+v", b, i, o, whole)
			}
		}
		if o := run(t, d, newScript(octets(b)...)); !reflect.DeepEqual(o, whole) {
			t.Errorf("%q byte by byte: %+v, want %+v", b, o, whole)
		}
	})
}

// FuzzDoorWithPassword checks that no bytes lead to the relay but through a
// login that was found good.
func FuzzDoorWithPassword(f *testing.F) {
	seedDoor(f)
	check := Password("fred", "secret")
	f.Fuzz(func(t *testing.T, b []byte, split uint16) {
		good := false
		d := &Door{Relay: &recorder{allowed: func() bool { return good }}}
		d.Admission.Authenticate = func(ctx context.Context, _ netip.AddrPort, user, password string) bool {
			good = check(ctx, netip.AddrPort{}, user, password)
			return good
		}
		pieces := [][]byte{bytes.Clone(b)}
		if i := int(split); 0 < i && i < len(b) {
			pieces = [][]byte{b[:i:i], b[i:]}
		}
		o := run(t, d, newScript(pieces...)) // the recorder panics if not good
		for _, q := range o.asked {
			if q.User != "fred" {
				t.Errorf("%q: the door asks for %+v", b, q)
			}
		}
		d.Admission.Authenticate = func(context.Context, netip.AddrPort, string, string) bool { return false }
		if o := run(t, d, newScript(bytes.Clone(b))); o.asked != nil {
			t.Errorf("%q: the door asks for %s although nobody may", b, o.describe())
		}
	})
}

// left gives what a parser has not read.
func left(t *testing.T, in *bufio.Reader) []byte {
	t.Helper()
	b, err := io.ReadAll(in)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// FuzzRequest4 checks requests that parse by writing them again.
func FuzzRequest4(f *testing.F) {
	for _, v := range vectors(f, "socks4.txt") {
		f.Add(v.sends)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		in := bufio.NewReader(bytes.NewReader(b))
		r, err := readRequest4(in)
		if err != nil {
			return
		}
		rest := left(t, in)
		again := append([]byte{b[0], byte(r.Command)}, b[2:8]...)
		user, name, _ := bytes.Cut(b[8:len(b)-len(rest)], []byte{0})
		again = append(append(again, user...), 0)
		if r.Dialect == SOCKS4a {
			again = append(again, name...)
		} else if len(name) > 0 {
			t.Errorf("%x: a name in a SOCKS 4 request", b)
		}
		if string(again)+string(rest) != string(b) || r.Dst.Port != binary.BigEndian.Uint16(b[2:]) {
			t.Errorf("%x parses as %+v with %x left", b, r, rest)
		}
	})
}

// FuzzRequest5 checks requests that parse by writing them again.
func FuzzRequest5(f *testing.F) {
	for _, v := range vectors(f, "socks5.txt") {
		if b, ok := bytes.CutPrefix(v.sends, []byte{5, 1, 0}); ok {
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		in := bufio.NewReader(bytes.NewReader(b))
		r, err := readRequest5(in)
		if err != nil {
			return
		}
		n := map[byte]int{typeIPv4in5: 10, typeIPv6in5: 22}[b[3]]
		if b[3] == 0 && r.Command == enhancedUDP5 {
			n = 10
		}
		if b[3] == typeNameIn5 {
			n = 7 + int(b[4])
		}
		if n != len(b)-len(left(t, in)) || r.Dst.Port != binary.BigEndian.Uint16(b[n-2:]) {
			t.Errorf("%x parses as %+v, and not with %d bytes", b, r, n)
		}
		if b[3] != typeNameIn5 && !bytes.Equal(r.Dst.IP.AsSlice(), b[4:n-2]) {
			t.Errorf("%x parses as %+v", b, r)
		}
	})
}

// FuzzLogin5 checks logins that parse by writing them again.
func FuzzLogin5(f *testing.F) {
	f.Add([]byte("\x01\x04fred\x06secret"))
	f.Add([]byte("\x01\x00\x00rest"))
	f.Fuzz(func(t *testing.T, b []byte) {
		in := bufio.NewReader(bytes.NewReader(b))
		user, password, err := readLogin5(in)
		if err != nil {
			return
		}
		again := append([]byte{1, byte(len(user))}, user...)
		again = append(append(again, byte(len(password))), password...)
		if string(again)+string(left(t, in)) != string(b) {
			t.Errorf("%x parses as %q and %q", b, user, password)
		}
	})
}
