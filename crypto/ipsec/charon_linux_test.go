package ipsec

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// message builds one from lines: "name {", "}", "key=value", "list[item,item]".
func message(lines ...string) []byte {
	var b []byte
	short := func(kind byte, s string) { b = append(append(b, kind, byte(len(s))), s...) }
	long := func(s string) { b = append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...) }
	for _, l := range lines {
		if name, ok := strings.CutSuffix(l, " {"); ok {
			short(viciSectionStart, name)
		} else if l == "}" {
			b = append(b, viciSectionEnd)
		} else if key, value, ok := strings.Cut(l, "="); ok {
			short(viciKeyValue, key)
			long(value)
		} else {
			name, items, _ := strings.Cut(strings.TrimSuffix(l, "]"), "[")
			short(viciListStart, name)
			for item := range strings.SplitSeq(items, ",") {
				b = append(b, viciListItem)
				long(item)
			}
			b = append(b, viciListEnd)
		}
	}
	return b
}

// sa is what list-sas tells of one, with these changes to its child.
func sa(changes ...string) []byte {
	values := []string{
		"state=INSTALLED", "mode=TUNNEL", "protocol=ESP", "encap=yes", "spi-in=00000002", "spi-out=00000001",
		"encr-alg=AES_GCM_16", "encr-keysize=128", "install-time=7", "local-ts[10.1.0.0/24]", "remote-ts[10.2.0.0/16,10.3.0.1/32]",
	}
	for _, c := range changes {
		key, _, _ := strings.Cut(c, "=")
		values = slices.DeleteFunc(values, func(v string) bool { return strings.HasPrefix(v, key+"=") })
		values = append(values, c)
	}
	lines := append([]string{"t {", "remote-host=10.1.0.2", "remote-id=there.test", "child-sas {", "c-1 {"}, values...)
	return message(append(lines, "}", "}", "}")...)
}

func TestCharonsChildrenAreReadIfTheyAreInUse(t *testing.T) {
	now := time.Unix(1000, 0)
	p := Path{Local: netip.MustParseAddrPort("10.1.0.1:5000"), Remote: netip.MustParseAddrPort("10.3.0.1:80")}
	for _, c := range []struct {
		message []byte
		want    string // the suite; "!" before a weak one; empty for none
	}{
		{sa(), "aes-gcm-128"},
		{sa("state=REKEYING"), "aes-gcm-128"},
		{sa("state=REKEYED"), ""},
		{sa("state=DELETING"), ""},
		{sa("protocol=AH"), ""},
		{sa("encr-alg=AES_GCM_8", "encr-keysize=256"), "aes-gcm-256"},
		{sa("encr-alg=CHACHA20_POLY1305", "encr-keysize="), "chacha20-poly1305-256"},
		{sa("encr-alg=AES_CBC", "integ-alg=HMAC_SHA2_256_128"), "aes-cbc-128+hmac-sha256-128"},
		{sa("encr-alg=AES_CBC", "integ-alg=HMAC_SHA1_96"), "aes-cbc-128+hmac-sha1-96"},
		{sa("encr-alg=AES_CTR", "integ-alg=AES_XCBC_96"), "aes-ctr-128+xcbc-aes-96"},
		{sa("encr-alg=AES_CBC"), "!aes-cbc-128"},
		{sa("encr-alg=NULL", "integ-alg=HMAC_SHA1_96"), "!NULL"},
		{sa("encr-alg=NULL_AES_GMAC"), "!NULL_AES_GMAC"},
		{sa("encr-keysize=many"), "!aes-gcm"},
	} {
		m, err := parseMessage(c.message)
		if err != nil || len(m.parts) != 1 {
			t.Fatalf("%q: %v", c.message, err)
		}
		got := ""
		for _, child := range children(&m.parts[0].section, now) {
			got = child.transform.String()
			if child.transform.weakness != "" {
				got = "!" + got
			}
			if !child.covers(p) || !child.since.Equal(time.Unix(993, 0)) || child.peer != "there.test" || !child.natt || child.mode != Tunnel || child.spiOut != 1 {
				t.Errorf("%+v", child)
			}
		}
		if got != c.want {
			t.Errorf("%q, not %q, in %q", got, c.want, c.message)
		}
	}
}

func TestPeerIsWhoProvedIt(t *testing.T) {
	for want, ike := range map[string]map[string]string{
		"there.test": {"remote-id": "there.test"},
		"alice":      {"remote-id": "10.0.0.7", "remote-eap-id": "alice"},
		"bob":        {"remote-id": "group", "remote-xauth-id": "bob"},
	} {
		if got := peerOf(&section{values: ike}); got != want {
			t.Errorf("%v is %q, not %q", ike, got, want)
		}
	}
}

