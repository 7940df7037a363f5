package socks

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/adit-net/adit/tunnel/relay"
)

// exchange sends a request and gives the response with its whole body. A
// request that begins with CONNECT has no body in a good response.
func exchange(t testing.TB, c net.Conn, r *bufio.Reader, request string) (*http.Response, string) {
	t.Helper()
	send(t, c, request)
	method, _, _ := strings.Cut(request, " ")
	resp, err := http.ReadResponse(r, &http.Request{Method: method})
	if err != nil {
		t.Fatalf("%q: %v", request, err)
	}
	defer resp.Body.Close()
	if method == http.MethodConnect && resp.StatusCode == http.StatusOK {
		return resp, ""
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%q: %v", request, err)
	}
	return resp, string(body)
}

func basic(user, password string) string {
	return "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password)) + "\r\n"
}

func TestWebPagesGetNothingRelayed(t *testing.T) {
	door := openDoor(t, &Door{Relay: never{t: t}})
	smuggled := "CONNECT example.com:80 HTTP/1.1\r\n\r\n"
	for _, request := range []string{
		"GET / HTTP/1.1\r\nHost: 127.0.0.1:1080\r\n\r\n",
		"GET / HTTP/1.0\r\n\r\n",
		"GET /http://example.com/ HTTP/1.1\r\nHost: a\r\n\r\n",
		"GET //example.com/ HTTP/1.1\r\nHost: a\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: example.com\r\nOrigin: http://example.com\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: example.com:80\r\n\r\n",
		"OPTIONS / HTTP/1.1\r\nHost: a\r\nOrigin: http://b\r\nAccess-Control-Request-Method: CONNECT\r\n\r\n",
		"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
		"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: " + strconv.Itoa(len(smuggled)) + "\r\n\r\n" + smuggled,
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n" + smuggled,
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled,
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + smuggled,
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
	} {
		c := dial(t, door)
		r := bufio.NewReader(c)
		resp, body := exchange(t, c, r, request)
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%q: status %s", request, resp.Status)
		}
		if strings.Contains(request, "/1.1\r\n") && resp.Request.Method != "HEAD" && !strings.Contains(body, "proxy") {
			t.Errorf("%q: no hint in %q", request, body)
		}
		for name := range resp.Header {
			if strings.HasPrefix(name, "Access-Control") || name == "Set-Cookie" {
				t.Errorf("%q: the response has %s", request, name)
			}
		}
		expectEnd(t, r)
	}
}

func TestBadRequestsAreToldSo(t *testing.T) {
	door := openDoor(t, &Door{Relay: never{t: t}})
	for request, want := range map[string]int{
		"CONNECT example.com HTTP/1.1\r\n\r\n":                                                          400,
		"CONNECT example.com: HTTP/1.1\r\n\r\n":                                                         400,
		"CONNECT example.com:0 HTTP/1.1\r\n\r\n":                                                        400,
		"CONNECT example.com:65536 HTTP/1.1\r\n\r\n":                                                    400,
		"CONNECT example.com:-1 HTTP/1.1\r\n\r\n":                                                       400,
		"CONNECT example.com:http HTTP/1.1\r\n\r\n":                                                     400,
		"CONNECT :80 HTTP/1.1\r\n\r\n":                                                                  400,
		"CONNECT 2001:db8::1:80 HTTP/1.1\r\n\r\n":                                                       400,
		"CONNECT [fe80::1%25lo]:80 HTTP/1.1\r\n\r\n":                                                    400,
		"CONNECT user@example.com:80 HTTP/1.1\r\n\r\n":                                                  400,
		"CONNECT example.com?x:80 HTTP/1.1\r\n\r\n":                                                     400,
		"CONNECT / HTTP/1.1\r\n\r\n":                                                                    400,
		"CONNECT http://example.com:80/ HTTP/1.1\r\n\r\n":                                               400,
		"CONNECT " + strings.Repeat("n", 256) + ":80 HTTP/1.1\r\n\r\n":                                  400,
		"CONNECT example.com:80 HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc":                               400,
		"CONNECT example.com:80 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n":                400,
		"GET https://example.com/ HTTP/1.1\r\nHost: example.com\r\n\r\n":                                400,
		"GET ftp://example.com/ HTTP/1.1\r\nHost: example.com\r\n\r\n":                                  400,
		"GET http:///path HTTP/1.1\r\nHost: example.com\r\n\r\n":                                        400,
		"GET http://example.com:0/ HTTP/1.1\r\nHost: example.com\r\n\r\n":                               400,
		"GET http://example.com:99999/ HTTP/1.1\r\nHost: example.com\r\n\r\n":                           400,
		"GET http://[fe80::1%25lo]/ HTTP/1.1\r\nHost: example.com\r\n\r\n":                              400,
		"GET http://example.com/ HTTP/1.1\r\n\r\n":                                                      400,
		"GET http://example.com/ HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 80<<10) + "\r\n\r\n": 431,
	} {
		c := dial(t, door)
		if resp, _ := exchange(t, c, bufio.NewReader(c), request); resp.StatusCode != want {
			t.Errorf("%.60q: status %s, want %d", request, resp.Status, want)
		}
	}
}

