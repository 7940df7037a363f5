package socks

import (
	"bytes"
	"encoding"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
)

// vector6 is a message of testdata/wire/socks6.txt. Its kind is the first word
// of its name.
type vector6 struct {
	name, kind string
	bytes      []byte
}

// vectors6 reads the file and completes options to messages.
func vectors6(t testing.TB) []vector6 {
	t.Helper()
	text, err := os.ReadFile("../../testdata/wire/socks6.txt")
	if err != nil {
		t.Fatal(err)
	}
	var vs []vector6
	for line := range strings.Lines(string(text)) {
		switch {
		case strings.TrimSpace(line) == "" || line[0] == '#':
		case line[0] == ' ':
			b, err := hex.DecodeString(strings.Join(strings.Fields(line), ""))
			if err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			vs[len(vs)-1].bytes = append(vs[len(vs)-1].bytes, b...)
		default:
			name, _, _ := strings.Cut(line, ":")
			kind, _, _ := strings.Cut(name, " ")
			vs = append(vs, vector6{name: name, kind: kind})
		}
	}
	for i, v := range vs {
		if kind, isOption := strings.CutSuffix(v.kind, "-option"); isOption {
			vs[i].kind, vs[i].bytes = kind, withOptions6(kind, v.bytes)
		}
	}
	return vs
}

// withOptions6 puts options into a message of a kind: a CONNECT to
// 192.0.2.10:80, or a good reply to it.
func withOptions6(kind string, options []byte) []byte {
	var b []byte
	switch kind {
	case "request":
		b = []byte{6, 1, 0, 0, 0, 80, 0, 1, 192, 0, 2, 10}
	case "auth-reply":
		b = []byte{6, 0, 0, 0}
	case "auth-refusal":
		b = []byte{6, 1, 0, 0}
	case "operation-reply":
		b = []byte{6, 0, 0, 0, 0, 80, 0, 1, 192, 0, 2, 10}
	}
	binary.BigEndian.PutUint16(b[2:], uint16(len(options)))
	return append(b, options...)
}

// read6 reads a message of a kind.
func read6(kind string, r io.Reader) (m encoding.BinaryAppender, err error) {
	switch kind {
	case "request":
		m, err = ReadRequest6(r)
	case "auth-reply", "auth-refusal":
		m, err = ReadAuthReply6(r)
	case "operation-reply":
		m, err = ReadOperationReply6(r)
	case "udp":
		m, err = ReadUDPMessage6(r, make([]byte, 65535))
	default:
		err = fmt.Errorf("there is no message %q", kind)
	}
	return m, err
}

