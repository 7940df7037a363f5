package tlslink

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

//lint:file-ignore SA1019 The reference has the same HTTP/2 server, set up the usual way.

// reference is a web server put together as anybody would, with no carrier in
// sight: net/http, golang.org/x/net/http2, and the same site, certificate and limits.
func reference(site http.Handler, cert *tls.Certificate, timeout time.Duration) *http.Server {
	h1 := &http.Server{
		Handler:           site,
		ReadHeaderTimeout: timeout,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          newErrorLog(discard()),
		TLSConfig:         &tls.Config{Certificates: []tls.Certificate{*cert}, NextProtos: []string{"h2", "http/1.1"}},
	}
	h2 := &http2.Server{MaxConcurrentStreams: 32, MaxReadFrameSize: 16 << 10, MaxUploadBufferPerConnection: 64 << 10, MaxUploadBufferPerStream: 64 << 10}
	if err := http2.ConfigureServer(h1, h2); err != nil {
		panic(err)
	}
	return h1
}

// testSite answers in more than one way, and reads bodies.
func testSite() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", plainPage)
	mux.HandleFunc("POST /echo", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
		}
		_, _ = w.Write(body)
	})
	return mux
}

// probe is what a stranger does on a fresh connection.
type probe struct {
	plain  bool     // no TLS: send goes out as it is
	alpn   []string // offered protocols
	tls    uint16   // the highest version; zero: 1.3
	resume bool     // resume a TLS session
	send   []byte
	split  bool // byte by byte
	end    bool // end the sending direction afterwards
}

// prober sends probes to one server.
type prober struct{ address string }

// patiently is how long a probe waits for more before it takes the connection to
// be open and silent.
const patiently = 150 * time.Millisecond

// try sends a probe and tells what came back and what became of the connection.
func (p *prober) try(what probe) string {
	below, err := net.Dial("tcp", p.address)
	if err != nil {
		return err.Error()
	}
	defer below.Close()
	_ = below.SetDeadline(time.Now().Add(patience))
	if what.plain {
		return exchangeBytes(below, what, func() error { return below.(*net.TCPConn).CloseWrite() })
	}
	config := &tls.Config{ServerName: "exit.test", InsecureSkipVerify: true, NextProtos: what.alpn, MaxVersion: what.tls}
	if what.tls == tls.VersionTLS11 {
		config.MinVersion = tls.VersionTLS10
	}
	if what.resume {
		if config.ClientSessionCache, err = p.session(); err != nil {
			return err.Error()
		}
	}
	c := tls.Client(below, config)
	if err := c.Handshake(); err != nil {
		return "handshake: " + scrub(err.Error())
	}
	s := c.ConnectionState()
	return fmt.Sprintf("%s %s %s %s resumed:%v\n", tls.VersionName(s.Version), tls.CipherSuiteName(s.CipherSuite), s.CurveID, s.NegotiatedProtocol, s.DidResume) +
		exchangeBytes(c, what, c.CloseWrite)
}

func exchangeBytes(c net.Conn, what probe, end func() error) string {
	var sender sync.WaitGroup
	sender.Go(func() {
		step := len(what.send)
		if what.split {
			step = 1
		}
		for part := range slices.Chunk(what.send, max(step, 1)) {
			if _, err := c.Write(part); err != nil {
				return // the answer tells
			}
		}
		if what.end {
			_ = end()
		}
	})
	defer sender.Wait()
	var got bytes.Buffer
	buf := make([]byte, 64<<10)
	for {
		_ = c.SetReadDeadline(time.Now().Add(patiently))
		n, err := c.Read(buf)
		got.Write(buf[:n])
		if err != nil {
			_ = c.SetWriteDeadline(time.Unix(1, 0))
			return describe(got.Bytes()) + "fate: " + fate(err)
		}
	}
}

func fate(err error) string {
	switch {
	case isTimeout(err):
		return "open"
	case errors.Is(err, io.EOF):
		return "ended"
	case errors.Is(err, syscall.ECONNRESET):
		return "reset"
	}
	return scrub(err.Error())
}

var (
	ports = regexp.MustCompile(`127\.0\.0\.1:\d+`)
	dates = regexp.MustCompile(`(?i)date: [^\r\n]*`)
)

func scrub(s string) string { return ports.ReplaceAllString(s, "ADDRESS") }