func TestConnectTunnelsBytesAsTheyAre(t *testing.T) {
	door := openDoor(t, &Door{Relay: direct{}})
	target := listen(t, "127.0.0.1:0")
	for _, version := range []string{"HTTP/1.0", "HTTP/1.1"} {
		app := dial(t, door)
		send(t, app, "CONNECT "+target.Addr().String()+" "+version+"\r\n\r\nearly")
		far := accept(t, target)
		expect(t, far, "early")
		expect(t, app, "HTTP/1.1 200 Connection established\r\n\r\n")
		send(t, app, "up")
		expect(t, far, "up")
		app.CloseWrite()
		expectEnd(t, far)
		send(t, far, "HTTP/1.1 500 looks like a response\r\n\r\n")
		far.CloseWrite()
		expect(t, app, "HTTP/1.1 500 looks like a response\r\n\r\n")
		expectEnd(t, app)
	}
}

func TestFailuresHaveTheirStatus(t *testing.T) {
	for code, want := range map[Code]int{
		GeneralFailure: 502, NotAllowed: 403, NetworkUnreachable: 502, HostUnreachable: 502,
		ConnectionRefused: 502, TTLExpired: 504, AddressNotSupported: 502, TimedOut: 504,
	} {
		door := openDoor(t, &Door{Relay: &recorder{fails: fmt.Errorf("connect: %w", code)}})
		c := dial(t, door)
		r := bufio.NewReader(c)
		for range 2 {
			resp, _ := exchange(t, c, r, "GET http://example.com/ HTTP/1.1\r\nHost: a\r\n\r\n")
			if resp.StatusCode != want {
				t.Errorf("code %v: GET has status %s, want %d", code, resp.Status, want)
			}
		}
		// What an app sends ahead through a tunnel is no request of its own.
		resp, _ := exchange(t, c, r, "CONNECT example.com:80 HTTP/1.1\r\n\r\nGET http://example.com/ HTTP/1.1\r\nHost: a\r\n\r\n")
		if resp.StatusCode != want {
			t.Errorf("code %v: CONNECT has status %s, want %d", code, resp.Status, want)
		}
		expectEnd(t, r)
	}
}

func TestAppsCanTryAgainAfter407(t *testing.T) {
	rec := &recorder{}
	d := &Door{Relay: rec}
	d.Admission.Authenticate = Password("fred", "secret")
	c := dial(t, openDoor(t, d))
	r := bufio.NewReader(c)
	for _, login := range []string{
		"", basic("fred", "wrong"), basic("fre", "secret"), basic("fred", ""), basic("", "secret"),
		"Proxy-Authorization: Bearer secret\r\n", "Authorization: Basic ZnJlZDpzZWNyZXQ=\r\n",
	} {
		resp, _ := exchange(t, c, r, "CONNECT example.com:80 HTTP/1.1\r\n"+login+"\r\n")
		if ask := resp.Header.Get("Proxy-Authenticate"); resp.StatusCode != 407 || !strings.HasPrefix(ask, `Basic realm="`) || resp.Close {
			t.Fatalf("%q: status %s, asks for %q, closes: %v", login, resp.Status, ask, resp.Close)
		}
	}
	if resp, _ := exchange(t, c, r, "CONNECT example.com:80 HTTP/1.1\r\n"+basic("fred", "secret")+"\r\n"); resp.StatusCode != 200 {
		t.Fatalf("the right password: status %s", resp.Status)
	}
	if asked := rec.requests(); len(asked) != 1 || asked[0].User != "fred" || asked[0].Dialect != HTTPConnect {
		t.Errorf("the relay is asked for %+v", asked)
	}
}

