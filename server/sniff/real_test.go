package sniff

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// firstFlight gives what a program writes to a connection before it reads.
func firstFlight(t *testing.T, speak func(net.Conn)) string {
	t.Helper()
	ours, theirs := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer theirs.Close()
		speak(theirs)
	}()
	b := make([]byte, 32<<10)
	n, err := ours.Read(b)
	ours.Close()
	<-done
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n])
}

// everyWay expects the same verdict of all cuts of a beginning into two, and of
// single bytes.
func everyWay(t *testing.T, up, down string, want Verdict) {
	t.Helper()
	for at := range up {
		s := new(Stream)
		s.Up([]byte(up[:at]))
		if got := show(s, up[at:], down, 1<<20).withoutMore(); got != want {
			t.Fatalf("cut at %d of %d: got %+v, want %+v", at, len(up), got, want)
		}
	}
	if got := show(new(Stream), up, down, 1).withoutMore(); got != want {
		t.Errorf("in single bytes: got %+v, want %+v", got, want)
	}
}

func TestHelloOfCryptoTLSIsRead(t *testing.T) {
	hello := firstFlight(t, func(c net.Conn) {
		tls.Client(c, &tls.Config{ServerName: "WWW.Example.com", NextProtos: []string{"h2", "x"}}).HandshakeContext(t.Context())
	})
	want := Verdict{Protocol: TLS, Certain: true, Host: "www.example.com", ALPN: "h2,x"}
	everyWay(t, hello, "", want)
	everyWay(t, inRecords(hello, 100, 1, 7, 300), "", want)
}

func TestHelloLongerThanOtherBeginningsIsRead(t *testing.T) {
	protos := make([]string, 50)
	for i := range protos {
		protos[i] = strings.Repeat("p", 200)
	}
	hello := firstFlight(t, func(c net.Conn) {
		tls.Client(c, &tls.Config{ServerName: "a.example", NextProtos: protos}).HandshakeContext(t.Context())
	})
	if len(hello) < 2*limit {
		t.Fatalf("the hello has only %d bytes", len(hello))
	}
	if v := show(new(Stream), hello, "", 1400); v.Host != "a.example" || !v.Certain {
		t.Errorf("got %s of %q", v.Protocol, v.Host)
	}
}

// inPieces expects the same verdict of what a client sends, whatever its pieces.
func inPieces(t *testing.T, up string, want Verdict) {
	t.Helper()
	for _, size := range []int{1, 100, limit, 2*limit + 1, 1 << 20} {
		if got := show(new(Stream), up, "", size).withoutMore(); got != want {
			t.Errorf("in pieces of %d: got %+v, want %+v", size, got, want)
		}
	}
}

func TestBytesBehindALongHelloMakeNoDifference(t *testing.T) {
	const padding = 6000
	body := smallHello[recordHeader+messageHeader:]
	head, extensions := body[:len(body)-2-0x26], body[len(body)-0x26:]
	extensions += "\x00\x15" + string([]byte{padding >> 8, padding & 0xff}) + strings.Repeat("\x00", padding)
	body = head + string([]byte{byte(len(extensions) >> 8), byte(len(extensions))}) + extensions
	record := "\x01\x00" + string([]byte{byte(len(body) >> 8), byte(len(body))}) + body
	record = "\x16\x03\x01" + string([]byte{byte(len(record) >> 8), byte(len(record))}) + record
	for _, hello := range []string{record, inRecords(record, 5000)} {
		inPieces(t, hello, helloVerdict)
		inPieces(t, hello+strings.Repeat("\x14\x03\x03\x00\x01\x01", 2000), helloVerdict)
	}
	// A hello that goes on in something that is no record.
	broken := inRecords(record, 5000)[:recordHeader+5000] + strings.Repeat("x", 9000)
	inPieces(t, broken, with(certain(TLS), func(v *Verdict) {
		v.Doubt = "ClientHello is longer, or in more records, than any should be"
	}))
}

func TestHelloInTooManyRecordsIsDoubted(t *testing.T) {
	if v := show(new(Stream), inRecords(smallHello, 1), "", 5); v.Protocol != TLS || !v.Certain || v.Host != "" || v.Doubt == "" {
		t.Errorf("got %+v", v)
	}
}

