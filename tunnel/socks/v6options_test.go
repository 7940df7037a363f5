package socks

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
)

func TestSocks6RefusesBadOptions(t *testing.T) {
	const tos, ok = "0001 0008 c101 b800", "auth-reply"
	for name, m := range map[string]struct{ kind, options string }{
		"length 0":                            {"request", "fc00 0000"},
		"length 3":                            {"request", "fc00 0003"},
		"length not aligned":                  {"request", "fc00 0006 00000000"},
		"length past the end":                 {"request", "fc00 0008"},
		"length past the end, behind another": {ok, "0008 0004 fc00 000c 00000000"},
		"65 options":                          {"request", strings.Repeat("fc00 0004", 65)},
		"65 options in a reply":               {"operation-reply", strings.Repeat("0000 0004", 65)},

		"stack option without data":      {"request", "0001 0004"},
		"stack option of 12 bytes":       {"request", "0001 000c c101 b800 00000000"},
		"stack option without leg":       {"request", "0001 0008 0101 b800"},
		"fast open towards the client":   {"request", "0001 0008 4401 0200"},
		"fast open on both legs":         {"request", "0001 0008 c401 0200"},
		"happy eyeballs 0":               {"request", "0001 0008 8102 0000"},
		"happy eyeballs 3":               {"request", "0001 0008 8102 0300"},
		"no fragmentation 0":             {"request", "0001 0008 8104 0000"},
		"multipath 3":                    {"request", "0001 0008 8402 0300"},
		"UDP errors ff":                  {"request", "0001 0008 8501 ff00"},
		"parity 3":                       {"request", "0001 0008 8502 0300"},
		"reserve 2":                      {"request", "0001 0008 8502 0102"},
		"stack option twice":             {"request", tos + tos},
		"stack option contradicts":       {"operation-reply", tos + "0001 0008 c101 0000"},
		"stack option for both and one":  {"request", tos + "0001 0008 4101 0000"},
		"stack option for one and both":  {"request", "0001 0008 8103 4000 0001 0008 c103 4000"},
		"offer without initial data":     {"request", "0002 0004"},
		"offer of 16385 bytes":           {"request", "0002 0008 4001 0200"},
		"two offers":                     {"request", "0002 0008 0000 0200 0002 0008 0000 0200"},
		"selection without method":       {ok, "0003 0004"},
		"selection of 12 bytes":          {ok, "0003 000c 01000000 00000000"},
		"two selections":                 {ok, "0003 0008 01000000 0003 0008 02000000"},
		"data without method":            {"request", "0004 0004"},
		"data twice for one method":      {"request", "0004 0008 02000000 0004 0008 03000000 0004 0008 02010000"},
		"reply data twice":               {ok, "0004 0008 02000000 0004 0008 02010000"},
		"session request with data":      {"request", "0005 0008 00000000"},
		"two session requests":           {"request", "0005 0004 0005 0004"},
		"session id empty":               {"request", "0006 0004"},
		"two session ids":                {"request", "0006 0008 deadbeef 0006 0008 deadbeef"},
		"two session ids in a reply":     {"operation-reply", "0006 0008 deadbeef 0006 0008 deadbeef"},
		"session request within session": {"request", "0005 0004 0006 0008 deadbeef"},
		"session ok with data":           {ok, "0008 0008 00000000"},
		"two session oks":                {ok, "0008 0004 0008 0004"},
		"session ok and invalid":         {"auth-refusal", "0008 0004 0009 0004"},
		"session invalid, but good":      {ok, "0009 0004"},
		"session invalid with data":      {"auth-refusal", "0009 0008 00000000"},
		"session ok, but bad":            {"auth-refusal", "0008 0004"},
		"teardown with data":             {"request", "0006 0008 deadbeef 000a 0008 00000000"},
		"teardown without session":       {"request", "000a 0004"},
		"request for no tokens":          {"request", "000b 0008 00000000"},
		"request for 2^31 tokens":        {"request", "000b 0008 80000000"},
		"request for tokens, no size":    {"request", "000b 0004"},
		"window of no tokens":            {ok, "000c 000c 00000064 00000000"},
		"window of 2^31 tokens":          {ok, "000c 000c 00000064 80000000"},
		"window without size":            {ok, "000c 0008 00000064"},
		"token of the figure's length":   {"request", "000d 0004"},
		"token of 12 bytes":              {"request", "000d 000c 00000064 00000000"},
		"two tokens":                     {"request", "000d 0008 00000064 000d 0008 00000065"},
		"token accepted and rejected":    {"auth-refusal", "000e 0004 000f 0004"},
		"token rejected, but good":       {ok, "000f 0004"},
		"token accepted with data":       {ok, "000e 0008 00000000"},
	} {
		_, err := read6(m.kind, bytes.NewReader(withOptions6(m.kind, unhex6(t, m.options))))
		if err == nil || errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s: %v, want a refusal", name, err)
		}
	}
}

