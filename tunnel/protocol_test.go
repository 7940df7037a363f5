package tunnel

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"io"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/adit-net/adit/tunnel/socks"
	"github.com/adit-net/adit/tunnel/tunneltest"
)

// examples reads the hex examples of PROTOCOL.md: by the comment above, the
// bytes of the lines below it.
func examples(t *testing.T) map[string][]byte {
	t.Helper()
	text, err := os.ReadFile("PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string][]byte)
	inside, name := false, ""
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "```"):
			inside, name = !inside, ""
		case inside && strings.HasPrefix(line, "# "):
			name = strings.TrimPrefix(line, "# ")
		case inside && name != "":
			b, err := hex.DecodeString(strings.ReplaceAll(line, " ", ""))
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			found[name] = append(found[name], b...)
		}
	}
	return found
}

func TestProtocolsExamplesAreWhatTheCodeSpeaks(t *testing.T) {
	session := [16]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
	frames := func(hs ...header) []byte {
		var b []byte
		for _, h := range hs {
			b = append(b, h[:]...)
		}
		return b
	}
	guard := func(kind byte, stream, value uint32) header {
		return makeHeader(guardVersion, kind, 0, stream, value)
	}
	const raise = 4*maxWindow - firstWindow
	want := map[string][]byte{
		"answer to a JOIN: the server's key is 3333…33; WireGuard at port 51820 with key 1111…11, IPsec at 10.8.0.1:8444": Welcome{
			Key: [32]byte(bytes.Repeat([]byte{0x33}, 32)), WireGuard: [32]byte(bytes.Repeat([]byte{0x11}, 32)), WireGuardPort: 51820,
			IPsec: netip.MustParseAddrPort("10.8.0.1:8444"),
		}.Bytes(),
		"answer: welcome to session 000102…0f in epoch 1, 10000 streams, 8 lanes": Welcome{Session: session, Epoch: 1, Streams: DefaultStreams, Lanes: MaxLanes}.Bytes(),
		"answer: refused, the device is revoked":                                  RefusedDeviceRevoked.Bytes(),
		"frame 0xad: header of an opening, and of an answer":                      {0, OpeningSize >> 8, 0, 0xad, 0, 0, 0, 0, 0, 0, 0, AnswerSize, 0xad, 0, 0, 0, 0, 0},
		"open stream 1, with yamux's window raised to 128 MiB":                    frames(makeHeader(yamuxVersion, typeWindow, flagSYN, 1, raise)),
		"acknowledge stream 1":                                                    frames(makeHeader(yamuxVersion, typeWindow, flagACK, 1, raise)),
		"five bytes on stream 1":                                                  append(frames(makeHeader(yamuxVersion, typeData, 0, 1, 5)), "hello"...),
		"end of our direction of stream 1":                                        frames(makeHeader(yamuxVersion, typeWindow, flagFIN, 1, 0)),
		"CREDIT of 245,760 bytes for stream 1":                                    frames(guard(typeCredit, 1, firstWindow-minWindow)),
		"RELEASE of 1 MiB by the sender of stream 1":                              frames(guard(typeRelease, 1, 1<<20)),
		"RESET of stream 1, refused":                                              frames(guard(typeReset, 1, uint32(resetRefused))),
		"PING 7 and its PONG":                                                     frames(guard(typePing, 0, 7), guard(typePong, 0, 7)),
		"DRAIN":                                                                   frames(guard(typeDrain, 0, 0)),
		"CLOSE, the device is revoked":                                            frames(guard(typeClose, 0, uint32(RefusedDeviceRevoked))),
		"request: CONNECT example.com:443":                                        encode(t, socks.Request6{Command: socks.Connect, Dst: socks.Addr{Name: "example.com", Port: 443}}),
		"replies: authenticated; connected from 203.0.113.1:40000":                encode(t, socks.AuthReply6{OK: true}, socks.OperationReply6{Bound: socks.Addr{IP: netip.MustParseAddr("203.0.113.1"), Port: 40000}}),
		"replies: authenticated; connection refused":                              encode(t, socks.AuthReply6{OK: true}, socks.OperationReply6{Code: socks.ConnectionRefused}),
	}
	early := socks.Request6{Command: socks.Connect, Dst: socks.Addr{Name: "example.com", Port: 443}, Options: socks.Options6{
		Stack: []socks.StackOption6{{Leg: socks.TargetLeg6, Kind: socks.StackFastOpen6, Value: 512}},
		Offer: &socks.MethodOffer6{InitialData: 5},
	}}
	want[`request: CONNECT example.com:443, and "hello"`] = append(encode(t, early), "hello"...)
	maps.Copy(want, bindExamples(t))
	maps.Copy(want, loginExamples(t))
	// Other tests hold the code against these files.
	for _, v := range slices.Concat(vectors(t, "resume.txt"), vectors(t, "udp.txt")) {
		if v.travels() && v.means != "" {
			want[v.means] = v.bytes
		}
	}
	got := examples(t)
	for name, b := range want {
		if !bytes.Equal(got[name], b) {
			t.Errorf("%s: PROTOCOL.md has %x, the code %x", name, got[name], b)
		}
	}
	for name := range got {
		if want[name] == nil {
			t.Errorf("%s: no code is held against this example", name)
		}
	}
}