func TestConnectionsEndAfterTooManyWrongPasswords(t *testing.T) {
	d := &Door{Relay: never{t: t}}
	d.Admission.Authenticate = Password("fred", "secret")
	c := dial(t, openDoor(t, d))
	r := bufio.NewReader(c)
	for i := range maxRefusals {
		resp, _ := exchange(t, c, r, "GET http://example.com/ HTTP/1.1\r\nHost: a\r\n"+basic("fred", "wrong")+"\r\n")
		if last := i == maxRefusals-1; resp.StatusCode != 407 || resp.Close != last {
			t.Fatalf("request %d: status %s, closes: %v", i, resp.Status, resp.Close)
		}
	}
	expectEnd(t, r)
}

func TestEveryRequestNeedsThePassword(t *testing.T) {
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "page") }))
	defer site.Close()
	d := &Door{Relay: direct{}}
	d.Admission.Authenticate = Password("fred", "secret")
	c := dial(t, openDoor(t, d))
	r := bufio.NewReader(c)
	for login, want := range map[string]int{basic("fred", "secret"): 200, "": 407} {
		if resp, _ := exchange(t, c, r, "GET "+site.URL+" HTTP/1.1\r\nHost: a\r\n"+login+"\r\n"); resp.StatusCode != want {
			t.Errorf("%q: status %s, want %d", login, resp.Status, want)
		}
	}
}

func TestForwardedRequestsKeepTheirWords(t *testing.T) {
	target := listen(t, "127.0.0.1:0")
	site := target.Addr().String()
	d := &Door{Relay: direct{}}
	d.Admission.Authenticate = Password("fred", "secret")
	app := dial(t, openDoor(t, d))
	send(t, app, "GET http://"+site+"/a%2Fb/%7e?x=1;y&&z=%zz HTTP/1.1\r\n"+
		"Host: elsewhere.example\r\n"+basic("fred", "secret")+
		"Proxy-Connection: keep-alive\r\nConnection: X-Hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nTe: gzip\r\n"+
		"X-Forwarded-For: 192.0.2.7\r\nForwarded: for=192.0.2.7\r\nAuthorization: Basic dTpw\r\nX-Own: 1\r\nX-Own: 2\r\n\r\n")
	r, err := http.ReadRequest(bufio.NewReader(accept(t, target)))
	if err != nil {
		t.Fatal(err)
	}
	if r.RequestURI != "/a%2Fb/%7e?x=1;y&&z=%zz" || r.Host != site {
		t.Errorf("the target is asked for %s at %s", r.RequestURI, r.Host)
	}
	want := http.Header{
		"X-Forwarded-For": {"192.0.2.7"}, "Forwarded": {"for=192.0.2.7"},
		"Authorization": {"Basic dTpw"}, "X-Own": {"1", "2"},
	}
	if fmt.Sprint(r.Header) != fmt.Sprint(want) {
		t.Errorf("the target gets %v, want %v", r.Header, want)
	}
}

func TestForwardingAddsNoAddressOfTheApp(t *testing.T) {
	target := listen(t, "127.0.0.1:0")
	app := dial(t, openDoor(t, &Door{Relay: direct{}}))
	send(t, app, "GET http://"+target.Addr().String()+" HTTP/1.1\r\nHost: a\r\n\r\n")
	r, err := http.ReadRequest(bufio.NewReader(accept(t, target)))
	if err != nil || len(r.Header) > 0 || r.RequestURI != "/" {
		t.Errorf("the target gets %s with %v (%v)", r.RequestURI, r.Header, err)
	}
}

// counting is a relay that counts the connections it opens.
type counting struct {
	direct
	mu    sync.Mutex
	users []string
}

func (c *counting) Connect(ctx context.Context, r Request) (relay.Conn, Reply, error) {
	c.mu.Lock()
	c.users = append(c.users, r.User)
	c.mu.Unlock()
	return c.direct.Connect(ctx, r)
}

