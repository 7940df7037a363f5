package tlslink

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"testing"
	"testing/iotest"
)

func TestFlightIsHTTP2(t *testing.T) {
	b := flight(opening())
	want := preface +
		"\x00\x00\x18\x04\x00\x00\x00\x00\x00" + string(chromeSettings) +
		"\x00\x01\x00\xad\x00\x00\x00\x00\x00" + string(opening()) +
		"\x00\x00\x08\x06\x00\x00\x00\x00\x00"
	if len(b) != len(want)+pingSize || string(b[:len(want)]) != want {
		t.Errorf("the flight is %q", b)
	}
	if bytes.Equal(b, flight(opening())) {
		t.Error("the ping is always the same")
	}
}

// scanAll runs scan over b as the tap does, and tells how much it looked at.
func scanAll(b []byte) (opening []byte, looked int) {
	for {
		more, opening := scan(b[:looked])
		if more == 0 {
			return opening, looked
		}
		if looked += more; looked > len(b) {
			return nil, len(b)
		}
	}
}

func TestScanFindsAnOpeningOnlyWhereItBelongs(t *testing.T) {
	settings := appendFrame(nil, frameSettings, chromeSettings)
	ours := appendFrame(nil, frameExtension, opening())
	join := func(parts ...[]byte) []byte { return slices.Concat(append([][]byte{[]byte(preface)}, parts...)...) }
	change := func(b []byte, at int, to byte) []byte {
		b = bytes.Clone(b)
		b[at] = to
		return b
	}
	for name, b := range map[string][]byte{
		"a flight":                flight(opening()),
		"empty SETTINGS":          join(appendFrame(nil, frameSettings, nil), ours),
		"long SETTINGS":           join(appendFrame(nil, frameSettings, make([]byte, maxSettings)), ours),
		"the reserved bit is set": join(settings, change(ours, 5, 0x80)),
	} {
		got, looked := scanAll(b)
		if !bytes.Equal(got, opening()) {
			t.Errorf("%s: not found", name)
		}
		if end := bytes.LastIndex(b, opening()) + OpeningSize; looked != end {
			t.Errorf("%s: looked at %d bytes, the opening ends at %d", name, looked, end)
		}
	}
	for name, b := range map[string][]byte{
		"nothing":               nil,
		"another preface":       change(flight(opening()), 3, 'x'),
		"no SETTINGS":           join(ours),
		"acknowledged SETTINGS": join(change(settings, 4, flagAck), ours),
		"SETTINGS on a stream":  join(change(settings, 8, 1), ours),
		"too long SETTINGS":     join(appendFrame(nil, frameSettings, make([]byte, maxSettings+1)), ours),
		"a PING before":         join(settings, appendFrame(nil, framePing, make([]byte, 8)), ours),
		"SETTINGS twice":        join(settings, settings, ours),
		"another type":          join(settings, change(ours, 3, 0xae)),
		"a flag":                join(settings, change(ours, 4, 1)),
		"a stream":              join(settings, change(ours, 8, 1)),
		"too short":             join(settings, appendFrame(nil, frameExtension, make([]byte, OpeningSize-1))),
		"too long":              join(settings, appendFrame(nil, frameExtension, make([]byte, OpeningSize+1))),
		"cut off":               join(settings, ours[:len(ours)-1]),
	} {
		if got, _ := scanAll(b); got != nil {
			t.Errorf("%s: found", name)
		}
	}
}

func FuzzScan(f *testing.F) {
	f.Add(flight(opening()))
	f.Add([]byte(preface))
	f.Add(slices.Concat([]byte(preface), appendFrame(nil, frameSettings, nil), appendFrame(nil, frameExtension, opening())))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, looked := scanAll(b)
		if looked > len(preface)+2*frameHeader+maxSettings+OpeningSize {
			t.Fatalf("looked at %d bytes", looked)
		}
		if got == nil {
			return
		}
		if len(got) != OpeningSize || !bytes.HasSuffix(b[:looked], got) || !bytes.HasPrefix(b, []byte(preface)) {
			t.Fatalf("found %x in %x", got, b)
		}
	})
}

func TestAnswerIsFoundBehindHTTP2Frames(t *testing.T) {
	frames := slices.Concat(
		appendFrame(nil, frameSettings, make([]byte, 36)),
		appendFrame(nil, 8, make([]byte, 4)),
		[]byte{0, 0, 0, frameSettings, flagAck, 0, 0, 0, 0},
		appendFrame(nil, framePing, make([]byte, 8)), // a PING of the server's own
		appendFrame(nil, frameExtension, answer()),
		[]byte("session"),
	)
	for name, split := range map[string]func(io.Reader) io.Reader{
		"at once": func(r io.Reader) io.Reader { return r },
		"by byte": iotest.OneByteReader,
	} {
		r := bytes.NewReader(frames)
		got, err := readAnswer(split(r))
		if err != nil || !bytes.Equal(got, answer()) {
			t.Errorf("%s: %x, %v", name, got, err)
		}
		if rest, _ := io.ReadAll(r); string(rest) != "session" {
			t.Errorf("%s: the session gets %q", name, rest)
		}
	}
}

func TestWhatIsNoAnswerIsToldApart(t *testing.T) {
	many := bytes.Repeat(appendFrame(nil, frameSettings, nil), maxFrames)
	for name, c := range map[string]struct {
		sent    []byte
		website bool
	}{
		"the ping's acknowledgement": {[]byte{0, 0, 8, framePing, flagAck, 0, 0, 0, 0}, true},
		"GOAWAY":                     {[]byte{0, 0, 8, frameGoAway, 0, 0, 0, 0, 0}, true},
		"HTTP/1.1":                   {[]byte("HTTP/1.1 400 Bad Request\r\n\r\n"), true},
		"nothing":                    {nil, false},
		"half a header":              {[]byte{0, 0, 8}, false},
		"half an answer":             {appendFrame(nil, frameExtension, answer())[:40], false},
		"half a frame":               {appendFrame(nil, frameSettings, make([]byte, 36))[:20], false},
		"too many frames":            {append(many, appendFrame(nil, frameExtension, answer())...), false},
		"a huge frame":               {append([]byte{0xff, 0xff, 0xff, frameSettings, 0, 0, 0, 0, 0}, make([]byte, 1<<17)...), false},
		"another length":             {appendFrame(nil, frameExtension, answer()[1:]), false},
	} {
		got, err := readAnswer(bytes.NewReader(c.sent))
		if err == nil || errors.Is(err, ErrWebsite) != c.website {
			t.Errorf("%s: %x, %v", name, got, err)
		}
	}
	r := bytes.NewReader(append(many[frameHeader:], appendFrame(nil, frameExtension, answer())...))
	if _, err := readAnswer(r); err != nil {
		t.Errorf("as many frames as are allowed: %v", err)
	}
}

func FuzzReadAnswer(f *testing.F) {
	f.Add(appendFrame(nil, frameExtension, answer()))
	f.Add([]byte{0, 0, 8, framePing, flagAck, 0, 0, 0, 0})
	f.Add(appendFrame(appendFrame(nil, frameSettings, nil), frameExtension, answer()))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		got, err := readAnswer(r)
		read := len(b) - r.Len()
		if read > maxSkipped+maxFrames*frameHeader+AnswerSize {
			t.Fatalf("read %d bytes", read)
		}
		if (err == nil) != (len(got) == AnswerSize) || err == nil && !bytes.HasSuffix(b[:read], got) {
			t.Fatalf("%x, %v", got, err)
		}
	})
}
