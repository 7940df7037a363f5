package sniff

import (
	"strings"
	"testing"
)

// turns are conversations of several pieces, "<" in front of what the client
// sends and ">" in front of what the server does.
var turns = []struct {
	name  string
	talk  []string
	want  Verdict
	still bool // more may come
}{
	{"STARTTLS of SMTP", []string{">220 a ESMTP\r\n", "<EHLO x\r\n", ">250 STARTTLS\r\n", "<STARTTLS\r\n", ">220 go\r\n", "<" + smallHello}, under(SMTP, helloVerdict), false},
	{"STARTTLS that SMTP refuses", []string{">220 a ESMTP\r\n", "<STARTTLS\r\n", ">500 no\r\n", "<MAIL FROM:<x>\r\n"}, certain(SMTP), true},
	{"STARTTLS of IMAP", []string{">* OK hello\r\n", "<a1 STARTTLS\r\n", ">a1 OK\r\n", "<" + smallHello}, under(IMAP, helloVerdict), false},
	{"STLS of POP3", []string{">+OK hello\r\n", "<CAPA\r\nSTLS\r\n", ">+OK\r\n", "<" + smallHello}, under(POP3, helloVerdict), false},
	{"AUTH TLS of FTP", []string{">220 FTP\r\n", "<AUTH TLS\r\n", ">234 go\r\n", "<" + smallHello}, under(FTP, helloVerdict), false},
	{"STARTTLS of XMPP", []string{"<<stream:stream to='a.example'>", ">x", "<<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>", "><proceed/>", "<" + smallHello}, under(XMPP, helloVerdict), false},
	{"TLS of PostgreSQL", []string{"<" + unhex("0000000804d2162f"), ">S", "<" + smallHello}, under(PostgreSQL, helloVerdict), false},
	{"TLS of PostgreSQL that is refused", []string{"<" + unhex("0000000804d2162f"), ">N", "<" + unhex("00000012000300007573657200626f620000")}, certain(PostgreSQL), false},
	{"TLS of MySQL", []string{">" + unhex("4a0000000a") + "8.0.36\x00", "<" + unhex("20000001") + strings.Repeat("s", 32), "<" + smallHello}, under(MySQL, helloVerdict), false},
	{"TLS of RDP", []string{"<" + unhex("030000130ee00000000000010008000b000000"), ">" + unhex("030000130ed000001234000209080001000000"), "<" + smallHello}, under(RDP, helloVerdict), false},
	{"StartTLS of LDAP", []string{"<" + unhex("301d02010177188016") + "1.3.6.1.4.1.1466.20037", ">" + unhex("300c02010178070a010004000400"), "<" + smallHello}, under(LDAP, helloVerdict), false},
	{"TLS in CONNECT", []string{"<CONNECT a.example:443 HTTP/1.1\r\n\r\n", ">HTTP/1.1 200 OK\r\n\r\n", "<" + smallHello}, under(HTTP, helloVerdict), false},
	{"TLS that did not wait for CONNECT", []string{"<CONNECT a.example:443 HTTP/1.1\r\n\r\n" + smallHello, ">HTTP/1.1 200 OK\r\n\r\n"}, under(HTTP, helloVerdict), false},
	{"a server that greets in CONNECT", []string{"<CONNECT a.example:22 HTTP/1.1\r\n\r\n", ">HTTP/1.1 200 OK\r\n\r\nSSH-2.0-x\r\n"}, under(HTTP, certain(SSH)), false},
	{"CONNECT of which nothing came yet", []string{"<CONNECT a.example:22 HTTP/1.1\r\n\r\n", ">HTTP/1.1 200 OK\r\n\r\n"}, host(HTTP, "a.example"), true},
	{"CONNECT at the second try", []string{
		"<CONNECT a.example:443 HTTP/1.1\r\n\r\n", ">HTTP/1.1 407 Who?\r\nContent-Length: 4\r\n\r\nno", ">!\n",
		"<CONNECT a.example:443 HTTP/1.1\r\nProxy-Authorization: x\r\n\r\n", ">HTTP/1.1 200 OK\r\n\r\n", "<" + smallHello}, under(HTTP, helloVerdict), false},
	{"HTTP/2 by upgrade", []string{"<GET / HTTP/1.1\r\nHost: a.example\r\nUpgrade: h2c\r\n\r\n", ">HTTP/1.1 101 ok\r\n\r\n", "<" + prefaceOf2}, under(HTTP, certain(HTTP2)), true},
	{"HLS by its type", []string{"<GET /x HTTP/1.1\r\nHost: a.example\r\n\r\n", ">HTTP/1.1 200 OK\r\nContent-Type: application/vnd.apple.mpegurl\r\n\r\nnone"}, carrying(HTTP, "a.example", HLS), false},
	{"HLS by its body", []string{"<GET /x HTTP/1.1\r\nHost: a.example\r\n\r\n", ">HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n", ">#EXTM3U\n"}, carrying(HTTP, "a.example", HLS), false},
	{"DASH by its path", []string{"<GET /x.mpd?a=b HTTP/1.1\r\nHost: a.example\r\n\r\n"}, carrying(HTTP, "a.example", DASH), true},
	{"a film", []string{"<GET /x HTTP/1.1\r\nHost: a.example\r\n\r\n", ">HTTP/1.1 206 OK\r\nContent-Type: video/mp4\r\n\r\nftyp"}, carrying(HTTP, "a.example", Progressive), false},
	{"radio", []string{"<GET /x HTTP/1.1\r\nHost: a.example\r\n\r\n", ">ICY 200 OK\r\nicy-name: x\r\n\r\nbody"}, carrying(HTTP, "a.example", ICY), false},
	{"radio in HTTP", []string{"<GET /x HTTP/1.1\r\nHost: a.example\r\n\r\n", ">HTTP/1.1 200 OK\r\nContent-Type: audio/mpeg\r\nicy-metaint: 16000\r\n\r\nbody"}, carrying(HTTP, "a.example", ICY), false},
	{"a Java class", []string{"<GET /x HTTP/1.1\r\nHost: a.example\r\n\r\n", ">HTTP/1.1 200 OK\r\n\r\n" + unhex("cafebabe00000034")}, carrying(HTTP, "a.example", JavaClass), false},
	{"a Java archive", []string{"<GET /x HTTP/1.1\r\nHost: a.example\r\n\r\n", ">HTTP/1.1 200 OK\r\n\r\nPK\x03\x04" + strings.Repeat("\x00", 26) + "META-INF/MANIFEST.MF"}, carrying(HTTP, "a.example", JavaArchive), false},
	{"Java objects", []string{"<GET /x HTTP/1.1\r\nHost: a.example\r\n\r\n", ">HTTP/1.1 200 OK\r\n\r\n" + unhex("aced0005")}, carrying(HTTP, "a.example", JavaObjects), false},
	{"an ordinary page", []string{"<GET /x HTTP/1.1\r\nHost: a.example\r\n\r\n", ">HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<!doctype html>"}, host(HTTP, "a.example"), false},
	{"an answer after interim ones", []string{"<GET /x HTTP/1.1\r\nHost: a.example\r\n\r\n", ">HTTP/1.1 103 Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Type: audio/mpeg\r\n\r\nbody"}, carrying(HTTP, "a.example", Progressive), false},
	{"an answer after long interim ones", []string{"<GET /x HTTP/1.1\r\nHost: a.example\r\n\r\n",
		">" + strings.Repeat("HTTP/1.1 103 Hints\r\nLink: "+strings.Repeat("x", 1500)+"\r\n\r\n", 4) + "HTTP/1.1 200 OK\r\nContent-Type: audio/mpeg\r\n\r\nbody"},
		carrying(HTTP, "a.example", Progressive), false},
	{"interim answers without end", []string{"<GET /x HTTP/1.1\r\nHost: a.example\r\n\r\n", ">" + strings.Repeat("HTTP/1.1 103 Hints\r\n\r\n", 20)},
		host(HTTP, "a.example"), false},
	{"TLS that waits for its answer", []string{"<" + smallHello}, helloVerdict, true},
	{"TLS with an answer", []string{"<" + smallHello, ">" + unhex("160303003a020000360303")}, helloVerdict, false},
	{"TLS with an alert", []string{"<" + smallHello, ">" + unhex("15030300020228")}, helloVerdict, false},
	{"a hello that only pretends", []string{"<" + smallHello, ">SSH-2.0-x\r\n"},
		with(helloVerdict, func(v *Verdict) { v.Doubt = "the answer is not of TLS" }), false},
	{"an answer that is none", []string{"<GET /x HTTP/1.1\r\nHost: a.example\r\n\r\n", ">\x00\x01\x02\x03"},
		with(host(HTTP, "a.example"), func(v *Verdict) { v.Doubt = "the answer is not of HTTP" }), false},
}

