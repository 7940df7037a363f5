package ipsec

import (
	"errors"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var gcm128 = transform{Suite: Suite{Cipher: "aes-gcm", KeyBits: 128}, iv: 8, block: 4, check: 16}

// tunnels are the associations of a tunnel between v0 and its neighbour.
func tunnels(change ...func(*state)) []state {
	return associations("10.1.0.1", "10.1.0.2", modeTunnel, change)
}

func associations(local, remote string, m mode, change []func(*state)) []state {
	l, r := netip.MustParseAddr(local), netip.MustParseAddr(remote)
	two := []state{
		{src: l, dst: r, spi: 1, reqID: 9, protocol: unix.IPPROTO_ESP, mode: m, keyed: true, cipher: gcm128, since: time.Unix(1000, 0)},
		{src: r, dst: l, spi: 2, reqID: 9, protocol: unix.IPPROTO_ESP, mode: m, keyed: true, cipher: gcm128, since: time.Unix(2000, 0)},
	}
	for i := range two {
		for _, f := range change {
			f(&two[i])
		}
	}
	return two
}

// tunnelPolicies are for both directions. Each %s is for more to select by.
func tunnelPolicies(outMore, inMore string) []string {
	return []string{
		"src 10.1.0.0/24 dst 10.2.0.0/16 " + outMore + " dir out priority 10 tmpl src 10.1.0.1 dst 10.1.0.2 proto esp reqid 9 mode tunnel",
		"src 10.2.0.0/16 dst 10.1.0.0/24 " + inMore + " dir in priority 10 tmpl src 10.1.0.2 dst 10.1.0.1 proto esp reqid 9 mode tunnel",
	}
}

func TestPathIsProtectedOnlyIfPoliciesDemandItBothWays(t *testing.T) {
	both := tunnelPolicies("", "")
	out, in := both[0], both[1]
	web := tunnelPolicies("proto tcp dport 80", "proto tcp sport 80")
	named := tunnelPolicies("proto tcp sport 22", "proto tcp dport 22")
	usual := Path{Remote: netip.MustParseAddrPort("10.2.0.7:80"), Local: netip.MustParseAddrPort("10.1.0.1:5000")}
	path := func(change func(*Path)) Path { p := usual; change(&p); return p }

	for _, c := range []struct {
		name      string
		policies  []string
		states    []state
		path      Path
		protected bool
		reason    string // a part of it
		open      bool   // IPsec of this machine has no say
	}{
		{name: "both ways", policies: both, states: tunnels(), protected: true},
		{name: "local port not known yet", policies: web, states: tunnels(), path: path(func(p *Path) { p.Local = netip.AddrPort{} }), protected: true},
		{name: "no policies", states: tunnels(), reason: "no IPsec policy", open: true},
		{name: "outward only", policies: []string{out}, states: tunnels(), reason: "incoming"},
		{name: "inward only", policies: []string{in}, states: tunnels(), reason: "outgoing", open: true},
		{name: "no associations", policies: both, reason: "no association for outgoing packets"},
		{name: "none for outgoing packets", policies: both, states: tunnels()[1:], reason: "no association for outgoing packets"},
		{name: "none for what comes", policies: both, states: tunnels()[:1], reason: "no association for incoming packets"},

		{name: "other port", policies: web, states: tunnels(), path: path(func(p *Path) { p.Remote = netip.MustParseAddrPort("10.2.0.7:81") }), reason: "no IPsec policy", open: true},
		{name: "other protocol", policies: web, states: tunnels(), path: path(func(p *Path) { p.UDP = true }), reason: "no IPsec policy", open: true},
		{name: "other network", policies: both, states: tunnels(), path: path(func(p *Path) { p.Remote = netip.MustParseAddrPort("10.1.0.2:80") }), reason: "no IPsec policy", open: true},
		{name: "port that may be another", policies: named, states: tunnels(), path: path(func(p *Path) { p.Local = netip.AddrPort{} }), reason: "no IPsec policy", open: true},
		{name: "local port that it is", policies: named, states: tunnels(), path: path(func(p *Path) { p.Local = netip.MustParseAddrPort("10.1.0.1:22") }), protected: true},
		{name: "interface that it may not take", policies: tunnelPolicies("dev v0", "dev v0"), states: tunnels(), reason: "no IPsec policy", open: true},
		{name: "mark that it has", policies: append(tunnelPolicies("", "")[1:], strings.Replace(out, "dir", "mark 5 mask 0xf dir", 1)), states: tunnels(), path: path(func(p *Path) { p.Mark = 0x15 }), protected: true},
		{name: "association for the policy's mark", policies: append(tunnelPolicies("", "")[1:], strings.Replace(out, "dir", "mark 5 mask 0xf dir", 1)), states: append(tunnels()[1:], tunnels(func(s *state) { s.mark = mark{5, 0xff} })[0]), path: path(func(p *Path) { p.Mark = 0x15 }), protected: true},
		{name: "mark that it has not", policies: append(tunnelPolicies("", "")[1:], strings.Replace(out, "dir", "mark 5 mask 0xf dir", 1)), states: tunnels(), reason: "no IPsec policy", open: true},
		{name: "mark that what comes may not have", policies: append(tunnelPolicies("", "")[:1], strings.Replace(in, "dir", "mark 5 mask 0xf dir", 1)), states: tunnels(), path: path(func(p *Path) { p.Mark = 5 }), reason: "covers incoming"},
		{name: "bypass for a mark that what comes may have", policies: append(both, "src 10.2.0.0/16 dst 10.1.0.0/24 mark 5 mask 0xf dir in priority 5"), states: tunnels(), reason: "for incoming packets does not demand"},
		{name: "of another xfrm interface", policies: []string{strings.Replace(out, "tmpl", "if_id 3 tmpl", 1), in}, states: tunnels(), reason: "no IPsec policy", open: true},

		{name: "optional", policies: []string{"src 10.1.0.1 dst 10.2.0.7 dir out tmpl proto esp reqid 9 mode transport level use", in}, states: tunnels(), reason: "does not demand", open: true},
		{name: "optional for what comes", policies: []string{out, in + " level use"}, states: tunnels(), reason: "does not demand"},
		{name: "authentication only", policies: []string{strings.Replace(out, "esp", "ah", 1), in}, states: tunnels(), reason: "does not demand", open: true},
		{name: "blocked", policies: append(both, "src 10.1.0.0/24 dst 10.2.0.0/16 proto tcp dir out action block priority 5"), states: tunnels(), reason: "blocks outgoing packets"},
		{name: "block that is not asked", policies: append(both, "src 10.1.0.0/24 dst 10.2.0.0/16 proto tcp dir out action block priority 50"), states: tunnels(), protected: true},
		{name: "bypass with the upper hand", policies: append(both, "src 10.1.0.0/24 dst 10.2.0.7/32 dir out priority 5"), states: tunnels(), reason: "does not demand", open: true},
		{name: "bypass without it", policies: append(both, "src 10.1.0.0/24 dst 10.2.0.7/32 dir out priority 11"), states: tunnels(), protected: true},
		{name: "bypass of equal priority", policies: append(both, "src 10.1.0.0/24 dst 10.2.0.7/32 dir out priority 10"), states: tunnels(), reason: "does not demand", open: true},
		{name: "bypass that may be asked", policies: append(both, "src 10.1.0.0/24 dst 10.2.0.7/32 proto tcp sport 9 dir out priority 5"), states: tunnels(), path: path(func(p *Path) { p.Local = netip.AddrPort{} }), reason: "does not demand", open: true},

		{name: "other request", policies: both, states: tunnels(func(s *state) { s.reqID = 8 }), reason: "no association for outgoing packets"},
		{name: "other mode", policies: both, states: tunnels(func(s *state) { s.mode = modeTransport }), reason: "no association for outgoing packets"},
		{name: "other gateway", policies: both, states: associations("10.1.0.1", "10.1.0.3", modeTunnel, nil), reason: "no association for outgoing packets"},
		{name: "not completed", policies: both, states: tunnels(func(s *state) { s.keyed = false }), reason: "no association for outgoing packets"},
		{name: "for another interface", policies: both, states: tunnels(func(s *state) { s.ifID = 3 }), reason: "no association for outgoing packets"},
		{name: "for another mark", policies: both, states: tunnels(func(s *state) { s.mark = mark{1, 1} }), reason: "no association for outgoing packets"},
		{name: "for the other direction", policies: both, states: tunnels(func(s *state) { s.direction = s.spi }), reason: "no association for outgoing packets"},
		{name: "for its direction", policies: both, states: tunnels(func(s *state) { s.direction = 3 - s.spi }), protected: true},
		{name: "narrower than the policy", policies: both, states: tunnels(func(s *state) {
			s.selector = selector{family: unix.AF_INET, src: netip.MustParsePrefix("10.1.0.1/32"), dst: netip.MustParsePrefix("10.2.0.8/32")}
		}), reason: "no association for outgoing packets"},
		{name: "hides nothing", policies: both, states: tunnels(func(s *state) { s.cipher = kernelTransform(algorithm{name: "ecb(cipher_null)"}, algorithm{}, false) }), reason: "encrypts with ecb(cipher_null)"},
		{name: "one of two is weak", policies: both, states: append(tunnels(), tunnels(func(s *state) { s.cipher.weakness = "it leaks" })...), reason: "it leaks"},

		{name: "transport", policies: []string{
			"src 10.1.0.1 dst 10.2.0.7 dir out tmpl proto esp reqid 9 mode transport", "src 10.2.0.7 dst 10.1.0.1 dir in tmpl proto esp reqid 9 mode transport",
		}, states: associations("10.1.0.1", "10.2.0.7", modeTransport, nil), protected: true},
		{name: "transport to another", policies: []string{
			"src 10.1.0.1 dst 10.2.0.7 dir out tmpl proto esp reqid 9 mode transport", "src 10.2.0.7 dst 10.1.0.1 dir in tmpl proto esp reqid 9 mode transport",
		}, states: associations("10.1.0.1", "10.2.0.8", modeTransport, nil), reason: "no association for outgoing packets"},
		{name: "compressed before", policies: []string{
			strings.Replace(out, "tmpl", "tmpl proto comp reqid 9 mode transport level use tmpl", 1), in,
		}, states: tunnels(), protected: true},
		{name: "IPv6", policies: []string{
			"src ::/0 dst 2001:db8::2 dir out tmpl src 10.1.0.1 dst 10.1.0.2 proto esp reqid 9 mode tunnel", "src 2001:db8::2 dst ::/0 dir in tmpl src 10.1.0.2 dst 10.1.0.1 proto esp reqid 9 mode tunnel",
		}, states: tunnels(), path: Path{Remote: netip.MustParseAddrPort("[2001:db8::2]:80")}, protected: true},
		{name: "loopback, which policies leave alone", policies: []string{
			"src 127.0.0.0/8 dst 127.0.0.0/8 dir out tmpl src 10.1.0.1 dst 10.1.0.2 proto esp reqid 9 mode tunnel", "src 127.0.0.0/8 dst 127.0.0.0/8 dir in tmpl src 10.1.0.2 dst 10.1.0.1 proto esp reqid 9 mode tunnel",
		}, states: tunnels(), path: Path{Remote: netip.MustParseAddrPort("127.0.0.1:80")}, reason: "do not count on interface lo"},
	} {
		t.Run(c.name, func(t *testing.T) {
			load(t, c.policies...)
			if c.path == (Path{}) {
				c.path = usual
			}
			got := lookWith(t, c.path, c.states)
			if got.Protected() != c.protected || !strings.Contains(got.Reason, c.reason) || (got.Reason == "") != c.protected {
				t.Errorf("%+v, not protected=%v because of %q", got.Protection, c.protected, c.reason)
			}
			if got.governed == c.open {
				t.Errorf("governed by this machine's IPsec: %v", got.governed)
			}
		})
	}
}

// lookWith looks at the kernel's policies and routes, with these associations in
// place of its own.
func lookWith(t *testing.T, p Path, states []state) sight {
	t.Helper()
	way, err := findRoute(p)
	if err != nil {
		t.Fatal(err)
	}
	db, err := readDatabase()
	if err != nil {
		t.Fatal(err)
	}
	db.states = append(db.states, states...)
	p.Local = netip.AddrPortFrom(way.source, p.Local.Port())
	got, err := lookAtPolicies(p, way, db)
	if err != nil {
		t.Fatal(err)
	}
	return got.sight
}

func TestProtectionTellsOfTheAssociations(t *testing.T) {
	load(t, tunnelPolicies("", "")...)
	states := tunnels()
	states[0].natt = true
	old := states[0]
	old.since, old.cipher.Suite = time.Unix(1, 0), Suite{Cipher: "old"}
	got := lookWith(t, Path{Remote: netip.MustParseAddrPort("10.2.0.7:80")}, append([]state{old}, states...)).Protection
	got.hold = hold{}
	want := Protection{
		Mechanism: Kernel, Mode: Tunnel, Out: gcm128.Suite, In: gcm128.Suite, NATT: true, Since: time.Unix(2000, 0), MTU: 1438,
	}
	if got != want {
		t.Errorf("%+v, not %+v", got, want)
	}
}

// The kernel's own demand is not answered by a statement.
func TestStatementDoesNotCountWhereTheKernelDecides(t *testing.T) {
	d := Detector{Networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
	p := Path{Remote: netip.MustParseAddrPort("10.2.0.7:80")}
	if got, err := d.Look(t.Context(), p); err != nil || got.Mechanism != Stated {
		t.Fatalf("%+v, %v", got, err)
	}
	load(t, tunnelPolicies("", "")...)
	if got, err := d.Look(t.Context(), p); err != nil || got.Protected() || got.Reason == "" {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestViewIsOfOneMoment(t *testing.T) {
	var d Detector
	path := Path{Remote: netip.MustParseAddrPort("10.2.0.7:80")}
	look := func(v *View) string {
		t.Helper()
		got, err := v.Look(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		return got.Reason
	}
	before := d.View()
	first := look(before)
	load(t, "src 10.1.0.0/24 dst 10.2.0.0/16 dir out action block")
	if again := look(before); again != first {
		t.Errorf("it saw %q, and then %q", first, again)
	}
	if after := look(d.View()); after == first {
		t.Errorf("after a change it sees %q still", after)
	}
}

// A look that fails shows nothing, and is no reason to believe in protection.
func TestErrorIsNoProtection(t *testing.T) {
	if out, err := exec.Command("ip", "route", "add", "blackhole", "10.9.0.0/16").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	defer ip("route del blackhole 10.9.0.0/16")
	var d Detector
	got, err := d.Look(t.Context(), Path{Remote: netip.MustParseAddrPort("10.9.0.1:80")})
	if !errors.Is(err, unix.EINVAL) || got != (Protection{}) {
		t.Errorf("%+v, %v", got, err)
	}
}

// The table of RFC 4303 with AES-GCM (RFC 4106) and a check value of 16 bytes.
func TestWhatFitsIsWhatTheKernelReckons(t *testing.T) {
	for mtu, want := range map[int][4]int{
		1500: {1446, 1438, 1426, 1418},
		1492: {1438, 1430, 1418, 1410},
		1460: {1406, 1398, 1386, 1378},
		1400: {1346, 1338, 1326, 1318},
		1280: {1226, 1218, 1206, 1198},
	} {
		got := [4]int{}
		for i, w := range []wrapping{
			{outer: sizeofIPv4}, {outer: sizeofIPv4, natt: true}, {outer: sizeofIPv6}, {outer: sizeofIPv6, natt: true},
		} {
			w.transform, w.mode = gcm128, modeTunnel
			got[i] = w.fits(mtu)
		}
		if got != want {
			t.Errorf("into %d fit %v, not %v", mtu, got, want)
		}
	}
	cbc := kernelTransform(algorithm{name: "cbc(aes)", keyBits: 128}, algorithm{name: "hmac(sha1)", checkBits: 96}, false)
	for want, w := range map[int]wrapping{
		// 1500 = 20 + 8 + 16 + 1440 + 12 + 4 that padding cannot use, 2 of the 1440 for the tail
		1438: {transform: cbc, mode: modeTunnel, outer: sizeofIPv4},
		// 1500 = 20 + 8 + 8 + 1448 + 16, 2 of the 1448 for the tail, and the header again
		1466: {transform: gcm128, mode: modeTransport, outer: sizeofIPv4},
	} {
		if got := w.fits(1500); got != want {
			t.Errorf("into 1500 fit %d, not %d: %+v", got, want, w)
		}
	}
}

func TestWeakSuitesAreKnown(t *testing.T) {
	sha := algorithm{name: "hmac(sha256)", checkBits: 128}
	for _, c := range []struct {
		cipher, integrity algorithm
		aead              bool
		want              string
	}{
		{algorithm{name: "rfc7539esp(chacha20,poly1305)", keyBits: 288, checkBits: 128}, algorithm{}, true, "chacha20-poly1305-256"},
		{algorithm{name: "rfc4309(ccm(aes))", keyBits: 152, checkBits: 64}, algorithm{}, true, "aes-ccm-128"},
		{algorithm{name: "cbc(aes)", keyBits: 256}, sha, false, "aes-cbc-256+hmac-sha256-128"},
		{algorithm{name: "rfc3686(ctr(aes))", keyBits: 160}, algorithm{name: "cmac(aes)", checkBits: 96}, false, "aes-ctr-128+cmac-aes-96"},
		{algorithm{name: "cbc(aes)", keyBits: 256}, algorithm{}, false, ""},
		{algorithm{name: "cbc(aes)", keyBits: 256}, algorithm{name: "digest_null", checkBits: 128}, false, ""},
		{algorithm{name: "cbc(aes)", keyBits: 256}, sha, true, ""},
		{algorithm{name: "rfc4543(gcm(aes))", keyBits: 160, checkBits: 128}, algorithm{}, true, ""},
		{algorithm{name: "cbc(des)", keyBits: 64}, sha, false, ""},
		{algorithm{name: "ecb(cipher_null)"}, sha, false, ""},
		{algorithm{}, sha, false, ""},
	} {
		got := kernelTransform(c.cipher, c.integrity, c.aead)
		if sound := got.weakness == ""; sound != (c.want != "") || sound && got.String() != c.want {
			t.Errorf("%v and %v are %v (%s), not %q", c.cipher, c.integrity, got.Suite, got.weakness, c.want)
		}
	}
}