// describe shows what a server has sent, without dates: HTTP/2 as frames,
// anything else as it is.
func describe(b []byte) string {
	if len(b) < frameHeader || b[3] != frameSettings {
		return fmt.Sprintf("%q\n", dates.ReplaceAllString(string(b), "date"))
	}
	var s strings.Builder
	var headers strings.Builder
	decoder := hpack.NewDecoder(4096, func(f hpack.HeaderField) {
		if f.Name != "date" {
			fmt.Fprintf(&headers, " %s=%q", f.Name, f.Value)
		}
	})
	for len(b) >= frameHeader {
		h := parseHeader(b)
		payload := b[frameHeader:min(frameHeader+h.length, len(b))]
		b = b[frameHeader+len(payload):]
		if h.kind == 1 { // HEADERS
			headers.Reset()
			if _, err := decoder.Write(payload); err != nil {
				fmt.Fprintf(&s, "bad headers: %v", err)
			}
			fmt.Fprintf(&s, "headers %d %d%s\n", h.stream, h.flags, headers.String())
			continue
		}
		fmt.Fprintf(&s, "%+v %q\n", h, payload)
	}
	return fmt.Sprintf("%s%x\n", s.String(), b)
}

// get is an HTTP/2 request as anybody sends it.
func get(method, path string, stream uint32, end bool) []byte {
	var block bytes.Buffer
	e := hpack.NewEncoder(&block)
	for _, f := range []hpack.HeaderField{{Name: ":method", Value: method}, {Name: ":scheme", Value: "https"}, {Name: ":authority", Value: "exit.test"}, {Name: ":path", Value: path}} {
		if err := e.WriteField(f); err != nil {
			panic(err)
		}
	}
	var b bytes.Buffer
	f := http2.NewFramer(&b, nil)
	if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: end}); err != nil {
		panic(err)
	}
	return b.Bytes()
}

