package socks

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// headers5 are headers of SOCKS 5 datagrams, and what they say.
var headers5 = []struct {
	header string
	frag   byte
	to     string
}{
	{"0000 00 01 c0000235 0035", 0, "192.0.2.53:53"},
	{"0000 00 03 0b 6578616d706c652e636f6d 0035", 0, "example.com:53"},
	{"0000 00 04 20010db8000000000000000000000053 0035", 0, "[2001:db8::53]:53"},
	{"0000 01 01 c0000235 0035", 1, "192.0.2.53:53"},
	{"0000 82 01 c0000235 0035", 0x82, "192.0.2.53:53"},
	{"0000 00 03 0a 3139322e302e322e3533 0035", 0, "192.0.2.53:53"},               // many apps
	{"0000 00 03 0c 323030313a6462383a3a3533 0035", 0, "[2001:db8::53]:53"},       // the same
	{"0000 00 04 00000000000000000000ffffc0000235 0035", 0, "192.0.2.53:53"},      // an IPv6 socket's word for it
	{"0000 00 03 11 3a3a666666663a3139322e302e322e3533 0035", 0, "192.0.2.53:53"}, // the same in text
	{"ffff 00 01 c0000235 0035", 0, "192.0.2.53:53"},                              // as in requests, what is reserved does not matter
	{"0000 ff 01 c0000235 ffff", 0xff, "192.0.2.53:65535"},
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatalf("%q: %v", s, err)
	}
	return b
}

func TestHeadersOfDatagramsAreRead(t *testing.T) {
	for _, h := range headers5 {
		header := unhex(t, h.header)
		for _, payload := range []string{"", "x", strings.Repeat("y", maxUDP-len(header))} {
			frag, d, err := cutUDP5(append(slices.Clone(header), payload...))
			if err != nil || frag != h.frag || d.Addr.String() != h.to || string(d.Payload) != payload {
				t.Errorf("%s with %d bytes: frag %#x to %v with %d bytes, %v", h.header, len(payload), frag, d.Addr, len(d.Payload), err)
			}
		}
	}
}

func TestShortDatagramsAreNone(t *testing.T) {
	for _, h := range headers5 {
		header := unhex(t, h.header)
		for n := range header {
			if _, d, err := cutUDP5(header[:n]); err == nil {
				t.Errorf("%x is a datagram to %v", header[:n], d.Addr)
			}
		}
	}
}

func TestDatagramsWithBadHeadersAreNone(t *testing.T) {
	for _, bad := range []string{
		"0000 00 00 c0000235 0035",                // address type
		"0000 00 02 c0000235 0035",                // the same
		"0000 00 05 c0000235 0035",                // the same
		"0000 00 03 00 0035",                      // no name
		"0000 00 03 03 610062 0035",               // NUL in a name
		"0000 00 03 03 612062 0035",               // space in a name
		"0000 00 03 0a 666538303a3a31253130 0035", // zone
		"0000 80 01 c0000235 0035",                // the last fragment, but of position 0
		"0000 00 03 ff 6161 0035",                 // a name longer than the packet
	} {
		if _, d, err := cutUDP5(unhex(t, bad)); err == nil {
			t.Errorf("%s is a datagram to %v", bad, d.Addr)
		}
	}
}

func TestHeadersTowardsAppsHaveIPAddresses(t *testing.T) {
	for from, want := range map[string]string{
		"192.0.2.53:53":          "0000 00 01 c0000235 0035",
		"[2001:db8::53]:53":      "0000 00 04 20010db8000000000000000000000053 0035",
		"[::ffff:192.0.2.53]:53": "0000 00 01 c0000235 0035",
	} {
		if got := appendUDP5(nil, netip.MustParseAddrPort(from)); !bytes.Equal(got, unhex(t, want)) {
			t.Errorf("header from %s: %x, want %s", from, got, want)
		}
	}
}

// FuzzUDP5 checks headers that parse by writing them again.
func FuzzUDP5(f *testing.F) {
	for _, h := range headers5 {
		f.Add(append(unhex(f, h.header), "payload"...))
	}
	f.Fuzz(func(t *testing.T, packet []byte) {
		_, d, err := cutUDP5(packet)
		if err != nil {
			return
		}
		if again, err := ParseAddr(d.Addr.String()); err != nil || again != d.Addr {
			t.Errorf("%x goes to %q: %v", packet, d.Addr, err)
		}
		header := packet[:len(packet)-len(d.Payload)]
		if !bytes.HasSuffix(packet, d.Payload) || packet[3] == typeNameIn5 && len(header) != 7+int(packet[4]) {
			t.Errorf("%x has a header of %d bytes", packet, len(header))
		}
		if packet[3] != typeNameIn5 && !d.Addr.IP.Is4() || packet[3] == typeIPv4in5 {
			again := appendUDP5(nil, netip.AddrPortFrom(d.Addr.IP, d.Addr.Port))
			if !bytes.Equal(again[3:], header[3:]) {
				t.Errorf("%x is written again as %x", header, again)
			}
		}
	})
}

