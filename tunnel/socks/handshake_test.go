package socks

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// vector is a conversation between an app and a door.
type vector struct {
	name, want   string
	sends        []byte
	answers, got []byte
	fails        error
	password     bool
}

func vectors(t testing.TB, files ...string) (vs []vector) {
	t.Helper()
	for _, file := range files {
		text, err := os.ReadFile("../../testdata/wire/" + file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			line = strings.TrimRight(line, "\n")
			switch {
			case line == "" || line[0] == '#':
			case line[0] == ' ':
				vs[len(vs)-1].add(t, strings.TrimSpace(line))
			default:
				name, want, _ := strings.Cut(line, ": ")
				vs = append(vs, vector{name: strings.TrimSuffix(file, ".txt") + "/" + name, want: want})
			}
		}
	}
	return vs
}

func (v *vector) add(t testing.TB, line string) {
	t.Helper()
	kind, rest := line[0], strings.ReplaceAll(line[1:], " ", "")
	switch kind {
	case '@':
		v.password = true
		return
	case '!':
		code, err := strconv.ParseUint(rest, 10, 8)
		if err != nil {
			t.Fatal(err)
		}
		v.fails = fmt.Errorf("connect: %w", Code(code))
		return
	}
	b, err := hex.DecodeString(rest)
	if err != nil {
		t.Fatalf("%s: %q: %v", v.name, line, err)
	}
	switch kind {
	case '>':
		v.sends = append(v.sends, b...)
	case '<':
		v.answers = append(v.answers, b...)
	case '=':
		v.got = append(v.got, b...)
	default:
		t.Fatalf("%s: %q", v.name, line)
	}
}

func (v *vector) door() *Door {
	d := &Door{Relay: &recorder{fails: v.fails}}
	if v.password {
		d.Admission.Authenticate = Password("fred", "secret")
	}
	return d
}

// describe says what a relay was asked for, in the vectors' words.
func (o outcome) describe() string {
	var words []string
	for _, r := range o.asked {
		preposition := "to"
		if r.Command == Bind {
			preposition = "BIND for"
		}
		w := fmt.Sprintf("%v %s %v", r.Dialect, preposition, r.Dst)
		if r.User != "" {
			w += " as " + r.User
		}
		words = append(words, w)
	}
	if words == nil {
		return "nothing"
	}
	return strings.Join(words, ", ")
}

func TestDoorSpeaksSOCKSAsTheVectorsSay(t *testing.T) {
	for _, v := range vectors(t, "socks4.txt", "socks5.txt", "socks6door.txt") {
		t.Run(v.name, func(t *testing.T) {
			o := run(t, v.door(), newScript(v.sends))
			if o.describe() != v.want {
				t.Errorf("the door asks for %s, want %s", o.describe(), v.want)
			}
			if o.answers != string(v.answers) {
				t.Errorf("the door answers %x, want %x", o.answers, v.answers)
			}
			if o.got != string(v.got) {
				t.Errorf("the target gets %x, want %x", o.got, v.got)
			}
		})
	}
}

// httpScripts are requests in HTTP, to which the vectors' lines do not fit well.
func httpScripts() [][]byte {
	var b [][]byte
	for _, s := range []string{
		"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n\x16\x03\x01",
		"CONNECT [2001:db8::1]:443 HTTP/1.0\r\n\r\nearly",
		"CONNECT example.com HTTP/1.1\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: 127.0.0.1:1080\r\n\r\n",
		"GET http://example.com HTTP/9\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 40\r\n\r\nCONNECT example.com:443 HTTP/1.1\r\n\r\n.....",
	} {
		b = append(b, []byte(s))
	}
	return b
}

func TestDoorReadsAlikeHoweverTheBytesAreSplit(t *testing.T) {
	vs := vectors(t, "socks4.txt", "socks5.txt", "socks6door.txt")
	for _, s := range httpScripts() {
		vs = append(vs, vector{name: string(s[:16]), sends: s}, vector{name: "password " + string(s[:16]), sends: s, password: true})
	}
	for _, v := range vs {
		d := v.door()
		whole := run(t, d, newScript(v.sends))
		for i := 1; i < len(v.sends); i++ {
			if o := run(t, d, newScript(v.sends[:i], v.sends[i:])); !reflect.DeepEqual(o, whole) {
				t.Errorf("%s, split at %d: %+v, want %+v", v.name, i, o, whole)
			}
		}
		if o := run(t, d, newScript(octets(v.sends)...)); !reflect.DeepEqual(o, whole) {
			t.Errorf("%s, byte by byte: %+v, want %+v", v.name, o, whole)
		}
	}
}