func TestTrafficSelectorCoversWhatItSays(t *testing.T) {
	for _, c := range []struct {
		text, end string
		protocol  uint8
		want      bool
	}{
		{"10.1.0.0/16", "10.1.255.255:80", 6, true},
		{"10.1.0.0/16", "10.2.0.0:80", 6, false},
		{"10.1.0.0/16", "[::ffff:10.1.0.0]:80", 6, false},
		{"0.0.0.0/0", "255.255.255.255:0", 17, true},
		{"10.1.0.1", "10.1.0.1:80", 6, true},
		{"10.1.0.3..10.1.0.9", "10.1.0.9:80", 6, true},
		{"10.1.0.3..10.1.0.9", "10.1.0.2:80", 6, false},
		{"10.1.0.1/32[tcp]", "10.1.0.1:80", 6, true},
		{"10.1.0.1/32[tcp]", "10.1.0.1:80", 17, false},
		{"10.1.0.1/32[tcp/http]", "10.1.0.1:80", 6, true},
		{"10.1.0.1/32[tcp/http]", "10.1.0.1:0", 6, false},
		{"10.1.0.1/32[tcp/http-alt]", "10.1.0.1:8080", 6, true},
		{"10.1.0.1/32[udp/100-200]", "10.1.0.1:150", 17, true},
		{"10.1.0.1/32[udp/100-200]", "10.1.0.1:201", 17, false},
		{"10.1.0.1/32[0/80]", "10.1.0.1:80", 6, true},
		{"10.1.0.1/32[17]", "10.1.0.1:80", 17, true},
		{"10.1.0.1/32[gre]", "10.1.0.1:80", 17, false},
		{"10.1.0.1/32[tcp/OPAQUE]", "10.1.0.1:80", 6, false},
		{"10.1.0.1/32[tcp/80", "10.1.0.1:80", 6, false},
		{"10.1.0.1/32[tcp/]", "10.1.0.1:0", 6, false},
		{"dynamic", "10.1.0.1:80", 6, false},
		{"2001:db8::/32", "[2001:db8:ffff::1]:80", 6, true},
		{"2001:db8::/32", "[2001:db9::1]:80", 6, false},
	} {
		s, ok := parseSelectorText(c.text)
		if got := ok && s.covers(netip.MustParseAddrPort(c.end), c.protocol); got != c.want {
			t.Errorf("%s covers %s of %d: %v", c.text, c.end, c.protocol, got)
		}
	}
}

// playCharon serves what a script says, for as long as the test lasts: for each
// request, packets that follow it.
func playCharon(t *testing.T, script map[string][]byte) *Detector {
	t.Helper()
	dir, err := os.MkdirTemp("", "adit")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "vici"))
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	t.Cleanup(func() {
		l.Close()
		running.Wait()
		os.RemoveAll(dir)
	})
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() { serveVICI(c, script) })
		}
	})
	return &Detector{VICI: l.Addr().String()}
}

func serveVICI(c net.Conn, script map[string][]byte) {
	defer c.Close()
	for v := (&vici{c}); ; {
		_, body, err := v.read()
		if err != nil {
			return
		}
		name, _, _ := cutString(body, 1)
		if _, err := c.Write(script[name]); err != nil {
			return
		}
	}
}

func frame(kind byte, body []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(1+len(body)))
	return append(append(b, kind), body...)
}

func event(name string, body []byte) []byte {
	return frame(viciEvent, append(append([]byte{byte(len(name))}, name...), body...))
}

func TestCharonTellsWhoThePeerOfAnAssociationIs(t *testing.T) {
	d := playCharon(t, map[string][]byte{
		"stats":    frame(viciResponse, message("plugins[vici,kernel-netlink]")),
		"list-sa":  frame(viciConfirm, nil),
		"list-sas": slices.Concat(event("list-sa", sa("spi-out=00000005")), event("list-sa", sa()), frame(viciResponse, nil)),
	})
	for gateway, want := range map[string]string{"10.1.0.2": "there.test", "10.1.0.3": ""} {
		s := kernelSight{sight{Protection: Protection{Mechanism: Kernel}}, &state{spi: 1, dst: netip.MustParseAddr(gateway)}}
		if got := d.View().introduce(t.Context(), s); got.Peer != want || got.Mechanism != Kernel {
			t.Errorf("the peer at %s is %+v, not %q", gateway, got, want)
		}
	}
	way := route{link: link{name: "ipsec0", kind: "tun"}}
	p := Path{Local: netip.MustParseAddrPort("10.1.0.1:5000"), Remote: netip.MustParseAddrPort("10.3.0.1:80")}
	if got, err := d.View().lookAtCharon(t.Context(), p, way); err != nil || got.Protected() || !strings.Contains(got.Reason, "no ESP of its own") {
		t.Errorf("without kernel-libipsec: %+v, %v", got, err)
	}
}