func addr6(t testing.TB, hostport string) Addr {
	t.Helper()
	a, err := ParseAddr(hostport)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// meanings6 gives what the vectors mean, by their names.
func meanings6(t testing.TB) map[string]encoding.BinaryAppender {
	host, any4 := addr6(t, "192.0.2.10:80"), addr6(t, "0.0.0.0:0")
	request := func(o Options6) Request6 { return Request6{Command: Connect, Dst: host, Options: o} }
	stack := func(s StackOption6) Request6 { return request(Options6{Stack: []StackOption6{s}}) }
	good := func(o Options6) AuthReply6 { return AuthReply6{OK: true, Options: o} }
	bad := func(o Options6) AuthReply6 { return AuthReply6{Options: o} }
	password := func(data string) Options6 { return Options6{Auth: []AuthData6{{Method: 2, Data: []byte(data)}}} }
	id := []byte{0xde, 0xad, 0xbe, 0xef, 0xca, 0xfe, 0xf0, 0x0d}
	const association = 0x0102030405060708
	hi := func(hostport string) UDPMessage6 {
		return UDPMessage6{Type: UDPDatagram6, Association: association, Addr: addr6(t, hostport), Payload: []byte("hi")}
	}
	return map[string]encoding.BinaryAppender{
		"request connect-ipv4":        Request6{Command: Connect, Dst: host},
		"request connect-ipv6":        Request6{Command: Connect, Dst: addr6(t, "[2001:db8::1]:443")},
		"request connect-name":        Request6{Command: Connect, Dst: addr6(t, "example.com:443")},
		"request connect-padded-name": Request6{Command: Connect, Dst: addr6(t, "a.example:443")},
		"request connect-password": Request6{
			Command: Connect, Dst: addr6(t, "example.com:443"), Options: password("\x01\x04fred\x06secret\x00\x00"),
		},
		"request noop":              Request6{Command: Noop, Dst: any4},
		"request bind-any":          Request6{Command: Bind, Dst: any4},
		"request udp-associate-any": Request6{Command: Associate, Dst: any4},
		"request dns":               Request6{Command: Connect, Dst: addr6(t, "[::]:53")},

		"auth-reply ok":             good(Options6{}),
		"auth-reply password-good":  good(password("\x01\x00\x00")),
		"auth-reply password-bad":   bad(password("\x01\x01\x00")),
		"operation-reply ok":        OperationReply6{Bound: addr6(t, "203.0.113.1:40000")},
		"operation-reply refused":   OperationReply6{Code: ConnectionRefused, Bound: any4},
		"operation-reply timed-out": OperationReply6{Code: TimedOut, Bound: addr6(t, "exit.example:0")},

		"request-option offer":                request(Options6{Offer: &MethodOffer6{InitialData: 5, Methods: []byte{2, 1}}}),
		"request-option offer-nothing":        request(Options6{Offer: &MethodOffer6{InitialData: 5, Methods: []byte{}}}),
		"auth-reply-option selected":          good(Options6{Selected: new(byte(1))}),
		"auth-reply-option none-acceptable":   good(Options6{Selected: new(byte(0xff))}),
		"request-option session-request":      request(Options6{SessionRequest: true}),
		"request-option session-id":           request(Options6{SessionID: id}),
		"auth-reply-option session-id":        good(Options6{SessionID: id}),
		"operation-reply-option session-id":   OperationReply6{Bound: host, Options: Options6{SessionID: id}},
		"auth-reply-option session-ok":        good(Options6{SessionOK: true}),
		"auth-refusal-option session-invalid": bad(Options6{SessionInvalid: true}),
		"request-option session-teardown":     request(Options6{SessionID: id, SessionTeardown: true}),
		"request-option window-request":       request(Options6{WindowRequest: 64}),
		"auth-reply-option window":            good(Options6{Window: &TokenWindow6{Base: 100, Size: 64}}),
		"request-option token":                request(Options6{Token: new(uint32(100))}),
		"auth-reply-option token-accepted":    good(Options6{TokenAccepted: true}),
		"auth-refusal-option token-rejected":  bad(Options6{TokenRejected: true}),
		"request-option tos":                  stack(StackOption6{BothLegs6, StackTOS6, 0xb8}),
		"request-option happy-eyeballs":       stack(StackOption6{TargetLeg6, StackHappyEyeballs6, StackOn6}),
		"request-option ttl":                  stack(StackOption6{TargetLeg6, StackTTL6, 64}),
		"request-option no-fragmentation":     stack(StackOption6{TargetLeg6, StackNoFragmentation6, StackOn6}),
		"request-option fast-open":            stack(StackOption6{TargetLeg6, StackFastOpen6, 512}),
		"request-option multipath":            stack(StackOption6{TargetLeg6, StackMultipath6, StackOn6}),
		"operation-reply-option backlog":      OperationReply6{Bound: host, Options: stack(StackOption6{TargetLeg6, StackBacklog6, 4}).Options},
		"request-option udp-errors":           stack(StackOption6{TargetLeg6, StackUDPErrors6, StackOn6}),
		"request-option port-parity":          stack(StackOption6{TargetLeg6, StackPortParity6, ParityEven6 | ParityReserve6}),

		"udp init":          UDPMessage6{Type: UDPInit6, Association: association},
		"udp confirm":       UDPMessage6{Type: UDPConfirm6, Association: association},
		"udp datagram-ipv4": hi("192.0.2.53:53"),
		"udp datagram-name": hi("example.com:53"),
		"udp datagram-ipv6": hi("[2001:db8::35]:53"),
		"udp trigger":       UDPMessage6{Type: UDPDatagram6, Association: association, Addr: any4, Payload: []byte{}},
		"udp host-unreachable": UDPMessage6{
			Type: UDPError6, Association: association, Addr: addr6(t, "192.0.2.53:53"),
			Cause: UDPHostUnreachable6, Reporter: netip.MustParseAddr("198.51.100.254"),
		},
	}
}

func TestSocks6VectorsMeanWhatTheySay(t *testing.T) {
	meanings := meanings6(t)
	for _, v := range vectors6(t) {
		want, ok := meanings[v.name]
		if !ok {
			t.Errorf("%s: the test knows no meaning", v.name)
			continue
		}
		delete(meanings, v.name)
		got, err := read6(v.kind, bytes.NewReader(v.bytes))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: decoded as %+v, %v; want %+v", v.name, got, err, want)
		}
		b, err := want.AppendBinary([]byte("before"))
		if err != nil || string(b) != "before"+string(v.bytes) {
			t.Errorf("%s: encoded as %x, %v; want %x", v.name, b, err, v.bytes)
		}
	}
	for name := range meanings {
		t.Errorf("%s: there is no such vector", name)
	}
}