func TestAppsDoNotShareConnectionsToTargets(t *testing.T) {
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.RemoteAddr) }))
	defer site.Close()
	relay := &counting{}
	door := openDoor(t, &Door{Relay: relay})
	seen := map[string]bool{}
	for range 3 {
		c := dial(t, door)
		r := bufio.NewReader(c)
		_, first := exchange(t, c, r, "GET "+site.URL+"/ HTTP/1.1\r\nHost: a\r\n\r\n")
		_, second := exchange(t, c, r, "GET "+site.URL+"/again HTTP/1.1\r\nHost: a\r\n\r\n")
		if first != second || seen[first] {
			t.Errorf("the target sees %s, then %s, before that %v", first, second, seen)
		}
		seen[first] = true
	}
	if n := len(relay.users); n != 3 {
		t.Errorf("the relay is asked %d times for 3 apps", n)
	}
}

func TestUsersDoNotShareConnectionsToTargets(t *testing.T) {
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.RemoteAddr) }))
	defer site.Close()
	relay := &counting{}
	d := &Door{Relay: relay}
	d.Admission.Authenticate = func(context.Context, netip.AddrPort, string, string) bool { return true }
	c := dial(t, openDoor(t, d))
	r := bufio.NewReader(c)
	_, fred := exchange(t, c, r, "GET "+site.URL+"/ HTTP/1.1\r\nHost: a\r\n"+basic("fred", "x")+"\r\n")
	_, anna := exchange(t, c, r, "GET "+site.URL+"/ HTTP/1.1\r\nHost: a\r\n"+basic("anna", "x")+"\r\n")
	if fred == anna || fmt.Sprint(relay.users) != "[fred anna]" {
		t.Errorf("the target sees %s and %s, the relay %v", fred, anna, relay.users)
	}
}

func TestForwardedNamesTravelUnresolved(t *testing.T) {
	rec := &recorder{}
	c := dial(t, openDoor(t, &Door{Relay: rec}))
	r := bufio.NewReader(c)
	exchange(t, c, r, "GET http://example.com/ HTTP/1.1\r\nHost: a\r\n\r\n")
	exchange(t, c, r, "GET http://Example.com:8080/ HTTP/1.1\r\nHost: a\r\n\r\n")
	exchange(t, c, r, "GET http://[2001:db8::1]/ HTTP/1.1\r\nHost: a\r\n\r\n")
	o := outcome{asked: rec.requests()}
	if want := "HTTP to example.com:80, HTTP to Example.com:8080, HTTP to [2001:db8::1]:80"; o.describe() != want {
		t.Errorf("the relay is asked for %s, want %s", o.describe(), want)
	}
}

