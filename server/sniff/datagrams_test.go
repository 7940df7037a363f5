package sniff

import (
	"encoding/binary"
	"math/rand/v2"
	"strings"
	"testing"
)

var datagramVectors = []struct {
	name string
	port uint16
	b    string
	want Protocol
}{
	{"STUN binding", 0, unhex("000100002112a442000000000000000000000000"), STUN},
	{"DTLS", 0, unhex("16fefd0000000000000000000401000000"), DTLS},
	{"WireGuard", 0, unhex("01000000") + strings.Repeat("w", 144), WireGuard},
	{"WireGuard answer", 0, unhex("02000000") + strings.Repeat("w", 88), WireGuard},
	{"IKE 2", 0, "abcdefgh" + unhex("0000000000000000212022080000000000000020") + "abcd", IKE},
	{"IKE 2 behind the marker", 0, unhex("00000000") + "abcdefgh" + unhex("0000000000000000212022080000000000000020") + "abcd", IKE},
	{"SIP", 0, "REGISTER sip:a.example SIP/2.0\r\nVia: x\r\n", SIP},
	{"SIP answer", 0, "SIP/2.0 100 Trying\r\n", SIP},
	{"DHT", 0, "d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t2:aa1:y1:qe", BitTorrent},
	{"tracker", 0, unhex("00000417271019800000000012345678"), BitTorrent},
	{"BitTorrent in the house", 0, "BT-SEARCH * HTTP/1.1\r\n", BitTorrent},
	{"SSDP", 0, "M-SEARCH * HTTP/1.1\r\nMAN: x\r\n", SSDP},
	{"SNMP 2c", 0, unhex("302902010104067075626c6963a11c") + strings.Repeat("\x01", 28), SNMP},
	{"SNMP 3", 0, unhex("3010020103300b0201010202ffff04010400"), SNMP},
	{"CLDAP", 389, unhex("300c020101630702010304008000"), LDAP},
	{"Kerberos", 0, unhex("6a1d301ba103020105a20302010aa40f300d") + strings.Repeat("k", 13), Kerberos},
	{"DNS", 0, unhex("123401000001000000000000076578616d706c6503636f6d0000010001"), DNS},
	{"DNS with EDNS", 0, unhex("123401000001000000000001076578616d706c6503636f6d00000100010000291000000000000000"), DNS},
	{"NetBIOS", 137, unhex("12340110000100000000000020") + strings.Repeat("A", 32) + unhex("0000200001"), NetBIOS},
	{"RAS GRQ", 0, unhex("02200000060008914a0004aa"), RAS},
	{"RAS ARQ at its port", 1719, unhex("2690000000aabbccddeeff00"), RAS},
	{"RTCP", 0, unhex("80c80006") + strings.Repeat("r", 24) + unhex("81ca0001aabbccdd"), RTCP},
	{"NTP", 123, "\x23" + strings.Repeat("\x00", 47), NTP},
	{"TFTP", 0, "\x00\x01boot.img\x00octet\x00", TFTP},
	{"DHCP", 0, "\x01" + strings.Repeat("\x00", 235) + "\x63\x82\x53\x63", DHCP},
	{"RADIUS", 0, "\x01\x07\x00\x19" + strings.Repeat("a", 16) + "\x01\x05bob", RADIUS},
	{"L2TP", 0, unhex("c802000c0000000000000000"), L2TP},
	{"OpenVPN", 0, "\x38abcdefgh\x00\x00\x00\x00\x00", OpenVPN},
	{"CoAP", 5683, unhex("40010001"), CoAP},
	{"Sun RPC", 0, unhex("123456780000000000000002000186a300000003"), SunRPC},
	{"MGCP", 0, "CRCX 1 gw@a.example MGCP 1.0\r\n", MGCP},
	{"syslog", 514, "<34>Oct 11 22:14:15 host su: x", Syslog},
	{"RDP", 3389, unhex("ffffffff04000001") + strings.Repeat("\x00", 1224), RDP},
}

func TestDatagramsAreRecognised(t *testing.T) {
	for _, c := range datagramVectors {
		d := Datagrams{Port: c.port}
		if v := d.Up([]byte(c.b)); v.Protocol != c.want || !v.Certain {
			t.Errorf("%s: got %+v", c.name, v)
		}
	}
}

func TestNoOtherDatagramTestIsSure(t *testing.T) {
	for _, c := range datagramVectors {
		for _, test := range datagramTests {
			if p, g := test([]byte(c.b), c.port); g == sure && p != c.want {
				t.Errorf("%s is taken for %s as well", c.name, p)
			}
		}
		if isQUIC([]byte(c.b)) != never {
			t.Errorf("%s is taken for QUIC as well", c.name)
		}
	}
}

// rtp makes a packet of sound.
func rtp(number int) []byte {
	b := append([]byte{0x80, 0}, make([]byte, 170)...)
	binary.BigEndian.PutUint16(b[2:], uint16(number))
	binary.BigEndian.PutUint32(b[8:], 0xfeedbeef)
	return b
}