// named gives a request for a name of n bytes in each dialect, as far as the
// dialect can say it.
func named(n int) map[string][]byte {
	name := strings.Repeat("n", n)
	all := map[string][]byte{
		"SOCKS 4a":     []byte("\x04\x01\x00\x50\x00\x00\x00\x01\x00" + name + "\x00data"),
		"HTTP CONNECT": []byte("CONNECT " + name + ":80 HTTP/1.1\r\n\r\ndata"),
	}
	if n <= 255 {
		all["SOCKS 5"] = []byte("\x05\x01\x00\x05\x01\x00\x03" + string([]byte{byte(n)}) + name + "\x00\x50data")
	}
	return all
}

func TestNamesOfAnyLengthAreReadAlikeFastAndSlow(t *testing.T) {
	for _, n := range []int{0, 1, 254, 255, 256, 65535} {
		for dialect, sends := range named(n) {
			d := &Door{Relay: &recorder{}}
			whole := run(t, d, newScript(sends))
			want, got := "nothing", ""
			if 1 <= n && n <= 255 {
				want, got = fmt.Sprintf("%s to %s:80", dialect, strings.Repeat("n", n)), "data"
			}
			if whole.describe() != want || whole.got != got {
				t.Errorf("%s, %d bytes: the door asks for %s and passes on %q", dialect, n, whole.describe(), whole.got)
			}
			if o := run(t, d, newScript(octets(sends)...)); !reflect.DeepEqual(o, whole) {
				t.Errorf("%s, %d bytes, byte by byte: %+v, want %+v", dialect, n, o, whole)
			}
			for i := 1; i < len(sends); i++ {
				if i == 300 && len(sends) > 600 {
					i = len(sends) - 300 // nothing changes in the middle
				}
				if o := run(t, d, newScript(sends[:i], sends[i:])); !reflect.DeepEqual(o, whole) {
					t.Errorf("%s, %d bytes, split at %d: %+v, want %+v", dialect, n, i, o, whole)
				}
			}
		}
	}
}

func TestSlowNamesAreReadAsFastOnes(t *testing.T) {
	for _, n := range []int{0, 1, 254, 255, 256} {
		for dialect, sends := range named(n) {
			d := &Door{Relay: &recorder{}}
			whole := run(t, d, newScript(sends))
			synctest.Test(t, func(t *testing.T) {
				app := newScript(octets(sends)...)
				app.pause = 10 * time.Millisecond
				if o := run(t, d, app); !reflect.DeepEqual(o, whole) {
					t.Errorf("%s, %d bytes, one in 10 ms: %+v, want %+v", dialect, n, o, whole)
				}
			})
		}
	}
}

func TestSOCKS4UserIDsHaveALimit(t *testing.T) {
	for n, want := range map[int]string{255: "SOCKS 4 to 192.0.2.10:80", 256: "nothing", 1 << 16: "nothing"} {
		request := "\x04\x01\x00\x50\xc0\x00\x02\x0a" + strings.Repeat("u", n) + "\x00"
		o := run(t, &Door{Relay: &recorder{}}, newScript([]byte(request)))
		if o.describe() != want {
			t.Errorf("%d bytes: the door asks for %s, want %s", n, o.describe(), want)
		}
		if granted := o.answers == "\x00\x5a\x00\x00\x00\x00\x00\x00"; granted != (want != "nothing") {
			t.Errorf("%d bytes: the door answers %x", n, o.answers)
		}
	}
}

func TestForeignProtocolsGetNoAnswer(t *testing.T) {
	for _, first := range []byte{0, 1, 3, 7, 0x16, 'a', 'z', '@', '[', 0x80, 0xff} {
		o := run(t, &Door{Relay: &recorder{}}, newScript(bytes.Repeat([]byte{first}, 100)))
		if o.answers != "" || o.asked != nil {
			t.Errorf("first byte %#02x: %+v", first, o)
		}
	}
}

func TestOtherUsersHearNoInTheirDialect(t *testing.T) {
	for sends, want := range map[string]string{
		"\x04\x01\x00\x50\xc0\x00\x02\x0a\x00":                    "\x00\x5b\x00\x00\x00\x00\x00\x00",
		"\x05\x01\x00\x05\x01\x00\x01\xc0\x00\x02\x0a\x00\x50":    "\x05\xff",
		"\x05\x02\x00\x02\x01\x01u\x01p":                          "\x05\xff",
		"\x06\x01\x00\x00\x00\x50\x00\x01\xc0\x00\x02\x0a":        "\x06\x01\x00\x00",
		"CONNECT example.com:443 HTTP/1.1\r\n\r\n":                "HTTP/1.1 403",
		"GET http://example.com/ HTTP/1.1\r\nHost: e.com\r\n\r\n": "HTTP/1.1 403",
	} {
		app := newScript([]byte(sends))
		app.remote = addr(t, "192.0.2.1:1234") // not on loopback
		o := run(t, &Door{Relay: &recorder{}}, app)
		if o.asked != nil || !strings.HasPrefix(o.answers, want) || strings.HasPrefix(sends, "\x05") && o.answers != want {
			t.Errorf("%q: %+v, want the answer %q", sends, o, want)
		}
	}
}
