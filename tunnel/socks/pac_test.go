package socks

import (
	"bufio"
	"net/http"
	"strings"
	"testing"
)

func TestPACSaysHowTheDoorWasReached(t *testing.T) {
	door := openDoor(t, &Door{Relay: never{t: t}, Names: []string{"wpad", "Proxy.Example"}})
	for request, want := range map[string]string{
		"GET /proxy.pac HTTP/1.1\r\nHost: " + door + "\r\n\r\n":            door,
		"GET /wpad.dat HTTP/1.1\r\nHost: " + door + "\r\n\r\n":             door,
		"GET /proxy.pac?x=1 HTTP/1.1\r\nHost: LocalHost:1081\r\n\r\n":      "localhost:1081",
		"GET /proxy.pac HTTP/1.0\r\nHost: 192.0.2.1\r\n\r\n":               "192.0.2.1:80",
		"GET /proxy.pac HTTP/1.1\r\nHost: [2001:DB8::1]:1080\r\n\r\n":      "[2001:db8::1]:1080",
		"GET /proxy.pac HTTP/1.1\r\nHost: [::1]\r\n\r\n":                   "[::1]:80",
		"GET /wpad.dat HTTP/1.1\r\nHost: wpad\r\n\r\n":                     "wpad:80",
		"GET /proxy.pac HTTP/1.1\r\nHost: proxy.example:1080\r\n\r\n":      "proxy.example:1080",
		"GET /proxy.pac HTTP/1.1\r\nHost: 127.0.0.1:9\r\nX: y\r\n\r\nmore": "127.0.0.1:9",
	} {
		c := dial(t, door)
		r := bufio.NewReader(c)
		resp, body := exchange(t, c, r, request)
		if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "application/x-ns-proxy-autoconfig" {
			t.Errorf("%q: %s, %v", request, resp.Status, resp.Header)
		}
		if line := `return "SOCKS5 ` + want + "; SOCKS " + want + "; PROXY " + want + `";`; !strings.Contains(body, line) {
			t.Errorf("%q: no %q in %q", request, line, body)
		}
		expectEnd(t, r)
	}
	c := dial(t, door)
	send(t, c, "HEAD /proxy.pac HTTP/1.1\r\nHost: "+door+"\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: http.MethodHead})
	if err != nil || resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "application/x-ns-proxy-autoconfig" {
		t.Errorf("HEAD: %v, %v", resp, err)
	}
}

func TestPACIsForNoOtherName(t *testing.T) {
	door := openDoor(t, &Door{Relay: never{t: t}, Names: []string{"wpad"}})
	for _, request := range []string{
		"GET /proxy.pac HTTP/1.1\r\nHost: evil.example\r\n\r\n",
		"GET /proxy.pac HTTP/1.1\r\nHost: 127.0.0.1.evil.example:1080\r\n\r\n",
		"GET /proxy.pac HTTP/1.1\r\nHost: wpad.evil.example\r\n\r\n",
		"GET /proxy.pac HTTP/1.1\r\nHost: localhost:0\r\n\r\n",
		"GET /proxy.pac HTTP/1.1\r\nHost: localhost:port\r\n\r\n",
		"GET /proxy.pac HTTP/1.1\r\nHost: [fe80::1%25lo]:80\r\n\r\n",
		"GET /proxy.pac HTTP/1.1\r\nHost: \r\n\r\n",
		"GET /proxy.pac HTTP/1.0\r\n\r\n",
		"GET /proxy.pac/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"GET /x/proxy.pac HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"POST /proxy.pac HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n",
	} {
		c := dial(t, door)
		if resp, body := exchange(t, c, bufio.NewReader(c), request); resp.StatusCode != http.StatusBadRequest || strings.Contains(body, "FindProxy") {
			t.Errorf("%q: %s, %q", request, resp.Status, body)
		}
	}
}

func TestPACIsHarmlessToStrangers(t *testing.T) {
	app := newScript([]byte("GET /proxy.pac HTTP/1.1\r\nHost: 192.0.2.7:1080\r\n\r\nCONNECT example.com:80 HTTP/1.1\r\n\r\n"))
	app.remote = addr(t, "192.0.2.1:1234") // not on loopback
	o := run(t, &Door{Relay: &recorder{}}, app)
	if o.asked != nil || strings.Contains(o.answers, "Access-Control") || strings.Contains(o.answers, "192.0.2.1:") {
		t.Errorf("%+v", o)
	}
	if !strings.HasPrefix(o.answers, "HTTP/1.1 200") || !strings.Contains(o.answers, "SOCKS5 192.0.2.7:1080") {
		t.Errorf("answered by %q", o.answers)
	}
}

func TestPACPutsHTTPFirstWhereAPasswordIsAsked(t *testing.T) {
	door := openDoor(t, passwordDoor(never{t: t}))
	c := dial(t, door)
	_, body := exchange(t, c, bufio.NewReader(c), "GET /proxy.pac HTTP/1.1\r\nHost: localhost:1080\r\n\r\n")
	if !strings.Contains(body, `"PROXY localhost:1080; SOCKS localhost:1080; SOCKS5 localhost:1080"`) {
		t.Errorf("%q", body)
	}
}

func TestPACNamesAProxyOverTLSWhereTheDoorSpeaksIt(t *testing.T) {
	at := tlsDoor(t, passwordDoor(never{t: t}))
	for host, want := range map[string]string{"192.0.2.1:1080": "192.0.2.1:1080", "localhost": "localhost:443"} {
		app, _ := at()
		_, body := exchange(t, app, bufio.NewReader(app), "GET /proxy.pac HTTP/1.1\r\nHost: "+host+"\r\n\r\n")
		if !strings.Contains(body, `return "HTTPS `+want+`";`) {
			t.Errorf("%s: %q", host, body)
		}
	}
}

// FuzzPACHost checks that nothing of a Host field gets into the file but an address.
func FuzzPACHost(f *testing.F) {
	for _, s := range []string{"127.0.0.1:1080", "[::1]", "localhost", `a";alert(1);"`, "::1:80", "[::ffff:1.2.3.4]:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, field string) {
		at, ok := reachedAt(field, "80", nil)
		if !ok {
			return
		}
		if a, err := ParseAddr(at); err != nil || a.Name != "" && a.Name != "localhost" || a.Port == 0 {
			t.Errorf("%q gives %q", field, at)
		}
		if again, ok := reachedAt(at, "80", nil); !ok || again != at {
			t.Errorf("%q gives %q, and that %q", field, at, again)
		}
	})
}