func TestResponsesArriveAsTheyCome(t *testing.T) {
	target := listen(t, "127.0.0.1:0")
	app := dial(t, openDoor(t, &Door{Relay: direct{}}))
	send(t, app, "GET http://"+target.Addr().String()+"/ HTTP/1.1\r\nHost: a\r\n\r\n")
	far := accept(t, target)
	if _, err := http.ReadRequest(bufio.NewReader(far)); err != nil {
		t.Fatal(err)
	}
	send(t, far, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabc")
	r := bufio.NewReader(app)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	expect(t, resp.Body, "abc")
	send(t, far, "def")
	expect(t, resp.Body, "def")
	expectEnd(t, resp.Body)
}

func TestBrokenResponsesDoNotLookComplete(t *testing.T) {
	target := listen(t, "127.0.0.1:0")
	door := openDoor(t, &Door{Relay: direct{}})
	for _, head := range []string{
		"HTTP/1.0 200 OK\r\n\r\nhalf", // complete when it ends
		"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
	} {
		app := dial(t, door)
		send(t, app, "GET http://"+target.Addr().String()+"/ HTTP/1.0\r\n\r\n")
		far := accept(t, target)
		if _, err := http.ReadRequest(bufio.NewReader(far)); err != nil {
			t.Fatal(err)
		}
		send(t, far, head)
		r := bufio.NewReader(app)
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		expect(t, resp.Body, "half")
		far.SetLinger(0)
		far.Close()
		if b, err := io.ReadAll(resp.Body); err == nil {
			t.Errorf("%q: the app reads %q and takes it for all", head, b)
		}
	}
}

// upgrade opens a WebSocket, or what looks like one, through plain proxying.
func upgrade(t *testing.T) (app, far *net.TCPConn) {
	t.Helper()
	return upgradeAt(t, openDoor(t, &Door{Relay: direct{}}))
}

func upgradeAt(t *testing.T, door string) (app, far *net.TCPConn) {
	t.Helper()
	target := listen(t, "127.0.0.1:0")
	app = dial(t, door)
	send(t, app, "GET http://"+target.Addr().String()+"/ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	far = accept(t, target)
	r, err := http.ReadRequest(bufio.NewReader(far))
	if err != nil || r.Header.Get("Upgrade") != "websocket" || r.Header.Get("Connection") != "Upgrade" {
		t.Fatalf("the target gets %v (%v)", r, err)
	}
	send(t, far, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	expect(t, app, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	return app, far
}

func TestWebSocketsPassPlainProxying(t *testing.T) {
	app, far := upgrade(t)
	send(t, app, "\x81\x02up")
	expect(t, far, "\x81\x02up")
	send(t, far, "\x81\x04down")
	expect(t, app, "\x81\x04down")
	app.CloseWrite()
	expectEnd(t, far)
	send(t, far, "late")
	far.CloseWrite()
	expect(t, app, "late")
	expectEnd(t, app)
}

// Most of what the target says is in the door's socket when both directions end.
func TestEndOfWebSocketsWaitsForWhatCameBefore(t *testing.T) {
	const size = 1 << 20
	for range 10 {
		app, far := upgrade(t)
		app.CloseWrite()
		expectEnd(t, far)
		send(t, far, string(make([]byte, size)))
		far.CloseWrite()
		if n, err := io.Copy(io.Discard, app); n != size || err != nil {
			t.Fatalf("the app reads %d bytes (%v), want %d", n, err, size)
		}
	}
}

func TestWebSocketsPassResetsOn(t *testing.T) {
	for _, appResets := range []bool{true, false} {
		near, other := upgrade(t)
		if !appResets {
			near, other = other, near
		}
		near.SetLinger(0)
		near.Close()
		expectReset(t, other)
	}
}

func TestDoorThatStopsResetsWebSockets(t *testing.T) {
	for range 20 {
		ctx, stop := context.WithCancel(t.Context())
		ln := listen(t, "127.0.0.1:0")
		d := Door{Relay: direct{}}
		served := make(chan error, 1)
		go func() { served <- d.Serve(ctx, ln) }()
		app, far := upgradeAt(t, ln.Addr().String())
		stop()
		expectReset(t, far)
		expectReset(t, app)
		if err := <-served; err != nil {
			t.Error(err)
		}
	}
}

func TestGuestsMayReadSlowly(t *testing.T) {
	size := 8 << 20
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(make([]byte, size)) }))
	defer site.Close()
	d := &Door{Relay: direct{}, HandshakeTimeout: 50 * time.Millisecond}
	app := dial(t, openDoor(t, d))
	send(t, app, "GET "+site.URL+" HTTP/1.1\r\nHost: a\r\n\r\n")
	r := bufio.NewReader(app)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	time.Sleep(4 * d.HandshakeTimeout) // what must not matter
	if n, err := io.Copy(io.Discard, resp.Body); n != int64(size) || err != nil {
		t.Errorf("the app reads %d bytes (%v), want %d", n, err, size)
	}
	if _, body := exchange(t, app, r, "GET "+site.URL+" HTTP/1.1\r\nHost: a\r\n\r\n"); len(body) != size {
		t.Errorf("the app reads %d bytes of the next response, want %d", len(body), size)
	}
}

func TestStrangersDoNotKeepAConnectionBetweenRequests(t *testing.T) {
	d := &Door{Relay: never{t: t}, HandshakeTimeout: 100 * time.Millisecond}
	d.Admission.Authenticate = Password("fred", "secret")
	c := dial(t, openDoor(t, d))
	r := bufio.NewReader(c)
	exchange(t, c, r, "CONNECT example.com:80 HTTP/1.1\r\n\r\n")
	if _, err := io.Copy(io.Discard, r); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the connection stays open after a 407")
	}
}