// bindExamples are those of BIND.
func bindExamples(t *testing.T) map[string][]byte {
	var (
		port    = socks.Addr{IP: netip.MustParseAddr("203.0.113.1"), Port: 40000}
		peer    = socks.Addr{IP: netip.MustParseAddr("192.0.2.10"), Port: 20}
		id      = []byte{1, 2, 3, 4, 5, 6, 7, 8}
		backlog = []socks.StackOption6{{Leg: socks.TargetLeg6, Kind: socks.StackBacklog6, Value: 4}}
		come    = socks.OperationReply6{Bound: peer}
	)
	bind := func(dst socks.Addr, o socks.Options6) []byte {
		return encode(t, socks.Request6{Command: socks.Bind, Dst: dst, Options: o})
	}
	replies := func(auth socks.Options6, op socks.OperationReply6) []byte {
		return encode(t, socks.AuthReply6{OK: true, Options: auth}, op)
	}
	return map[string][]byte{
		"request: BIND for 192.0.2.10, who is connected at port 21 already": bind(socks.Addr{IP: peer.IP, Port: 21}, socks.Options6{}),
		"replies: authenticated; peers reach port 40000 at 203.0.113.1":     replies(socks.Options6{}, socks.OperationReply6{Bound: port}),
		"second reply: 192.0.2.10:20 has come":                              encode(t, come),
		"second reply: nobody has come in time":                             encode(t, socks.OperationReply6{Code: socks.TimedOut}),
		"request: BIND for anybody, a backlog of 4":                         bind(socks.Addr{}, socks.Options6{Stack: backlog, SessionRequest: true}),
		"replies: authenticated, port 0102030405060708; it is 203.0.113.1:40000, with a backlog of 4": replies(
			socks.Options6{SessionID: id}, socks.OperationReply6{Bound: port, Options: socks.Options6{Stack: backlog}}),
		"request: the next connection at that port":                         bind(port, socks.Options6{SessionID: id}),
		"replies: authenticated, the port is known; 192.0.2.10:20 has come": replies(socks.Options6{SessionOK: true}, come),
		"reply: there is no such port":                                      encode(t, socks.AuthReply6{Options: socks.Options6{SessionInvalid: true}}),
	}
}

