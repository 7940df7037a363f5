package socks

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
)

// paperGSS is a context that protects nothing. A token is a sequence number, whether
// it is sealed, the payload and a checksum.
type paperGSS struct {
	mu         sync.Mutex
	sent, next uint64
	seen       map[uint64]bool
}

const paperHead = 8 + 1

var errPaper = errors.New("the token is no good")

func (g *paperGSS) Wrap(dst, payload []byte, seal bool) []byte {
	g.mu.Lock()
	defer g.mu.Unlock()
	start := len(dst)
	dst = binary.BigEndian.AppendUint64(dst, g.sent)
	g.sent++
	dst = append(dst, map[bool]byte{false: 0, true: 1}[seal])
	dst = append(dst, payload...)
	return binary.BigEndian.AppendUint32(dst, crc32.ChecksumIEEE(dst[start:]))
}

func (g *paperGSS) Unwrap(token []byte) ([]byte, bool, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	seq, payload, sealed, err := g.open(token)
	if err == nil && seq != g.next {
		err = errPaper
	}
	if err != nil {
		return nil, false, err
	}
	g.next++
	return payload, sealed, nil
}

func (g *paperGSS) UnwrapDatagram(token []byte) ([]byte, bool, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	seq, payload, sealed, err := g.open(token)
	if err != nil || g.seen[seq] {
		return nil, false, errPaper
	}
	if g.seen == nil {
		g.seen = map[uint64]bool{}
	}
	g.seen[seq] = true
	return payload, sealed, nil
}

func (g *paperGSS) open(token []byte) (seq uint64, payload []byte, sealed bool, err error) {
	end := len(token) - 4
	if end < paperHead || crc32.ChecksumIEEE(token[:end]) != binary.BigEndian.Uint32(token[end:]) {
		return 0, nil, false, errPaper
	}
	seq, payload, sealed = binary.BigEndian.Uint64(token), slices.Clone(token[paperHead:end]), token[8] == 1
	clear(token) // it may be overwritten
	return seq, payload, sealed, nil
}

const ticket = "alice's ticket"

var errNoTicket = errors.New("there is no ticket")

// paperGrant lets in who has the ticket.
func paperGrant(p GSSProtection, nec bool) func(context.Context, []byte) (GSSGrant, error) {
	return func(_ context.Context, token []byte) (GSSGrant, error) {
		if string(token) != ticket {
			return GSSGrant{}, errNoTicket
		}
		return GSSGrant{User: "alice", Context: &paperGSS{}, Reply: []byte("reply"), Protection: p, NEC: nec}, nil
	}
}