// Whoever asks for more than his own network may cover another's.
func TestPeerIsUnknownWhereThereAreSeveral(t *testing.T) {
	p := Path{Local: netip.MustParseAddrPort("10.1.0.1:1080"), Remote: netip.MustParseAddrPort("10.2.0.7:40000")}
	all := trafficSelector{first: netip.MustParseAddr("10.0.0.0"), last: netip.MustParseAddr("10.255.255.255"), lastPort: 65535}
	for want, peers := range map[string][]string{"a.test": {"a.test", "a.test"}, "": {"a.test", "b.test"}} {
		v := new(Detector).View()
		v.charon.done, v.charon.value.libipsec = true, true
		for i, peer := range peers {
			v.charon.value.children = append(v.charon.value.children, child{
				local: []trafficSelector{all}, remote: []trafficSelector{all}, gateway: netip.MustParseAddr("10.1.0.2"),
				peer: peer, since: time.Unix(int64(i), 0),
			})
		}
		got, err := v.lookAtCharon(t.Context(), p, route{link: link{name: "ipsec0", kind: "tun"}, mtu: 1400})
		if err != nil || !got.Protected() || got.Peer != want {
			t.Errorf("of %q the peer is %q: %+v, %v", peers, got.Peer, got, err)
		}
	}
}

func TestCharonThatMakesNoSenseProtectsNothing(t *testing.T) {
	stats, confirm := frame(viciResponse, message("plugins[kernel-libipsec]")), frame(viciConfirm, nil)
	good := slices.Concat(event("list-sa", sa()), frame(viciResponse, nil))
	way := route{link: link{name: "ipsec0", kind: "tun"}, mtu: 1400}
	p := Path{Local: netip.MustParseAddrPort("10.1.0.1:5000"), Remote: netip.MustParseAddrPort("10.3.0.1:80")}
	for name, c := range map[string]struct {
		script    map[string][]byte
		protected bool
	}{
		"sense":             {map[string][]byte{"stats": stats, "list-sa": confirm, "list-sas": good}, true},
		"weak among others": {map[string][]byte{"stats": stats, "list-sa": confirm, "list-sas": slices.Concat(event("list-sa", sa("encr-alg=NULL")), good)}, false},
		"cut event":         {map[string][]byte{"stats": stats, "list-sa": confirm, "list-sas": append(event("list-sa", sa()[:40]), good...)}, false},
		"unasked packet":    {map[string][]byte{"stats": stats, "list-sa": confirm, "list-sas": append(frame(viciConfirm, nil), good...)}, false},
		"unknown command":   {map[string][]byte{"stats": frame(viciUnknown, nil), "list-sa": confirm, "list-sas": good}, false},
		"unknown event":     {map[string][]byte{"stats": stats, "list-sa": frame(viciUnknownEvent, nil), "list-sas": good}, false},
		"packet too long":   {map[string][]byte{"stats": {0xff, 0xff, 0xff, 0xff, 1}, "list-sa": confirm, "list-sas": good}, false},
		"empty packet":      {map[string][]byte{"stats": {0, 0, 0, 0, 1}, "list-sa": confirm, "list-sas": good}, false},
		"silence":           {map[string][]byte{"stats": stats, "list-sa": confirm}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := playCharon(t, c.script).View().lookAtCharon(t.Context(), p, way)
			if got.Protected() != c.protected || (err != nil || got.Reason != "") == c.protected {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
	gone := &Detector{VICI: filepath.Join(t.TempDir(), "none")}
	if got, err := gone.View().lookAtCharon(t.Context(), p, way); !errors.Is(err, os.ErrNotExist) || got.Protected() {
		t.Errorf("without charon: %+v, %v", got, err)
	}
}

func FuzzVICI(f *testing.F) {
	f.Add(sa())
	f.Add(sa("state=REKEYED", "encr-alg=AES_CBC", "integ-alg=HMAC_SHA2_512_256"))
	f.Add(message("plugins[vici]", "uptime {", "since=now", "}"))
	f.Add([]byte(strings.Repeat("\x01\x00", 20)))
	p := Path{Local: netip.MustParseAddrPort("10.1.0.1:5000"), Remote: netip.MustParseAddrPort("10.3.0.1:80")}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseMessage(b)
		if err != nil {
			return
		}
		for _, part := range m.parts {
			for _, c := range children(&part.section, time.Unix(1000, 0)) {
				if c.covers(p) && c.transform.weakness == "" && c.transform.Cipher == "" {
					t.Errorf("protected by nothing: %+v", c)
				}
			}
		}
	})
}

func FuzzTrafficSelector(f *testing.F) {
	for _, s := range []string{"10.1.0.0/16", "10.1.0.3..10.1.0.9[tcp/http]", "2001:db8::/32[17/1000-2000]", "10.1.0.1[0/80]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, ok := parseSelectorText(text)
		if !ok {
			return
		}
		if !s.first.IsValid() || !s.last.IsValid() {
			t.Errorf("%q is from %v to %v", text, s.first, s.last)
		}
		if s.covers(netip.AddrPort{}, 6) {
			t.Errorf("%q covers no address", text)
		}
	})
}
