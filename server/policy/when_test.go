package policy

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

var (
	whenWho = Who{
		User: "alice", Groups: []string{"staff", "field"}, Device: "alice", From: netip.MustParseAddr("192.0.2.7"),
		Door: "session", Method: "device", Protection: []string{"tls"}, Cipher: "TLS_AES_128_GCM_SHA256",
	}
	whenRequest = Request{
		Dialect: "socks5", Command: "connect", Name: "www.example.com", Addr: netip.MustParseAddr("2001:db8::1"), Port: 443,
		Protocol: "tls", Carries: "http", Time: time.Date(2026, 7, 1, 9, 30, 0, 0, time.UTC),
	}
)

func TestAnExpressionIsTrueOrFalse(t *testing.T) {
	for text, want := range map[string]bool{
		`true`:                                                  true,
		`false or not false`:                                    true,
		`true or true and false`:                                true,
		`(true or true) and false`:                              false,
		`not true or true`:                                      true,
		`! (true || true) && true`:                              false,
		`user == "alice" and user != 'bob'`:                     true,
		`user == device`:                                        true,
		`port == 443 && port<444&&port<=443`:                    true,
		`443 > port or port >= 444`:                             false,
		`hour * 60 + minute == 9 * 60 + 30`:                     true,
		`hour - 2 * 4 == 1`:                                     true,
		`weekday in ["mon", "wed", ]`:                           true,
		`port in [80, 8080]`:                                    false,
		`port not in [80, 8080]`:                                true,
		`"staff" in groups and "x" not in groups`:               true,
		`len(groups) == 2 and len(name) > 10`:                   true,
		`"tls" in protection`:                                   true,
		`lower(cipher) contains "aes_128"`:                      true,
		`name startsWith "www." and name endsWith '.com'`:       true,
		`name matches "^www\\.[a-z]+\\.com$"`:                   true,
		`name matches '\d'`:                                     false,
		`address == "2001:db8:0::1"`:                            true,
		`"::ffff:192.0.2.7" == from`:                            true,
		`from == address`:                                       false,
		`from == ""`:                                            false,
		`name == "" or command == "ping" or weekday == 'sun'`:   false,
		`"ipsec:aes-gcm-128" in protection`:                     false,
		`lower(name) == "WWW"`:                                  false,
		`address in ["192.0.2.0/24", "2001:db8::/32"]`:          true,
		`from in "192.0.2.0/29" and from not in "192.0.2.0/30"`: true,
		`dialect == "socks5" and command == "connect" and door == "session" and method == "device"`: true,
		`protocol == "tls" and carries == "http"`:                                                   true,
		"\tport\n==\t443 ": true,
		`"ü" == 'ü'`:       true,
	} {
		e, err := readWhen(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		c := &Caller{who: whenWho}
		if got := e.judge(&Rule{zone: time.UTC}, c, &whenRequest); got != truthOf(want) {
			t.Errorf("%s is not %v", text, want)
		}
	}
}

func TestWhatIsNoExpressionIsSaid(t *testing.T) {
	for text, want := range map[string]string{
		``:                                "at 1: it is not complete",
		`user ==`:                         "at 8: it is not complete",
		`prot > 5`:                        "at 1: there is no prot in expressions",
		`port`:                            "it is a number, not true or false",
		`port == "443"`:                   "at 6: a number is never a text",
		`user < "b"`:                      "at 6: < compares numbers",
		`1 < 2 < 3`:                       "at 7: there is < after its end",
		`true and port`:                   "at 6: and wants true or false on both sides, not a number",
		`not port`:                        "at 1: not wants what is true or false, not a number",
		`user not == "x"`:                 "at 10: there is == after not; write not in",
		`(true`:                           "at 6: there is its end, not )",
		`true)`:                           "at 5: there is ) after its end",
		`user in ["a", 1]`:                "at 6: a text is never in what is behind in",
		`port in ["a"]`:                   "at 6: a number is never in what is behind in",
		`user in ["a" "b"]`:               `at 14: there is "b" in a list`,
		`user in ["a"`:                    "at 13: there is its end in a list",
		`user in [user]`:                  "at 10: a list has texts or numbers, not user",
		`address in "192.0.2.1/24"`:       `at 9: "192.0.2.1/24" is no network, but an address in 192.0.2.0/24`,
		`address in groups`:               "at 9: an address is never in what is behind in",
		`address == "example.com"`:        `at 9: "example.com" is no address`,
		`address == "fe80::1%eth0"`:       `at 9: "fe80::1%eth0" is no address`,
		`command == "conect"`:             `at 9: "conect" is none of connect, bind, associate, resolve, ping`,
		`"Mon" != weekday`:                `at 7: "Mon" is none of sun, mon, tue, wed, thu, fri, sat`,
		`method in ["device", "pasword"]`: `at 8: "pasword" is none of device, guest, password, gssapi, certificate, ike, network`,
		`"ssl" not in protection`:         `at 11: "ssl" is none of tls, wireguard, ipsec, gss-integrity, gss-confidentiality, none`,
		`name == "WWW.example.com."`:      `at 6: name is never "WWW.example.com."; write "www.example.com"`,
		`name in ["münchen.example"]`:     `at 6: name is never "münchen.example"; write "xn--mnchen-3ya.example"`,
		`name == "192.0.2.7"`:             `at 6: "192.0.2.7": it is no host name`,
		`groups == protection`:            "at 8: a list is never a list",
		`name matches user`:               "at 6: matches wants a pattern in quotes",
		`name matches "("`:                "at 6: \"(\" is no pattern: error parsing regexp: missing closing ): `(`",
		`len(port) == 1`:                  "at 1: len is not for a number",
		`len(["a"]) == 1`:                 "at 1: len is not for a list",
		`lower user`:                      "at 7: there is user, not (",
		`user == "abc`:                    `at 9: "abc is no text in quotes`,
		`user == 'abc`:                    "at 9: there is no 'abc in expressions",
		`port == 99999999999`:             "at 9: there is no 99999999999 in expressions",
		"\x1b":                            `at 1: there is no "\x1b" in expressions`,
		strings.Repeat("(", 2000):         "it has more than 1000 parts",
	} {
		if _, err := readWhen(text); err == nil || err.Error() != want {
			t.Errorf("%s: error is %v, want %s", text, err, want)
		}
	}
}

func TestAnExpressionWaitsForWhatItSpeaksOf(t *testing.T) {
	for text, want := range map[string]truth{
		`user == "alice"`:                       yes,
		`address in "192.0.2.0/24"`:             needsAddress,
		`user == "bob" and protocol == "rtsp"`:  needsProtocol,
		`address == "" or carries contains "x"`: needsAddress,
	} {
		e, err := readWhen(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := e.judge(&Rule{zone: time.UTC}, &Caller{who: whenWho}, &Request{}); got != want {
			t.Errorf("%s: %d, want %d", text, got, want)
		}
	}
}

func FuzzWhen(f *testing.F) {
	f.Add(`not (port in [1, 2]) or lower(name) matches '^a' && len(groups) * 2 - 1 >= 3`)
	f.Add(`address in ["192.0.2.0/24"] and from != "::1"`)
	f.Fuzz(func(t *testing.T, text string) {
		if e, err := readWhen(text); err == nil {
			e.judge(&Rule{zone: time.UTC}, &Caller{who: whenWho}, &whenRequest)
		}
	})
}

func BenchmarkWhen(b *testing.B) {
	e, err := readWhen(`hour * 60 + minute >= 510 and name endsWith ".example.com" and "staff" in groups and address in "2001:db8::/32"`)
	if err != nil {
		b.Fatal(err)
	}
	r, c := &Rule{zone: time.UTC}, &Caller{who: whenWho}
	b.ReportAllocs()
	for b.Loop() {
		e.judge(r, c, &whenRequest)
	}
}