// gssMessage gives a message.
func gssMessage(t testing.TB, kind byte, token []byte) string {
	t.Helper()
	b, err := appendGSS(nil, kind, token)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// proposal is all that an app sends that proposes a level.
func proposal(t testing.TB, app *paperGSS, level byte) string {
	t.Helper()
	return gssMessage(t, gssToken, []byte(ticket)) + gssMessage(t, gssProtection, app.Wrap(nil, []byte{level}, false))
}

// negotiated lets an app say something and gives what it hears.
func negotiated(t testing.TB, said io.Reader, accept func(context.Context, []byte) (GSSGrant, error)) (*GSSChannel, string, error) {
	t.Helper()
	var heard strings.Builder
	c, err := NegotiateGSS(t.Context(), said, &heard, accept)
	return c, heard.String(), err
}

func TestMessagesOfGSSAreThoseOfTheVectors(t *testing.T) {
	for _, v := range []struct {
		kind        byte
		token, want string
	}{
		{gssToken, "", "01010000"},
		{gssProtection, "02", "0102000102"}, // NEC proposes
		{gssProtection, "00", "0102000100"}, // and is answered
		{gssProtection, "050400ff000c0000000000000000100000d08921ce178906665ea3e9f2", "0102001d050400ff000c0000000000000000100000d08921ce178906665ea3e9f2"},
		{
			gssData, "050400ff000c0000000000000000100105010001c0000201005040a5c070fa082f47cc004aff",
			"01030026050400ff000c0000000000000000100105010001c0000201005040a5c070fa082f47cc004aff",
		},
	} {
		token, err := hex.DecodeString(v.token)
		if err != nil {
			t.Fatal(err)
		}
		message := gssMessage(t, v.kind, token)
		if got := hex.EncodeToString([]byte(message)); got != v.want {
			t.Errorf("%s, want %s", got, v.want)
		}
		in := strings.NewReader(message + "more")
		if got, err := readGSS(iotest.OneByteReader(in), v.kind); err != nil || !bytes.Equal(got, token) || in.Len() != len("more") {
			t.Errorf("%s is read as %x (%v), %d bytes are left", v.want, got, err, in.Len())
		}
	}
	if got := hex.EncodeToString([]byte(gssAborted)); got != "01ff0000" {
		t.Errorf("an abort is %s", got)
	}
}

func TestGSSMessagesHaveABound(t *testing.T) {
	if _, err := appendGSS(nil, gssData, make([]byte, 65535)); err != nil {
		t.Error(err)
	}
	if _, err := appendGSS(nil, gssData, make([]byte, 65536)); !errors.Is(err, errGSSSize) {
		t.Errorf("65536 bytes: %v", err)
	}
}

func TestLevelsAreAgreedAsThePolicyDemands(t *testing.T) {
	const refused = GSSLevel(99)
	for _, v := range []struct {
		policy GSSProtection
		levels [5]GSSLevel // the answers to proposals from 0 on
	}{
		{GSSUnprotected, [5]GSSLevel{0, 0, 0, 0, refused}},
		{GSSAsProposed, [5]GSSLevel{0, 1, 2, 3, refused}},
		{GSSSigned, [5]GSSLevel{refused, 1, 2, 3, refused}},
		{GSSSealed, [5]GSSLevel{refused, 2, 2, 2, refused}},
		{GSSProtection(77), [5]GSSLevel{refused, 2, 2, 2, refused}},
	} {
		for proposed, want := range v.levels {
			for _, nec := range []bool{false, true} {
				app := &paperGSS{}
				said := proposal(t, app, byte(proposed))
				if nec {
					said = gssMessage(t, gssToken, []byte(ticket)) + gssMessage(t, gssProtection, []byte{byte(proposed)})
				}
				// More, which is not for the negotiation.
				in := strings.NewReader(said + "more")
				c, heard, err := negotiated(t, iotest.OneByteReader(in), paperGrant(v.policy, nec))
				heard, ok := strings.CutPrefix(heard, gssMessage(t, gssToken, []byte("reply")))
				if !ok || in.Len() != len("more") {
					t.Fatalf("%v, %d proposed: app hears %q and %d bytes are left", v.policy, proposed, heard, in.Len())
				}
				if want == refused {
					if err == nil || c != nil || heard != gssAborted {
						t.Errorf("%v, %d proposed: app hears %q (%v)", v.policy, proposed, heard, err)
					}
					continue
				}
				if err != nil || c.Level != want || c.User != "alice" {
					t.Errorf("%v, %d proposed: %+v (%v), want level %d", v.policy, proposed, c, err, want)
				}
				answer, err := readGSS(strings.NewReader(heard), gssProtection)
				if err == nil && !nec {
					var sealed bool
					if answer, sealed, err = app.Unwrap(answer); sealed {
						t.Error("the answer is sealed")
					}
				}
				if err != nil || string(answer) != string([]byte{byte(want)}) {
					t.Errorf("%v, %d proposed: app hears %q (%v)", v.policy, proposed, heard, err)
				}
			}
		}
	}
}

func TestBareLevelsAreReadOnlyWhereAllowed(t *testing.T) {
	said := gssMessage(t, gssToken, []byte(ticket)) + gssMessage(t, gssProtection, []byte{2})
	if _, heard, err := negotiated(t, strings.NewReader(said), paperGrant(GSSAsProposed, false)); err == nil || !strings.HasSuffix(heard, gssAborted) {
		t.Errorf("app hears %q (%v)", heard, err)
	}
}

func TestWhoHasNoTicketIsTurnedAway(t *testing.T) {
	app := &paperGSS{}
	said := gssMessage(t, gssToken, []byte("bob's ticket")) + gssMessage(t, gssProtection, app.Wrap(nil, []byte{0}, false))
	in := strings.NewReader(said)
	c, heard, err := negotiated(t, in, paperGrant(GSSUnprotected, true))
	if !errors.Is(err, errNoTicket) || c != nil || heard != gssAborted || in.Len() == 0 {
		t.Errorf("app hears %q (%v)", heard, err)
	}
}

func TestGrantsOfNothingLetNobodyIn(t *testing.T) {
	for _, grant := range []GSSGrant{{}, {User: "alice"}, {Context: &paperGSS{}}} {
		accept := func(context.Context, []byte) (GSSGrant, error) { return grant, nil }
		if c, heard, err := negotiated(t, strings.NewReader(proposal(t, &paperGSS{}, 1)), accept); err == nil || c != nil || heard != gssAborted {
			t.Errorf("%+v: app hears %q (%v)", grant, heard, err)
		}
	}
}

// The reply that is empty says that the context is established.
func TestReadySignalIsSentWithoutAReply(t *testing.T) {
	accept := func(context.Context, []byte) (GSSGrant, error) {
		return GSSGrant{User: "alice", Context: &paperGSS{}, Protection: GSSAsProposed}, nil
	}
	_, heard, err := negotiated(t, strings.NewReader(proposal(t, &paperGSS{}, 0)), accept)
	if err != nil || !strings.HasPrefix(heard, "\x01\x01\x00\x00\x01\x02") {
		t.Errorf("app hears %q (%v)", heard, err)
	}
}

func TestNegotiationOfGSSFailsWhereverItIsCut(t *testing.T) {
	whole := proposal(t, &paperGSS{}, 1)
	for n := range whole {
		c, heard, err := negotiated(t, strings.NewReader(whole[:n]), paperGrant(GSSAsProposed, true))
		if !errors.Is(err, io.ErrUnexpectedEOF) || c != nil || !strings.HasSuffix(heard, gssAborted) {
			t.Errorf("after %d bytes: app hears %q (%v)", n, heard, err)
		}
	}
}

func TestMessagesOutOfTurnEndTheNegotiation(t *testing.T) {
	app := &paperGSS{}
	token, level := gssMessage(t, gssToken, []byte(ticket)), app.Wrap(nil, []byte{1}, false)
	for name, said := range map[string]string{
		"SOCKS request":       "\x05\x01\x00\x01\xc0\x00\x02\x0a\x00\x50",
		"version 2":           "\x02" + token[1:],
		"level first":         gssMessage(t, gssProtection, level),
		"data first":          gssMessage(t, gssData, level),
		"abort":               "\x01\xff",
		"second token":        token + token,
		"data for level":      token + gssMessage(t, gssData, level),
		"abort for level":     token + "\x01\xff",
		"empty level":         token + gssMessage(t, gssProtection, nil),
		"level of no bytes":   token + gssMessage(t, gssProtection, (&paperGSS{}).Wrap(nil, nil, false)),
		"level of two":        token + gssMessage(t, gssProtection, (&paperGSS{}).Wrap(nil, []byte{1, 1}, false)),
		"level out of turn":   token + gssMessage(t, gssProtection, app.Wrap(nil, []byte{1}, false)),
		"level that is wrong": token + gssMessage(t, gssProtection, level[1:]),
	} {
		if c, heard, err := negotiated(t, strings.NewReader(said), paperGrant(GSSAsProposed, true)); err == nil || c != nil || !strings.HasSuffix(heard, gssAborted) {
			t.Errorf("%s: app hears %q (%v)", name, heard, err)
		}
	}
}

func TestProtectionHasTheWordsOfTheConfiguration(t *testing.T) {
	for _, want := range []GSSProtection{GSSSealed, GSSSigned, GSSAsProposed, GSSUnprotected} {
		var p GSSProtection = 99
		if err := p.UnmarshalText([]byte(want.String())); err != nil || p != want {
			t.Errorf("%v becomes %v (%v)", want, p, err)
		}
	}
	var p GSSProtection
	for _, word := range []string{"", "None", "protection 4", "require"} {
		if err := p.UnmarshalText([]byte(word)); err == nil {
			t.Errorf("%q is %v", word, p)
		}
	}
}

func TestDatagramsAreProtectedAsAgreed(t *testing.T) {
	for _, level := range []GSSLevel{0, 1, 2, 3} {
		door := &GSSChannel{Level: level, context: &paperGSS{}}
		app := &GSSChannel{Level: level, context: &paperGSS{}}
		packet, err := door.AppendDatagram([]byte("before"), []byte("payload"))
		if err != nil {
			t.Fatal(err)
		}
		b := packet[len("before"):]
		if sealed := level > 0 && b[gssHead+8] == 1; sealed != (level > 1) {
			t.Errorf("level %d: sealed: %t", level, sealed)
		}
		if got, err := app.OpenDatagram(slices.Clone(b)); err != nil || string(got) != "payload" {
			t.Errorf("level %d: %q (%v)", level, got, err)
		}
		if level == 0 {
			continue
		}
		if got, err := app.OpenDatagram(slices.Clone(b)); err == nil {
			t.Errorf("level %d, again: %q", level, got)
		}
		for n := range b {
			if got, err := app.OpenDatagram(slices.Clone(b[:n])); err == nil {
				t.Errorf("level %d, %d bytes: %q", level, n, got)
			}
		}
		clear, err := appendGSS(nil, gssData, app.context.Wrap(nil, []byte("clear"), false))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := door.OpenDatagram(clear); (err == nil) != (level != 2) {
			t.Errorf("level %d, not sealed: %q (%v)", level, got, err)
		}
		if _, err := door.AppendDatagram(nil, make([]byte, 65535)); !errors.Is(err, errGSSSize) {
			t.Errorf("level %d, much too long: %v", level, err)
		}
	}
}

func FuzzNegotiateGSS(f *testing.F) {
	for level := range byte(4) {
		f.Add([]byte(proposal(f, &paperGSS{}, level)), level, true)
	}
	f.Add([]byte(gssMessage(f, gssToken, []byte(ticket))+"\x01\x02\x00\x01\x02"), byte(0), true)
	f.Add([]byte("\x01\xff"), byte(0), false)
	f.Fuzz(func(t *testing.T, said []byte, policy byte, nec bool) {
		c, heard, err := negotiated(t, bytes.NewReader(said), paperGrant(GSSProtection(policy), nec))
		switch {
		case (c == nil) == (err == nil):
			t.Fatalf("channel %v and error %v", c, err)
		case err != nil && !strings.HasSuffix(heard, gssAborted):
			t.Fatalf("failed with %v, and the app hears %q", err, heard)
		case err == nil && !strings.HasPrefix(string(said), gssMessage(t, gssToken, []byte(ticket))):
			t.Fatalf("%q gets in without a ticket", said)
		case err == nil && GSSProtection(policy) == GSSSealed && c.Level != GSSLevelConfidentiality:
			t.Fatalf("level %d is agreed where sealing is demanded", c.Level)
		}
	})
}

func FuzzOpenGSSDatagram(f *testing.F) {
	f.Add([]byte(gssMessage(f, gssData, (&paperGSS{}).Wrap(nil, []byte("payload"), true))), byte(2))
	f.Fuzz(func(t *testing.T, datagram []byte, level byte) {
		g := &GSSChannel{Level: GSSLevel(level % 4), context: &paperGSS{}}
		got, err := g.OpenDatagram(slices.Clone(datagram))
		if len(got) > len(datagram) || err != nil && got != nil {
			t.Fatalf("%q (%v)", got, err)
		}
	})
}