func TestSocks6UDPVectorsParseAsPackets(t *testing.T) {
	for _, v := range vectors6(t) {
		if v.kind != "udp" {
			continue
		}
		got, err := ParseUDPMessage6(append(v.bytes, "padding"...))
		if want := meanings6(t)[v.name]; err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: parsed as %+v, %v; want %+v", v.name, got, err, want)
		}
		for n := range v.bytes {
			want := io.ErrUnexpectedEOF
			if n == 0 {
				want = io.EOF
			}
			if _, err := ParseUDPMessage6(v.bytes[:n]); !errors.Is(err, want) {
				t.Errorf("%s cut to %d bytes: %v, want %v", v.name, n, err, want)
			}
		}
	}
}

func TestSocks6TruncationIsAnError(t *testing.T) {
	for _, v := range vectors6(t) {
		for n := range v.bytes {
			want := io.ErrUnexpectedEOF
			if n == 0 {
				want = io.EOF
			}
			if _, err := read6(v.kind, bytes.NewReader(v.bytes[:n])); !errors.Is(err, want) {
				t.Errorf("%s cut to %d bytes: %v, want %v", v.name, n, err, want)
			}
		}
	}
}

func TestSocks6ReadsAlikeHoweverTheBytesAreSplit(t *testing.T) {
	for _, v := range vectors6(t) {
		want, err := read6(v.kind, bytes.NewReader(v.bytes))
		if err != nil {
			t.Errorf("%s: %v", v.name, err)
			continue
		}
		check := func(how string, r io.Reader) {
			got, err := read6(v.kind, r)
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%s %s: %+v, %v; want %+v", v.name, how, got, err, want)
			}
		}
		check("byte by byte", iotest.OneByteReader(bytes.NewReader(v.bytes)))
		check("with its end", iotest.DataErrReader(bytes.NewReader(v.bytes)))
		for n := range v.bytes {
			rest := bytes.NewReader(append(v.bytes[n:len(v.bytes):len(v.bytes)], "payload"...))
			check(fmt.Sprintf("split at %d", n), io.MultiReader(bytes.NewReader(v.bytes[:n]), rest))
			if rest.Len() != len("payload") {
				t.Errorf("%s split at %d: %d bytes are left, want those behind the message", v.name, n, rest.Len())
			}
		}
	}
}
