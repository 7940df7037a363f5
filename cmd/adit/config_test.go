package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

func readExample(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "testdata", "config", name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestExampleServerConfigIsTheDefaults(t *testing.T) {
	var got serverConfig
	text := readExample(t, "server.toml")
	if err := parseConfig("server.toml", text, &got); err != nil {
		t.Error(err)
	}
	if want := defaultServerConfig(); !reflect.DeepEqual(got, want) {
		t.Errorf("the example says\n%+v\nthe defaults are\n%+v", got, want)
	}
	// The example has no door, but the lines for one.
	text = regexp.MustCompile(`(?m)^#([a-z[])`).ReplaceAll(text, []byte("$1"))
	var withDoor serverConfig
	if err := parseConfig("server.toml", text, &withDoor); err != nil {
		t.Error(err)
	}
	namesEveryKey(t, text, got)
}

func TestExampleClientConfigIsTheDefaults(t *testing.T) {
	var got clientConfig
	text := readExample(t, "client.toml")
	// Nothing but an invite can say where the server is.
	err := parseConfig("client.toml", text, &got)
	if text := complaints(err); len(text) != 2 || !strings.Contains(text[0], "server.address") || !strings.Contains(text[1], "server.pin") {
		t.Errorf("complaints %q, want one on server.address and one on server.pin", text)
	}
	if want := defaultClientConfig(); !reflect.DeepEqual(got, want) {
		t.Errorf("the example says\n%+v\nthe defaults are\n%+v", got, want)
	}
	namesEveryKey(t, text, got)
}

func TestConfigOfServerInitIsTheDefaults(t *testing.T) {
	want := defaultServerConfig()
	want.Name = "vpn.example.org"
	got := defaultServerConfig()
	got.Listen, got.Allow, got.Grace = nil, nil, duration{}
	if err := parseConfig("server.toml", serverText(want), &got); err != nil {
		t.Error(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("server init writes\n%+v\nthe defaults are\n%+v", got, want)
	}
}

func TestLanesReachFromOneToEight(t *testing.T) {
	for text, want := range map[string]string{
		"lanes = 1":  "",
		"lanes = 8":  "",
		"lanes = 0":  "c:1:1: lanes: 0 is out of range | write a number from 1 to 8",
		"lanes = 9":  "c:1:1: lanes: 9 is out of range | write a number from 1 to 8",
		"lanes = -1": "c:1:1: lanes: -1 is out of range | write a number from 1 to 8",
	} {
		c := defaultClientConfig()
		c.Server.Address, c.Server.CA = "vpn.example:443", true
		got := ""
		if err := parseConfig("c", []byte(text), &c); err != nil {
			got = strings.Join(complaints(err), "\n")
		}
		if got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}

func TestClientSaysHowItReachesItsServer(t *testing.T) {
	const tls = "carriers = [\"tls\"]\n"
	for text, want := range map[string]string{
		tls + "require_ipsec = true":                                                       "",
		"carriers = [\"ipsec\", \"tls\"]\nipsec_address = \"10.8.0.1:8444\"":               "c: server.ipsec_pin: over IPsec the server proves who it is by its pinned key | write the pin that adit check prints where the server runs; adit join does",
		"carriers = [\"ipsec\", \"tls\"]\nipsec_pin = \"" + strings.Repeat("A", 43) + "\"": "",
		"carriers = [\"ipsec\", \"tls\"]\nipsec_pin = \"A\"":                               "c:3:1: server.ipsec_pin: not a pin | it has 43 characters; adit join writes it",
		"ipsec_address = \"10.8.0.1\"":                                                     `c:2:1: server.ipsec_address: "10.8.0.1" is not HOST:PORT | write what "listen" under [ipsec] in server.toml says: "10.8.0.1:8444"`,
		"carriers = [\"ipsec\"]":                                                           `c: server.ipsec_address: "" is not HOST:PORT | write what "listen" under [ipsec] in server.toml says: "10.8.0.1:8444"`,
		tls + "mptcp = true\nrequire_ipsec = true":                                         "c:3:1: server.mptcp: Multipath TCP would take ways that IPsec does not protect | write mptcp = false",
	} {
		c := defaultClientConfig()
		c.Server.Address, c.Server.CA = "vpn.example:443", true
		got := ""
		if err := parseConfig("c", []byte("[server]\n"+text), &c); err != nil {
			got = strings.Join(complaints(err), "\n")
		}
		if got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}

func TestGraceReachesFromNothingToADay(t *testing.T) {
	for _, text := range []string{"0s", "1ms", "30s", "1m30s", "10m", "1h30m", "24h"} {
		c := defaultServerConfig()
		err := parseConfig("c", []byte(`grace = "`+text+`"`), &c)
		if got := briefly(c.Grace.Duration); err != nil || got != text {
			t.Errorf("grace %s is read as %s, %v", text, got, err)
		}
	}
}

func namesEveryKey(t *testing.T, text []byte, config any) {
	t.Helper()
	set := make(map[string]bool)
	for _, p := range locate(text) {
		set[tableNumber.ReplaceAllString(p.key, "")] = true
	}
	for _, key := range knownKeys(reflect.TypeOf(config), "") {
		if !set[strings.TrimSuffix(key, ".*")] {
			t.Errorf("the example does not name %s", key)
		}
	}
}

// checkSection looks at what is said of texts of one line in a section of server.toml: what
// each is mapped to, or nothing.
func checkSection(t *testing.T, section string, texts map[string]string) {
	t.Helper()
	for text, want := range texts {
		c := defaultServerConfig()
		got := ""
		if err := parseConfig("c", []byte("["+section+"]\n"+text), &c); err != nil {
			got = strings.Join(complaints(err), "\n")
		}
		if want != "" {
			want = "c:2:1: " + want
		}
		if got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}

// complaints gives what a person sees of an error, line by line.
func complaints(err error) []string {
	var b bytes.Buffer
	explain(&b, err)
	var lines []string
	for line := range strings.Lines(b.String()) {
		if text, ok := strings.CutPrefix(line, "adit: "); ok {
			lines = append(lines, strings.TrimSuffix(text, "\n"))
		} else {
			lines[len(lines)-1] += " | " + strings.TrimSuffix(strings.TrimPrefix(line, "hint: "), "\n")
		}
	}
	return lines
}

func badNetworkLine(line int, network, what string) string {
	return fmt.Sprintf(`c:%d:1: wireguard.network: %q %s | write a part of 10.0.0.0/8 or another private network: "10.83.0.0/16"`, line, network, what)
}

func TestConfigErrorsSayWhereAndWhatToDo(t *testing.T) {
	tests := []struct {
		name string
		text string
		want []string // each is one line: what | what to do
	}{
		{"unknown key", "name = \"a\"\ncolour = \"red\"", []string{"c:2:1: colour: unknown key | remove it; every key is in the example files under testdata/config"}},
		{"misspelled key", "[limits]\n  sesions = 3", []string{"c:2:3: limits.sesions: unknown key | did you mean sessions in [limits]?"}},
		{"swapped letters", "lisetn = [\":1\"]", []string{"c:1:1: lisetn: unknown key | did you mean listen?"}},
		{"wrong case", "Name = \"x\"", []string{"c:1:1: Name: unknown key | did you mean name?"}},
		{"wrong table", "[site]\nlevel = \"info\"", []string{"c:2:1: site.level: unknown key | did you mean level in [log]?"}},
		{"unknown table", "[limit]\n", []string{"c:1:2: limit: unknown key | did you mean limits?"}},
		{"unknown key in an inline table", "log = { leval = \"info\" }", []string{"c:1:9: log.leval: unknown key | did you mean level in [log]?"}},
		{"several at once", "x1 = 1\ny1 = 2", []string{
			"c:1:1: x1: unknown key | remove it; every key is in the example files under testdata/config",
			"c:2:1: y1: unknown key | remove it; every key is in the example files under testdata/config",
		}},
		{"string for a number", "[limits]\nsessions = \"many\"", []string{`c:2:12: limits.sessions: want a whole number | write it like this: sessions = 100`}},
		{"number for a string", "name = 3", []string{`c:1:8: name: want a string in quotes | write it like this: name = "text"`}},
		{"string for a list", "listen = \":443\"", []string{`c:1:10: listen: want a list of strings | write it like this: listen = ["one", "two"]`}},
		{"duration without a unit", "drain = 30", []string{`c:1:1: drain: not a duration | write it with its unit: "30s"`}},
		{"duration with an unknown unit", "drain = \"30 parsecs\"", []string{`c:1:1: drain: not a duration | write it with its unit: "30s"`}},
		{"list for a duration", "drain = [3]", []string{`c:1:9: drain: want a duration in quotes | write it like this: drain = "30s"`}},
		{"value for a table", "log = 3", []string{`c:1:7: log: want a table | write it like this: [log]`}},
		{"no TOML", "listen = [", []string{"c:1:10: array is incomplete | adit's config files are TOML 1.0: https://toml.io/en/v1.0.0"}},
		{"key twice", "name = \"a\"\nname = \"b\"", []string{"c:2:1: name: key name is already defined | adit's config files are TOML 1.0: https://toml.io/en/v1.0.0"}},
		{"port out of range", "\n\nlisten = [\":70000\"]", []string{`c:3:1: listen: ":70000": the port is not a number from 0 to 65535 | an address is ":443", "192.0.2.1:443" or "[2001:db8::1]:443"`}},
		{"unknown key in a door", "[[door]]\nlisten = \":1\"\nmethods = [\"password\"]\n[[door]]\nlisten = \":2\"\nmethods = [\"password\"]\nkeytap = \"x\"", []string{
			"c:7:1: door[2].keytap: unknown key | did you mean keytab in [door]?",
		}},
		{"string for doors", "door = 3", []string{`c:1:8: door: want tables in double brackets | write it like this: [[door]]`}},
		{"number for a switch in a door", "[[door]]\ntls = 3", []string{`c:2:7: door.tls: want true or false | write it like this: tls = true`}},
		{"door in the clear", "[[door]]\nlisten = \":1080\"\nmethods = [\"password\"]\ntls = false", []string{
			`c:4:1: door[1].tls: anybody on the way to :1080 could read and change what passes | write tls = true; or require_ipsec = true; or plain = "protected", if something else protects the whole path`,
		}},
		{"door that asks nobody", "[[door]]\nlisten = \":1080\"\n", []string{
			`c:1:3: door[1].methods: nothing says how apps prove whose they are | write methods = ["password"]`,
		}},
		{"door without what its methods need", "[[door]]\nlisten = \":1080\"\nmethods = [\"gssapi\", \"certificate\", \"network\", \"luck\"]", []string{
			`c:3:1: door[1].methods: unknown method "luck" | known are: gssapi, password, certificate, ike, network`,
			"c:1:3: door[1].client_ca: the method certificate and client_ca go together | name the PEM file of the CA that issues the apps' certificates",
			"c:1:3: door[1].keytab: the method gssapi and a keytab go together | name the file with the keys of rcmd/HOST and socks/HOST",
			`c:1:3: door[1].networks: the method network and networks go together | write networks = { "10.8.0.0/16" = "partner" }`,
		}},
		{"door with datagrams past IPsec", "[[door]]\nlisten = \":1080\"\nmethods = [\"password\"]\nudp = true\nrequire_ipsec = true", []string{
			`c:4:1: door[1].udp: datagrams cannot be held to IPsec | write udp = false, or leave out require_ipsec`,
		}},
		{"door by IKE in clear", "[[door]]\nlisten = \"127.0.0.1:1080\"\ntls = false\nmethods = [\"ike\"]\nidentities = { \"a.example\" = \"\" }", []string{
			`c:4:1: door[1].methods: who has come in by IKE could go on in the clear | write require_ipsec = true, or another method`,
			`c:5:1: door[1].identities: "" cannot be the name of a user | write { "gateway.example.org" = "partner" }`,
		}},
		{"protected network that is an address", "[ipsec]\nprotected_networks = [\"10.8.0.1/16\"]\nvici = \"charon.vici\"", []string{
			`c:2:1: ipsec.protected_networks: 10.8.0.1/16 is no network, but an address in 10.8.0.0/16 | write networks as "10.8.0.0/16"`,
			`c:3:1: ipsec.vici: "charon.vici" is no path from the root | leave it empty, or write "/run/charon.vici"`,
		}},
		{"door for everybody", "[[door]]\nlisten = \"127.0.0.1:1080\"\ntls = false\nmethods = [\"network\"]\nnetworks = { \"0.0.0.0/0\" = \"partner\" }", []string{
			`c:5:1: door[1].networks: 0.0.0.0/0 is everybody | write { "10.8.0.0/16" = "partner" }`,
		}},
		{"unknown allowance", "allow = [\"lan\"]", []string{`c:1:1: allow: unknown kind of target "lan" | known are: loopback, private, link-local`}},
		{"limit of zero", "[limits]\nsessions = 0", []string{`c:2:1: limits.sessions: 0 is out of range | write a number from 1 to 1000000`}},
		{"grace without a unit", "grace = 600", []string{`c:1:1: grace: not a duration | write it with its unit: "30s"`}},
		{"grace below zero", "grace = \"-1s\"", []string{`c:1:1: grace: not a duration | write it with its unit: "30s"`}},
		{"grace of more than a day", "grace = \"24h0.5s\"", []string{`c:1:1: grace: 24h0m0.5s is out of range | write a duration from "0s" to "24h"`}},
		{"too little replay memory", "[limits]\nreplay_memory_mib = 15", []string{`c:2:1: limits.replay_memory_mib: 15 is out of range | write a number from 16 to 65536`}},
		{"too much replay memory", "[limits]\nreplay_memory_mib = 65537", []string{`c:2:1: limits.replay_memory_mib: 65537 is out of range | write a number from 16 to 65536`}},
		{"two sites", "[site]\ndir = \"/\"\nproxy = \"http://[::1]/\"", []string{`c:1:2: site: dir and proxy exclude each other | keep one of them`}},
		{"WireGuard in place of IPsec", "[wireguard]\nlisten = \":4500\"", []string{`c:2:1: wireguard.listen: UDP port 4500 is IPsec's | write listen = ":51820"`}},
		{"WireGuard where datagrams over IPsec come in", "wireguard.listen = \":8444\"\n[ipsec]\nlisten = \"10.8.0.1:8444\"", []string{
			`c:3:1: ipsec.listen: UDP port 8444, which datagrams need here, is WireGuard's | listen on another port`,
		}},
		{"network of guests that is none", "[wireguard]\nnetwork = \"10.83\"", []string{badNetworkLine(2, "10.83", "is no IPv4 network")}},
		{"network of guests in IPv6", "wireguard.network = \"fd00::/64\"", []string{badNetworkLine(1, "fd00::/64", "is no IPv4 network")}},
		{"network of guests with an address", "wireguard.network = \"10.83.0.1/16\"", []string{badNetworkLine(1, "10.83.0.1/16", "is no network, but an address in 10.83.0.0/16")}},
		{"network of guests that is too small", "wireguard.network = \"10.83.0.0/31\"", []string{badNetworkLine(1, "10.83.0.0/31", "has no room for a guest")}},
		{"network of guests that is public", "wireguard.network = \"192.0.2.0/24\"", []string{badNetworkLine(1, "192.0.2.0/24", "is not private")}},
		{"network of guests that is partly public", "wireguard.network = \"192.168.0.0/15\"", []string{badNetworkLine(1, "192.168.0.0/15", "is not private")}},
		{"unknown level", "log.level = \"loud\"", []string{`c:1:1: log.level: unknown level "loud" | known are: debug, info, warn, error`}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := defaultServerConfig()
			got := complaints(parseConfig("c", []byte(test.text), &c))
			if !reflect.DeepEqual(got, test.want) {
				t.Errorf("%q gives\n%s\nwant\n%s", test.text, strings.Join(got, "\n"), strings.Join(test.want, "\n"))
			}
		})
	}
}

func TestDoorIsNeverOpenToOthersByAccident(t *testing.T) {
	for _, test := range []struct {
		listen, admission string
		ok                bool
	}{
		{"127.0.0.1:1080", admitAnyone, true},
		{"[::1]:1080", admitSameUser, true},
		{"localhost:1080", admitAuto, true},
		{"0.0.0.0:1080", admitAnyone, false},
		{":1080", admitAuto, false},
		{"192.0.2.1:1080", admitSameUser, false},
		{"192.0.2.1:1080", admitPassword, true},
		{"[::ffff:192.0.2.1]:1080", admitAnyone, false},
	} {
		c := defaultClientConfig().Door
		c.Listen, c.Admission = test.listen, test.admission
		ok := true
		c.validate(func(string, string, string) { ok = false })
		if ok != test.ok {
			t.Errorf("door on %s for %s: valid is %v, want %v", test.listen, test.admission, ok, test.ok)
		}
	}
}

func TestNearestWordIsFoundOnlyNearby(t *testing.T) {
	known := []string{"listen", "name", "allow", "limits.sessions"}
	for word, want := range map[string]string{
		"listne":          "listen",
		"NAME":            "name",
		"alow":            "allow",
		"limit.session":   "limits.sessions",
		"limits.sessoins": "limits.sessions",
		"user":            "",
		"":                "",
	} {
		if got := nearest(word, known); got != want {
			t.Errorf("nearest to %q is %q, want %q", word, got, want)
		}
	}
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte("listen = [\":1\"]\n[log]\nlevel=\"info\""))
	f.Add([]byte("log = { level = \"x\", a.b = 3 }"))
	f.Add([]byte("[[site]]\ndir = \"\"\n[site.dir]\n"))
	f.Add([]byte("drain = \"\"\n\"quoted key\" = 1"))
	f.Fuzz(func(t *testing.T, text []byte) {
		c := defaultServerConfig()
		for _, line := range complaints(parseConfig("c", text, &c)) {
			if !strings.HasPrefix(line, "c:") {
				t.Errorf("complaint %q does not say where", line)
			}
		}
	})
}