func probes() map[string]probe {
	h2, h1 := []string{"h2", "http/1.1"}, []string{"http/1.1"}
	cat := func(parts ...[]byte) []byte { return slices.Concat(parts...) }
	text := func(s string) []byte { return []byte(s) }
	bad := bytes.Repeat([]byte{3}, OpeningSize) // nobody's signature
	settings := appendFrame(text(preface), frameSettings, chromeSettings)
	ours := appendFrame(nil, frameExtension, opening()) // one that would be admitted in its place
	ping := appendFrame(nil, framePing, text("01234567"))
	request := text("GET / HTTP/1.1\r\nHost: exit.test\r\n\r\n")
	garbage := make([]byte, 600)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range garbage {
		garbage[i] = byte(r.Uint32())
	}
	onStream, flagged := bytes.Clone(ours), bytes.Clone(ours)
	onStream[8], flagged[4] = 1, 1
	return map[string]probe{
		"HTTP/1.1":                             {alpn: h1, send: request},
		"HTTP/1.1 by byte":                     {alpn: h1, send: request, split: true},
		"HTTP/1.1 ended":                       {alpn: h1, send: request, end: true},
		"HTTP/1.1 twice":                       {alpn: h1, send: cat(request, request)},
		"HTTP/1.1 not there":                   {alpn: h1, send: text("GET /x HTTP/1.1\r\nHost: a\r\n\r\n")},
		"HTTP/1.1 without a host":              {alpn: h1, send: text("GET / HTTP/1.1\r\n\r\n")},
		"HTTP/1.1 with a body":                 {alpn: h1, send: text("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")},
		"HTTP/1.1 with a huge header":          {alpn: h1, send: text("GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 30<<10) + "\r\n\r\n")},
		"HTTP/1.0":                             {alpn: h1, send: text("GET / HTTP/1.0\r\n\r\n")},
		"HTTP/1.1 garbage":                     {alpn: h1, send: garbage},
		"HTTP/1.1 asks for the connection":     {alpn: h1, send: text("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n")},
		"HTTP/1.1, flight":                     {alpn: h1, send: flight(opening())},
		"HTTP/1.1, half a request":             {alpn: h1, send: request[:20]},
		"HTTP/1.1, half a request, ended":      {alpn: h1, send: request[:20], end: true},
		"no ALPN":                              {send: request},
		"no ALPN, flight":                      {send: flight(opening())},
		"no ALPN, nothing":                     {},
		"unknown ALPN":                         {alpn: []string{"imap"}, send: request},
		"HTTP/2":                               {alpn: h2, send: cat(settings, get("GET", "/", 1, true))},
		"HTTP/2 by byte":                       {alpn: h2, send: cat(settings, get("GET", "/", 1, true)), split: true},
		"HTTP/2 not there":                     {alpn: h2, send: cat(settings, get("GET", "/x", 1, true))},
		"HTTP/2 head":                          {alpn: h2, send: cat(settings, get("HEAD", "/", 1, true))},
		"HTTP/2 ping":                          {alpn: h2, send: cat(settings, ping)},
		"HTTP/2 with a body":                   {alpn: h2, send: cat(settings, get("POST", "/echo", 1, false), text("\x00\x00\x03\x00\x01\x00\x00\x00\x01abc"))},
		"HTTP/2 garbage":                       {alpn: h2, send: garbage},
		"HTTP/2, ended":                        {alpn: h2, end: true},
		"HTTP/2, raw request":                  {alpn: h2, send: request},
		"HTTP/2, preface alone, ended":         {alpn: h2, send: text(preface), end: true},
		"HTTP/2, garbage after the preface":    {alpn: h2, send: cat(text(preface), garbage)},
		"HTTP/2, garbage after SETTINGS":       {alpn: h2, send: cat(settings, garbage)},
		"HTTP/2, even stream":                  {alpn: h2, send: cat(settings, get("GET", "/", 2, true))},
		"HTTP/2, oversized frame":              {alpn: h2, send: cat(settings, text("\x00\x40\x01\xad\x00\x00\x00\x00\x00"), make([]byte, 16385))},
		"HTTP/2, huge frame":                   {alpn: h2, send: cat(settings, text("\xff\xff\xff\xad\x00\x00\x00\x00\x00"), make([]byte, 1000))},
		"HTTP/2, oversized SETTINGS":           {alpn: h2, send: cat(appendFrame(text(preface), frameSettings, make([]byte, 300)), ours, ping)},
		"HTTP/2, bad SETTINGS":                 {alpn: h2, send: cat(appendFrame(text(preface), frameSettings, make([]byte, 7)), bytes.Replace(ours, opening(), bad, 1), ping)},
		"opening, not genuine":                 {alpn: h2, send: flightWith(bad)},
		"opening, not genuine, by byte":        {alpn: h2, send: flightWith(bad), split: true},
		"opening, not genuine, ended":          {alpn: h2, send: flightWith(bad), end: true},
		"opening, not genuine, then a request": {alpn: h2, send: cat(flightWith(bad), get("GET", "/", 1, true))},
		"opening, cut off":                     {alpn: h2, send: cat(settings, ours[:100])},
		"opening, cut off, ended":              {alpn: h2, send: cat(settings, ours[:100]), end: true},
		"opening, header alone":                {alpn: h2, send: cat(settings, ours[:9])},
		"opening before SETTINGS":              {alpn: h2, send: cat(text(preface), ours, settings[len(preface):], ping)},
		"opening after a PING":                 {alpn: h2, send: cat(settings, ping, ours, ping)},
		"opening after a request":              {alpn: h2, send: cat(settings, get("GET", "/", 1, true), ours, ping)},
		"opening after SETTINGS twice":         {alpn: h2, send: cat(settings, settings[len(preface):], ours, ping)},
		"opening after one not genuine":        {alpn: h2, send: cat(flightWith(bad), ours, ping)},
		"two openings, not genuine":            {alpn: h2, send: cat(flightWith(bad), bytes.Replace(ours, opening(), bad, 1), ping)},
		"opening on a stream":                  {alpn: h2, send: cat(settings, onStream, ping)},
		"opening with a flag":                  {alpn: h2, send: cat(settings, flagged, ping)},
		"opening too short":                    {alpn: h2, send: cat(settings, appendFrame(nil, frameExtension, opening()[1:]), ping)},
		"opening too long":                     {alpn: h2, send: cat(settings, appendFrame(nil, frameExtension, append(opening(), 1)), ping)},
		"opening on TLS 1.2":                   {alpn: h2, tls: tls.VersionTLS12, send: flightWith(opening())},
		"opening on a resumed TLS session":     {alpn: h2, resume: true, send: flightWith(opening())},
		"TLS 1.2, HTTP/1.1":                    {alpn: h1, tls: tls.VersionTLS12, send: request},
		"TLS 1.1":                              {alpn: h1, tls: tls.VersionTLS11, send: request},
		"plain HTTP":                           {plain: true, send: request},
		"plain HTTP/2":                         {plain: true, send: flightWith(opening())},
		"random bytes":                         {plain: true, send: garbage},
		"random bytes, ended":                  {plain: true, send: garbage, end: true},
		"record of another version":            {plain: true, send: text("\x16\x09\x09\x00\x05hello")},
		"record that is too long":              {plain: true, send: text("\x16\x03\x01\xff\xff")},
		"application data before a handshake":  {plain: true, send: text("\x17\x03\x03\x00\x05hello")},
		"alert":                                {plain: true, send: text("\x15\x03\x03\x00\x02\x02\x28")},
		"half a ClientHello, ended":            {plain: true, send: text("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"), end: true},
		"half a ClientHello":                   {plain: true, send: text("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")},
		"SSH":                                  {plain: true, send: text("SSH-2.0-OpenSSH_9.6\r\n")},
		"nothing":                              {plain: true},
		"nothing, ended":                       {plain: true, end: true},
	}
}

// flightWith is a flight whose PING is always the same.
func flightWith(opening []byte) []byte {
	b := flight(opening)
	return append(b[:len(b)-pingSize], "01234567"...)
}

// twins runs a server that admits what opening gives, and the reference.
func twins(t *testing.T) (adit, web *prober) {
	t.Helper()
	_, cert := newCertificate(t, "exit.test")
	e := start(t, &Server{GetCertificate: always(&cert), Site: testSite()}, genuine(func(context.Context, net.Conn) {
		t.Error("a stranger was admitted")
	}))
	ref := reference(testSite(), &cert, defaultTimeout)
	ln := listen(t)
	var serving sync.WaitGroup
	serving.Go(func() { _ = ref.ServeTLS(tuned{ln}, "", "") })
	t.Cleanup(func() {
		_ = ref.Close()
		serving.Wait()
	})
	return &prober{e.address}, &prober{ln.Addr().String()}
}

// tuned gives the reference the same sockets: some ends show their settings.
type tuned struct{ net.Listener }

func (l tuned) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		Tune(c)
	}
	return c, err
}