func under(p Protocol, v Verdict) Verdict {
	v.Under = p
	return v
}

func TestProtocolsTurnIntoOthers(t *testing.T) {
	for _, c := range turns {
		t.Run(c.name, func(t *testing.T) {
			for _, size := range []int{1 << 20, 1, 2, 3, 7, 31} {
				s := new(Stream)
				var got Verdict
				for _, said := range c.talk {
					up, down := said[1:], ""
					if said[0] == '>' {
						up, down = down, up
					}
					got = show(s, up, down, size)
				}
				if got.withoutMore() != c.want || got.More != c.still {
					t.Errorf("in pieces of %d: got %+v, want %+v", size, got, c.want)
				}
			}
		})
	}
}

func TestExpiredFlowIsStillWatched(t *testing.T) {
	s := new(Stream)
	if v := s.Expire(); v.Protocol != Unknown || v.Certain || !v.More {
		t.Errorf("a silent flow is %+v", v)
	}
	if v := s.Down([]byte("220 mx ESMTP\r\n")); v.Protocol != SMTP || !v.Certain {
		t.Errorf("after a late greeting it is %+v", v)
	}
}

func TestExpiredHelloIsTLSWithoutName(t *testing.T) {
	s := new(Stream)
	if v := s.Up([]byte(smallHello[:70])); v.Protocol != TLS || v.Certain {
		t.Errorf("half a hello is %+v", v)
	}
	if v := s.Expire(); v.Protocol != TLS || !v.Certain || !v.More || v.Host != "" {
		t.Errorf("when time is over it is %+v", v)
	}
	if v := s.Up([]byte(smallHello[70:])); v.withoutMore() != helloVerdict {
		t.Errorf("the whole hello is %+v", v)
	}
}

func TestNestingEnds(t *testing.T) {
	s := new(Stream)
	for range 2 * maxStages {
		s.Up([]byte("CONNECT a.example:443 HTTP/1.1\r\n\r\n"))
		s.Down([]byte("HTTP/1.1 200 OK\r\n\r\n"))
	}
	if v := s.Up(nil); v.More || v.Protocol != HTTP {
		t.Errorf("got %+v", v)
	}
}