func TestSocks6TakesOptionsAtTheirLimits(t *testing.T) {
	for name, m := range map[string]struct{ kind, options string }{
		"64 options":                    {"request", strings.Repeat("fc00 0004", 64)},
		"20 KB in one option":           {"operation-reply", "ffff 5000" + strings.Repeat("00", 20476)},
		"16384 bytes of initial data":   {"request", "0002 0008 4000 0200"},
		"one option for each leg":       {"request", "0001 0008 4101 0000 0001 0008 8101 0000"},
		"2^31-1 tokens":                 {"request", "000b 0008 7fffffff"},
		"a window across the wrap":      {"auth-reply", "000c 000c ffffffff 7fffffff"},
		"a new session for an old one":  {"request", "0005 0004 0006 0008 deadbeef 000a 0004"},
		"a token accepted, yet refused": {"auth-refusal", "000e 0004"},
	} {
		if _, err := read6(m.kind, bytes.NewReader(withOptions6(m.kind, unhex6(t, m.options)))); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSocks6DropsOptionsThatItDoesNotKnow(t *testing.T) {
	for name, m := range map[string]struct{ kind, options string }{
		"kind 0":                          {"request", "0000 0004"},
		"kind 7":                          {"request", "0007 0008 00000000"},
		"resolution request":              {"request", "0010 0004"},
		"experimental, twice":             {"request", "fc00 0008 01020304 fc00 0008 01020304"},
		"stack option of the IPv4 level":  {"request", "0001 0008 c201 0000"},
		"stack option of unknown length":  {"operation-reply", "0001 0010 053f 0000 0000000000000000"},
		"selection in a request":          {"request", "0003 0008 01000000"},
		"session ok in a request":         {"request", "0008 0004"},
		"offer in a reply":                {"auth-reply", "0002 0008 0000 0200"},
		"stack option in the first reply": {"auth-reply", "0001 0008 c101 b800"},
		"token in the last reply":         {"operation-reply", "000d 0008 00000064"},
	} {
		want, err := read6(m.kind, bytes.NewReader(withOptions6(m.kind, nil)))
		if err != nil {
			t.Fatal(err)
		}
		got, err := read6(m.kind, bytes.NewReader(withOptions6(m.kind, unhex6(t, m.options))))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, want)
		}
	}
}

func TestSocks6DropsTheMethodThatEveryoneSupports(t *testing.T) {
	q, err := ReadRequest6(bytes.NewReader(withOptions6("request", unhex6(t, "0002 000c 0000 0002 00010000"))))
	if err != nil || !bytes.Equal(q.Options.Offer.Methods, []byte{2, 1}) {
		t.Errorf("%+v, %v; want methods 2 and 1", q.Options.Offer, err)
	}
}