// session gets a TLS session to resume.
func (p *prober) session() (tls.ClientSessionCache, error) {
	cache := tls.NewLRUClientSessionCache(1)
	c, err := tls.Dial("tcp", p.address, &tls.Config{ServerName: "exit.test", InsecureSkipVerify: true, NextProtos: alpn[:], ClientSessionCache: cache})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	// The ticket comes before the site's SETTINGS.
	_, err = io.ReadFull(c, make([]byte, frameHeader))
	return cache, err
}

// compareAll wants both servers to answer each probe alike. A real HTTP/2
// server is not always the same: its goroutines race to write SETTINGS, acknowledgements
// and GOAWAY. So there must be something that both give.
func compareAll(t *testing.T, probes map[string]probe) {
	t.Helper()
	adit, web := twins(t)
	var all sync.WaitGroup
	defer all.Wait()
	room := make(chan struct{}, 32) // most of the time they wait
	for name, what := range probes {
		room <- struct{}{}
		all.Go(func() {
			defer func() { <-room }()
			ours, theirs := map[string]bool{}, map[string]bool{}
			for range 30 {
				a, w := adit.try(what), web.try(what)
				ours[a], theirs[w] = true, true
				if theirs[a] || ours[w] {
					return
				}
			}
			t.Errorf("%s: the server gives\n%s\na web site gives\n%s", name, keysOf(ours), keysOf(theirs))
		})
	}
}

func keysOf(m map[string]bool) string {
	return strings.Join(slices.Sorted(maps.Keys(m)), "or\n")
}

func TestStrangersMeetAWebSite(t *testing.T) { compareAll(t, probes()) }

// Changed flights are as good a way in as none.
func TestChangedFlightsMeetAWebSite(t *testing.T) {
	changed := map[string]probe{}
	r := rand.New(rand.NewPCG(3, 4))
	for i := range 300 {
		b := flightWith(opening())
		for range 1 + r.IntN(2) {
			// Anywhere but in the PING, where a change leaves the opening genuine.
			b[r.IntN(len(b)-frameHeader-pingSize)] ^= 1 << r.IntN(8)
		}
		if found, _ := scanAll(b); bytes.Equal(found, opening()) {
			continue // the change was in SETTINGS, or was undone
		}
		changed[fmt.Sprintf("%d: %x", i, b)] = probe{alpn: alpn[:], send: b, split: r.IntN(4) == 0, end: r.IntN(4) == 0}
	}
	compareAll(t, changed)
}
