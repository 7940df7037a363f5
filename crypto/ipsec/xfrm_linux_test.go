package ipsec

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"os"
	"os/exec"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// recorded are the associations in testdata, by their commands. The kernel of the
// machine that tests may have no ESP to load them into.
func recorded(t testing.TB) map[string][]byte {
	t.Helper()
	text, err := os.ReadFile("testdata/associations.txt")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]byte{}
	for part := range strings.SplitSeq(string(text), "\n\n") {
		command, digits, _ := strings.Cut(part, "\n")
		if strings.HasPrefix(command, "#") {
			continue
		}
		b, err := hex.DecodeString(strings.ReplaceAll(digits, "\n", ""))
		if err != nil {
			t.Fatal(err)
		}
		all[command] = b
	}
	return all
}

func TestAssociationIsReadAsItWasWritten(t *testing.T) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Log("the recorded associations are of a little-endian machine")
		return
	}
	addr, prefix := netip.MustParseAddr, netip.MustParsePrefix
	want := map[string]state{
		"0x1001": {
			src: addr("10.1.0.1"), dst: addr("10.1.0.2"), spi: 0x1001, reqID: 9, protocol: 50, mode: modeTunnel, keyed: true,
			cipher: transform{Suite: Suite{Cipher: "aes-gcm", KeyBits: 128}, iv: 8, block: 4, check: 16},
		},
		"0x1002": {
			selector: selector{
				family: unix.AF_INET6, src: prefix("2001:db8::1/128"), dst: prefix("2001:db8::2/128"), dstPort: 443, dstMask: 0xffff, protocol: 6,
			},
			mark: mark{3, 0xff}, ifID: 5,
			src: addr("2001:db8::1"), dst: addr("2001:db8::2"), spi: 0x1002, reqID: 7, protocol: 50, mode: modeTransport, keyed: true,
			cipher: transform{Suite: Suite{Cipher: "aes-cbc", KeyBits: 256, Integrity: "hmac-sha256-128"}, iv: 16, block: 16, check: 16},
		},
		"0x1003": {
			src: addr("10.1.0.1"), dst: addr("10.1.0.2"), spi: 0x1003, protocol: 50, mode: modeTunnel, natt: true, keyed: true,
			cipher: transform{Suite: Suite{Cipher: "ecb(cipher_null)"}, weakness: "it encrypts with ecb(cipher_null)"},
		},
	}
	for command, b := range recorded(t) {
		got, err := parseState(b)
		if err != nil {
			t.Errorf("%s: %v", command, err)
			continue
		}
		_, spi, _ := strings.Cut(command, " spi ")
		spi, _, _ = strings.Cut(spi, " ")
		w := want[spi]
		w.since = time.Unix(0, 0)
		if !reflect.DeepEqual(got, w) {
			t.Errorf("%s is read as\n%+v, not as\n%+v", command, got, w)
		}
		delete(want, spi)
	}
	if len(want) > 0 {
		t.Errorf("not recorded: %v", want)
	}
}

func TestPoliciesAreReadFromTheKernel(t *testing.T) {
	load(t,
		"src 10.1.0.0/24 dst 10.2.0.0/16 sport 7 proto tcp dport 80 dir out priority 5 if_id 7 mark 3 mask 0xff"+
			" tmpl src 10.1.0.1 dst 10.1.0.2 proto esp reqid 9 mode tunnel level required tmpl proto comp mode transport level use",
		"src 2001:db8::/32 dst ::/0 dir in action block priority 6",
		"src 10.1.0.0/24 dst 10.2.0.0/16 dir fwd tmpl proto esp mode transport",
	)
	db, err := readDatabase()
	if err != nil {
		t.Fatal(err)
	}
	// The kernel tells of the newest first.
	want := []policy{
		{
			selector: selector{family: unix.AF_INET6, src: netip.MustParsePrefix("2001:db8::/32"), dst: netip.MustParsePrefix("::/0")},
			dir:      inward, priority: 6, block: true,
		},
		{
			selector: selector{
				family: unix.AF_INET, src: netip.MustParsePrefix("10.1.0.0/24"), dst: netip.MustParsePrefix("10.2.0.0/16"),
				srcPort: 7, srcMask: 0xffff, dstPort: 80, dstMask: 0xffff, protocol: 6,
			},
			mark: mark{3, 0xff}, ifID: 7, dir: outward, priority: 5,
			templates: []template{
				{src: netip.MustParseAddr("10.1.0.1"), dst: netip.MustParseAddr("10.1.0.2"), reqID: 9, protocol: 50, mode: modeTunnel},
				{protocol: 108, mode: modeTransport, optional: true},
			},
		},
	}
	if !reflect.DeepEqual(db.policies, want) {
		t.Errorf("the kernel has\n%+v, not\n%+v", db.policies, want)
	}
}

// An association that IKE has not completed yet has a number and no key.
func TestAssociationWithoutKeyIsNone(t *testing.T) {
	out, err := exec.Command("ip", "xfrm", "state", "allocspi", "src", "10.1.0.1", "dst", "10.1.0.2", "proto", "esp", "mode", "transport").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	defer ip("xfrm state flush")
	db, err := readDatabase()
	if err != nil {
		t.Fatal(err)
	}
	if len(db.states) != 1 || db.states[0].keyed || db.states[0].spi == 0 {
		t.Fatalf("the kernel has %+v", db.states)
	}
	p := packet{src: netip.MustParseAddrPort("10.1.0.1:1"), dst: netip.MustParseAddrPort("10.1.0.2:2"), protocol: 6}
	s, want := db.states[0], &template{protocol: 50, mode: modeTransport}
	if s.serves(outward, want, p) {
		t.Error("an association without a key serves")
	}
	if s.keyed = true; !s.serves(outward, want, p) {
		t.Error("it would not serve with a key either, so the test shows nothing")
	}
}

func FuzzDatabase(f *testing.F) {
	for _, b := range recorded(f) {
		f.Add(uint16(xfrmNewState), b)
		f.Add(uint16(xfrmNewPolicy), b)
	}
	f.Add(uint16(unix.RTM_NEWLINK), make([]byte, 40))
	f.Add(uint16(unix.RTM_NEWROUTE), make([]byte, 40))
	f.Fuzz(func(t *testing.T, kind uint16, b []byte) {
		_, _ = parseLink(b)
		_, _ = new(route).read(b)
		_, _ = readAnswer(b, func(uint16, []byte) error { return nil })
		var db database
		if err := db.add(kind, b); err != nil {
			if len(db.policies)+len(db.states) > 0 {
				t.Errorf("%v, and still %+v", err, db)
			}
			return
		}
		for _, from := range []string{"10.1.0.1:5", "[2001:db8::1]:5"} {
			p := packet{src: netip.MustParseAddrPort(from), dst: netip.MustParseAddrPort(from), protocol: 6}
			for _, dir := range []direction{inward, outward} {
				if r := db.rule(dir, p); r.reason == "" && len(r.states) == 0 {
					t.Errorf("protected by nothing: %+v", db)
				}
			}
		}
		for i := range db.states {
			s := &db.states[i]
			w := wrapping{transform: s.cipher, mode: s.mode, outer: sizeofIPv4, natt: s.natt, other: s.otherWrap}
			if fits := w.fits(1500); fits < 0 || fits >= 1500 {
				t.Errorf("%d bytes fit into 1500: %+v", fits, w)
			}
		}
	})
}