func TestRequestOfNetHTTPIsRead(t *testing.T) {
	request := firstFlight(t, func(c net.Conn) {
		r, _ := http.NewRequestWithContext(t.Context(), "POST", "http://api.example:81/v1", strings.NewReader("{}"))
		buf := new(bytes.Buffer)
		r.Write(buf)
		c.Write(buf.Bytes())
	})
	everyWay(t, request, "", host(HTTP, "api.example"))
}

func TestBannersOfSSHAreRead(t *testing.T) {
	banner := firstFlight(t, func(c net.Conn) {
		ssh.NewClientConn(c, "a.example:22", &ssh.ClientConfig{HostKeyCallback: ssh.InsecureIgnoreHostKey()})
	})
	everyWay(t, banner, "", certain(SSH))

	key, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	banner = firstFlight(t, func(c net.Conn) {
		config := &ssh.ServerConfig{NoClientAuth: true}
		config.AddHostKey(signer)
		ssh.NewServerConn(c, config)
	})
	if v := show(new(Stream), "", banner, 3); v != certain(SSH) {
		t.Errorf("the server is %+v", v)
	}
}

// requestOf2 makes what a client of HTTP/2 begins with.
func requestOf2(fields ...string) string {
	var out, block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for i := 0; i < len(fields); i += 2 {
		encoder.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	out.WriteString(http2.ClientPreface)
	f := http2.NewFramer(&out, nil)
	f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
	f.WriteWindowUpdate(0, 1<<20)
	f.WriteHeaders(http2.HeadersFrameParam{
		StreamID: 1, EndHeaders: true, BlockFragment: block.Bytes(), PadLength: 7,
		Priority: http2.PriorityParam{Weight: 3},
	})
	f.WriteData(1, false, []byte("data"))
	return out.String()
}

func TestRequestsOfHTTP2AreRead(t *testing.T) {
	for _, c := range []struct {
		fields []string
		want   Verdict
	}{
		{[]string{":method", "POST", ":scheme", "http", ":path", "/S/M", ":authority", "g.example:50051", "content-type", "application/grpc+proto", "te", "trailers"},
			carrying(HTTP2, "g.example", GRPC)},
		{[]string{":method", "CONNECT", ":protocol", "websocket", ":scheme", "http", ":path", "/ws", ":authority", "w.example"},
			carrying(HTTP2, "w.example", WebSocket)},
		{[]string{":method", "GET", ":scheme", "http", ":path", "/live.m3u8?x", ":authority", "v.example"},
			carrying(HTTP2, "v.example", HLS)},
		{[]string{":method", "GET", ":scheme", "http", ":path", "/", ":authority", "v.example"}, host(HTTP2, "v.example")},
	} {
		everyWay(t, requestOf2(c.fields...), "", c.want)
	}
	if v := show(new(Stream), prefaceOf2, "", 100); !v.Certain || !v.More {
		t.Errorf("the preface alone is %+v", v)
	}
}

func TestAnswersOfNetHTTPAreRead(t *testing.T) {
	answer := firstFlight(t, func(c net.Conn) {
		r := &http.Response{StatusCode: 200, ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{"Content-Type": {"Application/Dash+XML; charset=utf-8"}},
			Body: io.NopCloser(strings.NewReader("<x>")), ContentLength: 3}
		buf := new(bytes.Buffer)
		r.Write(buf)
		c.Write(buf.Bytes())
	})
	everyWay(t, "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n", answer, carrying(HTTP, "a.example", DASH))
}

func TestTableHoldsEveryProtocolOnce(t *testing.T) {
	seen := map[Protocol]bool{}
	for i := range Protocols() {
		if seen[i.Name] || i.Name == "" || i.Group == "" || i.Transport == 0 || strings.ToLower(string(i.Name)) != string(i.Name) {
			t.Errorf("%+v is wrong", i)
		}
		seen[i.Name] = true
	}
	for _, c := range streamVectors {
		if !seen[c.want.Protocol] || c.want.Carries != "" && !seen[c.want.Carries] {
			t.Errorf("%s or %s is not in the table", c.want.Protocol, c.want.Carries)
		}
	}
	for _, c := range datagramVectors {
		if !seen[c.want] {
			t.Errorf("%s is not in the table", c.want)
		}
	}
	if _, ok := Lookup(Unknown); ok {
		t.Error("there is a protocol named unknown")
	}
}

func TestProtocolsAreMisplacedOnPortsOfOthers(t *testing.T) {
	for _, c := range []struct {
		protocol Protocol
		port     uint16
		want     bool
	}{
		{HTTP, 443, true}, {SSH, 443, true}, {TLS, 443, false}, {QUIC, 443, false}, {HTTP, 80, false}, {TLS, 80, true},
		{HTTP, 12345, false}, {SSH, 53, true}, {RTP, 53, false}, {Unknown, 443, false},
	} {
		if got := Misplaced(c.protocol, c.port); got != c.want {
			t.Errorf("%s on %d: %v", c.protocol, c.port, got)
		}
	}
}

// A request is one string of a host; a signature is nothing at all.
func TestCommonBeginningsCostNoMemory(t *testing.T) {
	request := []byte("GET / HTTP/1.1\r\nHost: example.com\r\nUser-Agent: x\r\nAccept: */*\r\n\r\n")
	for _, c := range []struct {
		name string
		b    []byte
		want float64
	}{{"TLS", []byte(smallHello), 1}, {"HTTP", request, 1}, {"SSH", []byte("SSH-2.0-OpenSSH_9.6\r\n"), 0}} {
		s := new(Stream)
		if got := testing.AllocsPerRun(100, func() {
			*s = Stream{}
			s.Up(c.b)
		}); got > c.want {
			t.Errorf("%s: %v allocations", c.name, got)
		}
	}
}

func TestLineWithoutEndIsBounded(t *testing.T) {
	s := new(Stream)
	for range 64 << 10 {
		s.Up([]byte("A"))
	}
	s.Down(bytes.Repeat([]byte("\n"), 64<<10))
	if v := s.Expire(); v.Protocol != Unknown || v.More {
		t.Errorf("got %+v", v)
	}
	if cap(s.up.b)+cap(s.down.b) > 4*limit {
		t.Errorf("%d bytes are held", cap(s.up.b)+cap(s.down.b))
	}
}

func TestHeadThatHidesItsEndIsDoubted(t *testing.T) {
	request := "CONNECT a.example:443 HTTP/1.1\r\nX: " + strings.Repeat("x", 2*limit) + "\r\n\r\n"
	for _, size := range []int{1, 1000, 1 << 20} {
		v := show(new(Stream), request, "", size)
		if v.Protocol != HTTP || !v.Certain || v.More || v.Host != "a.example" || v.Doubt == "" {
			t.Errorf("in pieces of %d: %+v", size, v)
		}
	}
}

func benchmark(b *testing.B, up []byte, size int) {
	b.ReportAllocs()
	s := new(Stream)
	for b.Loop() {
		*s = Stream{}
		for rest := up; len(rest) > 0; rest = rest[min(size, len(rest)):] {
			s.Up(rest[:min(size, len(rest))])
		}
	}
}

func BenchmarkTLS(b *testing.B) { benchmark(b, []byte(smallHello), 4096) }

func BenchmarkHTTP(b *testing.B) {
	benchmark(b, []byte("GET /index.html HTTP/1.1\r\nHost: www.example.com\r\nUser-Agent: Mozilla/5.0\r\nAccept: */*\r\nAccept-Encoding: gzip\r\n\r\n"), 4096)
}

func BenchmarkUnknown(b *testing.B) { benchmark(b, bytes.Repeat([]byte{0xa5}, 4096), 4096) }

// What a hostile client can make of 4 KiB in single bytes.
func BenchmarkSingleBytesOfHead(b *testing.B) {
	benchmark(b, []byte("GET / HTTP/1.1\r\n"+strings.Repeat("a\n", 2100)), 1)
}

func BenchmarkSingleBytesOfLine(b *testing.B) { benchmark(b, bytes.Repeat([]byte("a"), 5000), 1) }

func BenchmarkQUIC(b *testing.B) {
	datagrams := quicFlow(1, "example.com", whole)
	b.ReportAllocs()
	for b.Loop() {
		var d Datagrams
		d.Up(datagrams[0])
	}
}

func BenchmarkRTP(b *testing.B) {
	packets := [][]byte{rtp(1), rtp(2), rtp(3)}
	b.ReportAllocs()
	for b.Loop() {
		var d Datagrams
		for _, p := range packets {
			d.Up(p)
		}
	}
}