// fragment is one step of a test of reassembly.
type fragment struct {
	after time.Duration // since the step before
	frag  byte
	to    Addr
	data  string
	whole string // what comes out of it; "-" is nothing
}

var (
	here  = Addr{IP: netip.MustParseAddr("192.0.2.53"), Port: 53}
	there = Addr{Name: "example.com", Port: 53}
)

func TestFragmentsAreReassembled(t *testing.T) {
	long := strings.Repeat("l", 60000)
	for name, steps := range map[string][]fragment{
		"in order":                   {{0, 1, here, "AB", "-"}, {0, 0x82, here, "CD", "ABCD"}},
		"to a name":                  {{0, 1, there, "AB", "-"}, {0, 2, there, "", "-"}, {0, 0x83, there, "CD", "ABCD"}},
		"a sequence of one":          {{0, 0x81, here, "AB", "AB"}},
		"an empty sequence of one":   {{0, 0x81, here, "", ""}},
		"whole datagrams":            {{0, 0, here, "AB", "AB"}, {0, 0, there, "", ""}},
		"twice":                      {{0, 1, here, "AB", "-"}, {0, 0x82, here, "CD", "ABCD"}, {0, 1, here, "ab", "-"}, {0, 0x82, here, "cd", "abcd"}},
		"no first one":               {{0, 2, here, "AB", "-"}, {0, 0x83, here, "CD", "-"}},
		"a gap":                      {{0, 1, here, "AB", "-"}, {0, 3, here, "CD", "-"}, {0, 2, here, "EF", "-"}, {0, 0x84, here, "GH", "-"}},
		"a duplicate":                {{0, 1, here, "AB", "-"}, {0, 1, here, "AB", "-"}, {0, 0x82, here, "CD", "ABCD"}},
		"a duplicate of the last":    {{0, 1, here, "AB", "-"}, {0, 0x82, here, "CD", "ABCD"}, {0, 0x82, here, "CD", "-"}},
		"a first one begins again":   {{0, 1, here, "AB", "-"}, {0, 1, here, "ab", "-"}, {0, 0x82, here, "cd", "abcd"}},
		"to another address":         {{0, 1, here, "AB", "-"}, {0, 1, there, "ab", "-"}, {0, 0x82, there, "cd", "abcd"}},
		"a sequence of one after":    {{0, 1, here, "AB", "-"}, {0, 0x81, here, "ab", "ab"}},
		"a lower one begins again":   {{0, 1, here, "AB", "-"}, {0, 2, here, "CD", "-"}, {0, 1, here, "ab", "-"}, {0, 0x82, here, "cd", "abcd"}},
		"a lower one ends it":        {{0, 1, here, "A", "-"}, {0, 2, here, "B", "-"}, {0, 3, here, "C", "-"}, {0, 2, here, "b", "-"}, {0, 0x84, here, "D", "-"}},
		"a whole one ends it":        {{0, 1, here, "AB", "-"}, {0, 0, here, "x", "x"}, {0, 0x82, here, "CD", "-"}},
		"the last without position":  {{0, 1, here, "AB", "-"}, {0, 0x80, here, "x", "-"}, {0, 0x82, here, "CD", "ABCD"}},
		"another address":            {{0, 1, here, "AB", "-"}, {0, 0x82, there, "CD", "-"}, {0, 0x82, here, "CD", "-"}},
		"just in time":               {{0, 1, here, "AB", "-"}, {5*time.Second - 1, 0x82, here, "CD", "ABCD"}},
		"too late":                   {{0, 1, here, "AB", "-"}, {fragmentTimeout, 0x82, here, "CD", "-"}},
		"too late all in all":        {{0, 1, here, "AB", "-"}, {3 * time.Second, 2, here, "CD", "-"}, {3 * time.Second, 0x83, here, "EF", "-"}},
		"as long as can be":          {{0, 1, here, long, "-"}, {0, 0x82, here, long[:5507], long + long[:5507]}},
		"longer than a datagram":     {{0, 1, here, long, "-"}, {0, 2, here, long[:5508], "-"}, {0, 0x83, here, "", "-"}},
		"a new one after a long one": {{0, 1, here, long, "-"}, {0, 2, here, long, "-"}, {0, 1, here, "A", "-"}, {0, 0x82, here, "B", "AB"}},
	} {
		t.Run(name, func(t *testing.T) {
			desk := new(udpDesk)
			q := reassembly{desk: desk}
			now := time.Unix(1000, 0)
			for i, s := range steps {
				now = now.Add(s.after)
				d, ok := q.add(now, s.frag, Datagram{s.to, []byte(s.data)})
				switch {
				case ok != (s.whole != "-"):
					t.Fatalf("step %d: %v with %d bytes, want %q", i, ok, len(d.Payload), s.whole)
				case ok && (string(d.Payload) != s.whole || d.Addr != s.to):
					t.Fatalf("step %d: %d bytes to %v, want %q", i, len(d.Payload), d.Addr, s.whole)
				}
			}
			q.drop()
			if n := desk.unfinished.Load(); n != 0 {
				t.Errorf("%d bytes are still counted", n)
			}
		})
	}
}