func TestMediaIsCertainAfterThreePacketsInARow(t *testing.T) {
	d := new(Datagrams)
	for i := range 3 {
		v := d.Up(rtp(65534 + i)) // over the end of the numbers
		if v.Protocol != RTP || v.Certain != (i == 2) {
			t.Errorf("after packet %d: %+v", i, v)
		}
	}
	d = new(Datagrams)
	for range 40 {
		if v := d.Up(rtp(7)); v.Certain {
			t.Fatalf("the same packet again and again is %+v", v)
		}
	}
}

func TestWhatComesAfterSTUNIsRecognised(t *testing.T) {
	d := new(Datagrams)
	binding := []byte(datagramVectors[0].b)
	if v := d.Up(binding); v.Protocol != STUN || !v.More {
		t.Fatalf("got %+v", v)
	}
	d.Down(binding)
	if v := d.Up([]byte(datagramVectors[1].b)); v != (Verdict{Protocol: DTLS, Under: STUN, Certain: true}) {
		t.Errorf("DTLS is %+v", v)
	}
	d = new(Datagrams)
	d.Up(binding)
	for i := range 3 {
		d.Up(rtp(2 * i))
		d.Up(binding)
		d.Down(rtp(100 + i))
	}
	if v := d.Up(binding); v != (Verdict{Protocol: RTP, Under: STUN, Certain: true}) {
		t.Errorf("sound is %+v", v)
	}
}

func TestConnectionOfUTPIsBitTorrent(t *testing.T) {
	packet := func(kind byte, id uint16) []byte {
		b := make([]byte, 20)
		b[0] = kind
		binary.BigEndian.PutUint16(b[2:], id)
		return b
	}
	d := new(Datagrams)
	d.Up(packet(0x41, 500))
	d.Down(packet(0x21, 500))
	if v := d.Up(packet(0x01, 501)); v.Protocol != BitTorrent || !v.Certain {
		t.Errorf("got %+v", v)
	}
	d = new(Datagrams)
	for i := range 16 {
		d.Up(packet(0x01, uint16(i)))
	}
	if v := d.Expire(); v.Protocol != Unknown || v.More {
		t.Errorf("what only looks like it is %+v", v)
	}
}

// query asks for a name of labels.
func query(kind uint16, labels ...string) []byte {
	b := []byte(unhex("123401000001000000000000"))
	for _, l := range labels {
		b = append(append(b, byte(len(l))), l...)
	}
	b = append(b, 0)
	b = binary.BigEndian.AppendUint16(b, kind)
	return binary.BigEndian.AppendUint16(b, 1)
}

func TestTunnelInDNSIsDoubted(t *testing.T) {
	long := strings.Repeat("x", 60)
	for name, c := range map[string]struct {
		ask  []byte
		want bool
	}{
		"names":          {query(1, "www", "example", "com"), false},
		"texts":          {query(16, "_dmarc", "example", "com"), false},
		"a long label":   {query(1, long, "cdn", "example"), false},
		"NULL records":   {query(10, long, "t", "example"), true},
		"long names":     {query(1, long, long, "t", "example"), true},
		"very long":      {query(16, long, long, long, "t", "example"), true},
		"private types":  {query(65399, "a", "t", "example"), true},
		"reverse names":  {query(12, strings.Split("b.a.9.8.7.6.5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa", ".")...), false},
		"multicast DNS":  {query(255, "_ipp", "_tcp", "local"), false},
		"key of a mail":  {query(16, "selector1-example-com", "_domainkey", "example", "com"), false},
		"many questions": {query(28, "api", "example", "com"), false},
	} {
		d := new(Datagrams)
		var v Verdict
		for range 30 {
			v = d.Up(c.ask)
		}
		if v.Protocol != DNS || (v.Doubt != "") != c.want {
			t.Errorf("%s: %+v", name, v)
		}
	}
}

func TestRandomDatagramsAreUnknown(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	known := 0
	for range 5_000 {
		d := new(Datagrams)
		for range 6 {
			b := make([]byte, 40+r.IntN(600))
			for i := range b {
				b[i] = byte(r.Uint32())
			}
			d.Up(b)
		}
		if d.Up(nil).Certain {
			known++
		}
	}
	if known > 5 {
		t.Errorf("%d of 5000 random flows are taken for a protocol", known)
	}
}

func FuzzDatagrams(f *testing.F) {
	for _, c := range datagramVectors {
		f.Add([]byte(c.b), []byte(c.b), c.port)
	}
	for _, b := range quicFlow(1, "example.com", whole) {
		f.Add(b, b[:600], uint16(443))
	}
	f.Fuzz(func(t *testing.T, first, second []byte, port uint16) {
		d := Datagrams{Port: port}
		var sureOf Protocol
		for i := range 80 {
			var v Verdict
			switch i % 3 {
			case 0:
				v = d.Up(first)
			case 1:
				v = d.Down(second)
			default:
				v = d.Up(second)
			}
			if sureOf != "" && v.Protocol != sureOf && v.Under == "" {
				t.Fatalf("%s became %+v", sureOf, v)
			}
			if v.Certain && v.Under == "" {
				sureOf = v.Protocol
			}
		}
		if v := d.Expire(); v.More && v.Certain {
			t.Errorf("there is no end to it: %+v", v)
		}
	})
}