func encode(t *testing.T, messages ...interface{ AppendBinary([]byte) ([]byte, error) }) []byte {
	t.Helper()
	var b []byte
	for _, m := range messages {
		var err error
		if b, err = m.AppendBinary(b); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// TestStreamOpensAsTheProtocolSays records what a client's session really
// writes.
func TestStreamOpensAsTheProtocolSays(t *testing.T) {
	written, pipe := tunneltest.Link(tunneltest.Path{})
	s := NewSession(pipe, true, Config{})
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(t.Context()) }()
	go func() {
		st, err := s.Open(t.Context())
		if err == nil {
			st.Write([]byte("hello"))
			st.CloseWrite()
		}
	}()
	ex := examples(t)
	want := []string{
		"open stream 1, with yamux's window raised to 128 MiB", "CREDIT of 245,760 bytes for stream 1",
		"five bytes on stream 1", "end of our direction of stream 1",
	}
	for _, name := range want {
		b := make([]byte, len(ex[name]))
		for {
			if _, err := io.ReadFull(written, b[:headerSize]); err != nil {
				t.Fatal(err)
			}
			if h := header(b[:headerSize]); h.version() != guardVersion || h.kind() != typePing {
				break // the session measures its round trip when it likes
			}
		}
		if _, err := io.ReadFull(written, b[headerSize:]); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(b, ex[name]) {
			t.Fatalf("%s: the session wrote %x", name, b)
		}
	}
	s.Close(0)
	written.Close()
	<-ended
}

func TestOpeningIsWorthNothingElsewhere(t *testing.T) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	here := Place{Server: [32]byte{1}, Carrier: [32]byte{2}}
	hello := Hello{Session: [16]byte{3}, Lane: 6, Epoch: 4, Received: 5}.Sign(testSigner{key}, here)
	join, err := Join{Token: [32]byte{6}, WireGuard: [32]byte{7}, Name: "laptop"}.Sign(testSigner{key}, here)
	if err != nil {
		t.Fatal(err)
	}
	o, err := OpenAt(hello, here)
	if err != nil || o.Hello == nil || o.Hello.Epoch != 4 || o.Hello.Received != 5 || o.Hello.Lane != 6 || o.Hello.Session != [16]byte{3} {
		t.Fatalf("HELLO reads as %+v, %v", o.Hello, err)
	}
	o, err = OpenAt(join, here)
	if err != nil || o.Join == nil || o.Join.Name != "laptop" || o.Join.Token != [32]byte{6} {
		t.Fatalf("JOIN reads as %+v, %v", o.Join, err)
	}
	for name, place := range map[string]Place{
		"another server":  {Server: [32]byte{9}, Carrier: here.Carrier},
		"another carrier": {Server: here.Server, Carrier: [32]byte{9}},
	} {
		if _, err := OpenAt(hello, place); err == nil {
			t.Errorf("taken at %s", name)
		}
	}
	for i := range hello {
		changed := bytes.Clone(hello)
		changed[i] ^= 1
		if _, err := OpenAt(changed, here); err == nil {
			t.Errorf("taken with byte %d changed", i)
		}
		if _, err := OpenAt(hello[:i], here); err == nil {
			t.Errorf("taken with %d bytes", i)
		}
	}
}

type testSigner struct{ key ed25519.PrivateKey }

func (s testSigner) Public() ed25519.PublicKey { return s.key.Public().(ed25519.PublicKey) }
func (s testSigner) Sign(m []byte) []byte      { return ed25519.Sign(s.key, m) }

func FuzzOpening(f *testing.F) {
	f.Add(make([]byte, OpeningSize))
	f.Fuzz(func(t *testing.T, b []byte) {
		if o, err := OpenAt(b, Place{}); err == nil && (o.Hello == nil) == (o.Join == nil) {
			t.Fatal("neither or both")
		}
	})
}

// FuzzAnswer holds that what is taken of an answer is all there, for who joins, too.
func FuzzAnswer(f *testing.F) {
	f.Add(Welcome{Session: [16]byte{1}, Epoch: 2, Lanes: 8, IPsec: netip.MustParseAddrPort("10.8.0.1:8444")}.Bytes())
	f.Add(Welcome{Key: [32]byte{1}, WireGuardPort: 51820, IPsec: netip.MustParseAddrPort("[2001:db8::1]:8444")}.Bytes())
	f.Add(RefusedBusy.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, parse := range []func([]byte) (Welcome, error){ParseAnswer, ParseJoined} {
			w, err := parse(b)
			if err != nil {
				continue
			}
			if again, err := parse(w.Bytes()); err != nil || again != w {
				t.Errorf("%+v becomes %+v, %v", w, again, err)
			}
			if at := w.IPsec.Addr(); at.Is4In6() || at.IsValid() && at.IsUnspecified() {
				t.Errorf("it takes carriers at %v", at)
			}
		}
	})
}

// FuzzInbox holds that the guard never gives yamux more than a frame may have,
// whatever comes in.
func FuzzInbox(f *testing.F) {
	for _, h := range []header{makeHeader(0, 0, 0, 1, 5), makeHeader(1, 4, 0, 0, 7)} {
		f.Add(append(h[:], "hello"...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		in, r := new(inbox), bytes.NewReader(b)
		for read := 0; ; {
			h, body, err := in.frame(r)
			if err != nil {
				return
			}
			read += headerSize + len(body)
			if len(body) > maxFrameData || read > len(b) || !bytes.Equal(h[:], b[read-len(body)-headerSize:][:headerSize]) {
				t.Fatal("the inbox gave what did not come in")
			}
		}
	})
}