func TestSocks6PadsAuthenticationData(t *testing.T) {
	for n := range 9 {
		q := Request6{Command: Connect, Dst: Addr{Name: "a", Port: 1}}
		q.Options.Auth = []AuthData6{{Method: 0x80, Data: bytes.Repeat([]byte{0xff}, n)}}
		b, err := q.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ReadRequest6(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		data := got.Options.Auth[0].Data
		if len(data) > n+3 || !bytes.Equal(bytes.TrimRight(data, "\x00"), q.Options.Auth[0].Data) {
			t.Errorf("%d bytes came back as %x", n, data)
		}
	}
}

func TestSocks6PrintsNoSecrets(t *testing.T) {
	q := Request6{Options: Options6{Auth: []AuthData6{{Method: 2, Data: []byte("secret")}}}}
	for _, format := range []string{"%v", "%+v", "%s"} {
		text := fmt.Sprintf(format, q)
		if !strings.Contains(text, "method 2, 6 bytes") || strings.Contains(text, "115 101 99") || strings.Contains(text, "secret") {
			t.Errorf("%s prints %s", format, text)
		}
	}
}

func TestSocks6DoesNotEncodeBadOptions(t *testing.T) {
	stack := func(options ...StackOption6) Options6 { return Options6{Stack: options} }
	manyAuth := make([]AuthData6, 64)
	for i := range manyAuth {
		manyAuth[i].Method = byte(i)
	}
	dst := Addr{Name: "a", Port: 1}
	for name, o := range map[string]Options6{
		"no leg":              stack(StackOption6{0, StackTOS6, 0}),
		"leg 4":               stack(StackOption6{4, StackTOS6, 0}),
		"wrong leg":           stack(StackOption6{BothLegs6, StackBacklog6, 0}),
		"unknown stack kind":  stack(StackOption6{BothLegs6, 0x0105, 0}),
		"TOS 256":             stack(StackOption6{BothLegs6, StackTOS6, 256}),
		"TTL 256":             stack(StackOption6{BothLegs6, StackTTL6, 256}),
		"switch 0":            stack(StackOption6{TargetLeg6, StackMultipath6, 0}),
		"switch 3":            stack(StackOption6{TargetLeg6, StackUDPErrors6, 3}),
		"parity 3":            stack(StackOption6{TargetLeg6, StackPortParity6, 0x0300}),
		"same option twice":   stack(StackOption6{TargetLeg6, StackTTL6, 1}, StackOption6{BothLegs6, StackTTL6, 1}),
		"initial data":        {Offer: &MethodOffer6{InitialData: MaxInitialData6 + 1}},
		"too many methods":    {Offer: &MethodOffer6{Methods: make([]byte, maxOptions6)}},
		"data twice":          {Auth: []AuthData6{{Method: 2}, {Method: 2}}},
		"data of 20 KB":       {Auth: []AuthData6{{Method: 2, Data: make([]byte, maxOptions6)}}},
		"data of 64 KB":       {Auth: []AuthData6{{Method: 2, Data: make([]byte, 1<<16)}}},
		"data above 20 KB":    {Auth: []AuthData6{{2, make([]byte, 10230)}, {3, make([]byte, 10245)}}},
		"65 options":          {Auth: manyAuth, SessionRequest: true},
		"65 options at once":  {Auth: append(manyAuth, AuthData6{Method: 64})},
		"session id of 3":     {SessionID: make([]byte, 3)},
		"session id of 20 KB": {SessionID: make([]byte, maxOptions6)},
		"2^31 tokens":         {WindowRequest: 1 << 31},
		"a reply's option":    {SessionOK: true},
		"a reply's window":    {Window: &TokenWindow6{Size: 1}},
	} {
		if b, err := (Request6{Command: Connect, Dst: dst, Options: o}).AppendBinary(nil); err == nil {
			t.Errorf("%s: encoded as %x", name, b)
		}
	}
	for name, o := range map[string]Options6{
		"window of no tokens":   {Window: &TokenWindow6{Base: 1}},
		"window of 2^31 tokens": {Window: &TokenWindow6{Size: 1 << 31}},
		"a request's option":    {SessionRequest: true},
		"a request's token":     {Token: new(uint32(0))},
		"a stack option":        stack(StackOption6{BothLegs6, StackTOS6, 0}),
	} {
		if b, err := (AuthReply6{OK: true, Options: o}).AppendBinary(nil); err == nil {
			t.Errorf("%s: encoded as %x", name, b)
		}
	}
	if b, err := (OperationReply6{Options: Options6{Auth: manyAuth[:1]}}).AppendBinary(nil); err == nil {
		t.Errorf("authentication data in the last reply: encoded as %x", b)
	}
}

func TestSocks6EncodesOptionsUpToTheirLimits(t *testing.T) {
	many := make([]AuthData6, 64)
	for i := range many {
		many[i] = AuthData6{Method: byte(i), Data: []byte{1, 2, 3}}
	}
	for name, o := range map[string]Options6{
		"20 KB":      {SessionID: bytes.Repeat([]byte{1}, maxOptions6-4)},
		"64 options": {Auth: many},
	} {
		want := Request6{Command: Connect, Dst: Addr{Name: "abc", Port: 1}, Options: o}
		b, err := want.AppendBinary(nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got, err := ReadRequest6(bytes.NewReader(b)); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: came back as %+v, %v", name, got, err)
		}
	}
}