func TestAllPositionsOfFragmentsCount(t *testing.T) {
	var q reassembly
	var want []byte
	for i := byte(1); i < 127; i++ {
		want = append(want, i)
		if _, ok := q.add(time.Time{}, i, Datagram{here, []byte{i}}); ok {
			t.Fatalf("the datagram is whole at %d", i)
		}
	}
	d, ok := q.add(time.Time{}, 0xff, Datagram{here, []byte{127}})
	if !ok || !bytes.Equal(d.Payload, append(want, 127)) {
		t.Errorf("%x, %v", d.Payload, ok)
	}
}

func TestUnfinishedDatagramsOfAListenerHaveALimit(t *testing.T) {
	desk := new(udpDesk)
	queues := make([]reassembly, maxUnfinished/maxUDP+1)
	taken := 0
	for i := range queues {
		queues[i].desk = desk
		queues[i].add(time.Time{}, 1, Datagram{here, make([]byte, maxUDP)})
		taken += len(queues[i].data)
	}
	if taken > maxUnfinished || taken != len(queues[1:])*maxUDP {
		t.Errorf("%d bytes wait in %d queues", taken, len(queues))
	}
	for i := range queues {
		queues[i].drop()
	}
	if n := desk.unfinished.Load(); n != 0 {
		t.Errorf("%d bytes are counted when nothing waits", n)
	}
}

// FuzzReassembly checks that what comes out is made of fragments 1, 2, 3 and so on to a
// last one, of one address, in time, and that all such runs come out.
func FuzzReassembly(f *testing.F) {
	f.Add([]byte{1, 0, 0x82, 0})
	f.Add([]byte{1, 0, 1, 0, 2, 1, 0x83, 0, 0, 0})
	f.Add([]byte{1, 0, 2, 0, 0x83, 0x40, 1, 0, 0x82, 0x80})
	f.Fuzz(func(t *testing.T, script []byte) {
		var q reassembly
		var run []byte // what a datagram would have to be made of, by the plainest reading
		var began time.Time
		to := here
		now := time.Unix(1000, 0)
		for i := 0; i+1 < len(script); i += 2 {
			frag, address := script[i], here
			if script[i+1]&1 != 0 {
				address = there
			}
			now = now.Add(time.Duration(script[i+1]>>6) * 2 * time.Second)
			d, ok := q.add(now, frag, Datagram{address, []byte{byte(i)}})
			if frag == 0 {
				if run = nil; !ok || len(d.Payload) != 1 || d.Payload[0] != byte(i) {
					t.Fatalf("whole datagram: %v, %v", d, ok)
				}
				continue
			}
			if len(run) > 0 && now.Sub(began) >= fragmentTimeout {
				run = nil
			}
			position := int(frag & 0x7f)
			whole := false
			switch {
			case position == 0 || position == len(run) && position > 1:
			case position == 1:
				run, began, to, whole = []byte{byte(i)}, now, address, frag == 0x81
			case position == len(run)+1 && address == to:
				run, whole = append(run, byte(i)), frag&0x80 != 0
			default:
				run = nil
			}
			if ok != whole || ok && (!bytes.Equal(d.Payload, run) || d.Addr != to) {
				t.Fatalf("%x at %d: %v, %v, want %x, %v", script, i, d, ok, run, whole)
			}
			if whole {
				run = nil
			}
		}
	})
}
