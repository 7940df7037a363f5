//go:build linux

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// A partner's programs speak plain SOCKS, and his IPsec gateway says who he is.
func TestPartnerBehindIPsecComesInWithPlainSOCKS(t *testing.T) {
	l := layIPsec(t)
	page := l.serveAtHub()
	const byGateway, byNetwork = hubInner + ":1080", hubInner + ":1081"
	dir := l.startHub(hubInner, "", fmt.Sprintf(`
[[door]]
listen = %q
tls = false
require_ipsec = true
methods = ["ike"]
identities = { "office.test" = "acme" }

[[door]]
listen = %q
tls = false
require_ipsec = true
methods = ["network"]
networks = { "10.77.0.0/16" = "acme" }
`, byGateway, byNetwork))
	curl := func(at namespace, door, from string) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		return at.output(command(ctx, t.TempDir(), "curl", "-sS", "--fail", "--interface", from, "-x", "socks5h://"+door, "http://"+page+"/small"))
	}
	refused := func(when string, at namespace, from string) {
		t.Helper()
		for _, door := range []string{byGateway, byNetwork} {
			if text, err := curl(at, door, from); err == nil {
				t.Errorf("%s, door %s lets in %s, who gets %q", when, door, from, text)
			}
		}
	}
	refused("without an association", officeNS, officeInner)
	refused("without an association", officeNS, officeOuter)
	l.up()
	for _, door := range []string{byGateway, byNetwork} {
		if text, err := curl(officeNS, door, officeInner); err != nil || text != "hello" {
			t.Errorf("at door %s: %q, %v", door, text, err)
		}
	}
	refused("with an association of others", hubNS, hubOuter)
	l.down()
	refused("after the association", officeNS, officeInner)

	type record struct{ User, Door, Method, IPsec, Source string }
	want := fmt.Sprint([]record{
		{"acme", byGateway, "ike", "aes-gcm-128", officeInner},
		{"acme", byNetwork, "network", "aes-gcm-128", officeInner},
	})
	var got []record
	until(t, "the records "+want, func() bool {
		got = nil
		for line := range strings.Lines(adit(t, hubNS, "audit", "--dir", dir, "--format", "json")) {
			var r record
			if err := json.Unmarshal([]byte(line), &r); err != nil {
				t.Fatal(err)
			}
			got = append(got, r)
		}
		return fmt.Sprint(got) == want
	})
}

// The link takes everything in clear when the association is gone. Nothing of adit's
// goes there, and what is under way goes on when the association is back.
func TestNothingIsInClearWhileIPsecIsRequired(t *testing.T) {
	l := layIPsec(t)
	page := l.serveAtHub()
	l.up()
	dir := l.startHub(hubInner, "require_ipsec = true", "")
	client := l.join(dir, "require_ipsec = true\ncarriers = [\"tls\"]")
	clear := hubNS.watchClear(t, "h0")
	l.run(officeNS, "client", "run", "--dir", client, "--door", "127.0.0.1:1080")
	if text := adit(t, officeNS, "status", "--dir", client); !strings.Contains(text, "in IPsec (aes-gcm-128)") {
		t.Errorf("the client's status is\n%s", text)
	}
	if text := adit(t, hubNS, "status", "--dir", dir); !strings.Contains(text, "in IPsec (aes-gcm-128)") {
		t.Errorf("the server's status is\n%s", text)
	}

	d := l.download(t, "127.0.0.1:1080", page)
	d.passes(t, 32<<20)
	before := l.counted(hubNS, "Tcp:", "RetransSegs")
	l.down()
	until(t, "that the server's kernel sends again what is not acknowledged", func() bool {
		return l.counted(hubNS, "Tcp:", "RetransSegs") > before+2
	})
	if text := adit(t, officeNS, "status", "--dir", client); strings.Contains(text, "in IPsec") {
		t.Errorf("the client's status is\n%s", text)
	}
	other := l.reachInClear()
	l.up()
	d.passes(t, 32<<20)
	d.finish(t)
	if n := clear[8443].Load(); n > 0 {
		t.Errorf("%d packets were in clear", n)
	}
	if clear[other].Load() == 0 {
		t.Error("what was in clear was not seen")
	}
}

// The same by WireGuard: its packets leave by no other way, and who comes by one is not answered.
func TestWireGuardStaysInIPsecWhileThatIsRequired(t *testing.T) {
	l := layIPsec(t)
	page := l.serveAtHub()
	l.up()
	dir := l.startHub(hubInner, "require_ipsec = true", "[wireguard]\nlisten = \":51820\"")
	client := l.join(dir, "require_ipsec = true\ncarriers = [\"wireguard\"]")
	clear := hubNS.watchClear(t, "h0")
	l.run(officeNS, "client", "run", "--dir", client, "--door", "127.0.0.1:1080")
	const both = "WireGuard, X25519, in IPsec (aes-gcm-128)"
	for ns, at := range map[namespace]string{officeNS: client, hubNS: dir} {
		if text := adit(t, ns, "status", "--dir", at); !strings.Contains(text, both) {
			t.Errorf("the status at %s is\n%s", ns, text)
		}
	}
	d := l.download(t, "127.0.0.1:1080", page)
	d.passes(t, 8<<20)
	l.down()
	until(t, "that the server sees its path unprotected", func() bool {
		return !strings.Contains(adit(t, hubNS, "status", "--dir", dir), "in IPsec")
	})
	l.reachInClear()
	l.up()
	d.passes(t, 8<<20)
	d.finish(t)
	if n := clear[51820].Load(); n > 0 {
		t.Errorf("%d packets were in clear", n)
	}
	if clear[4500].Load() == 0 {
		t.Error("nothing was seen")
	}
	until(t, "that the flow is on record", func() bool { return recorded(t, dir) })
}

// A download moves to TLS when the association ends, and back when there is one again.
func TestDownloadMovesBetweenIPsecAndTLS(t *testing.T) {
	l := layIPsec(t)
	page := l.serveAtHub()
	l.up()
	const at = hubInner + ":8444"
	dir := l.startHub(hubOuter, "", fmt.Sprintf("[ipsec]\nlisten = %q", at))
	client := l.join(dir, "carriers = [\"ipsec\", \"tls\"]") // the server says where
	var ofTLS, ofTCP atomic.Int64                            // packets in clear
	hubNS.watchWire(t, "h0", func(p packet) {
		switch {
		case p.from == 8443 || p.to == 8443:
			ofTLS.Add(1)
		// When the client's socket is closed and the last packets out of ESP still come, the
		// kernel resets their connection by whatever way there is. Nothing of it is in that.
		case (p.from == 8444 || p.to == 8444) && !(p.reset && p.payload == 0):
			ofTCP.Add(1)
		}
	})
	l.run(officeNS, "client", "run", "--dir", client, "--door", "127.0.0.1:1080")
	over := func(want string) {
		t.Helper()
		until(t, "a carrier over "+want, func() bool {
			text := adit(t, officeNS, "status", "--dir", client)
			return strings.Contains(text, want) && strings.Contains(adit(t, hubNS, "status", "--dir", dir), want)
		})
	}
	part := int64(32 << 20)
	if *full {
		part = 1 << 30 / 3
	}
	const inIPsec, inTLS = "plain TCP, in IPsec (aes-gcm-128)", "TLS 1.3"
	over(inIPsec)
	d := l.download(t, "127.0.0.1:1080", page)
	d.passes(t, part)
	if n := ofTLS.Load(); n > 0 {
		t.Errorf("%d packets of TLS were sent", n)
	}
	l.down()
	over(inTLS)
	d.passes(t, part)
	l.up()
	over(inIPsec)
	d.passes(t, part)
	d.finish(t)
	if n := ofTCP.Load(); n > 0 {
		t.Errorf("%d packets of the carrier over IPsec were in clear", n)
	}
	if ofTLS.Load() == 0 {
		t.Error("those of TLS were not seen")
	}
	until(t, "that the flow is on record", func() bool { return recorded(t, dir) })
}

// recorded tells whether a flow over IPsec is in the hub's records, which it is a moment after its
// end.
func recorded(t *testing.T, dir string) bool {
	t.Helper()
	return strings.Contains(adit(t, hubNS, "audit", "--dir", dir, "--format", "json", "--by", "carrier,ipsec"), `"aes-gcm-128"`)
}

// join enrols a client at the office, whose config says more of the server, and gives its
// directory.
func (l *ipsecLab) join(server, more string) (dir string) {
	l.t.Helper()
	dir = l.path("client")
	adit(l.t, officeNS, "join", "--dir", dir, strings.TrimSpace(adit(l.t, hubNS, "invite", "acme", "--dir", server)))
	file := filepath.Join(dir, "client.toml")
	text, err := os.ReadFile(file)
	if err == nil {
		text = bytes.Replace(text, []byte("[server]\n"), []byte("[server]\n"+more+"\n"), 1)
		err = os.WriteFile(file, text, 0o600)
	}
	if err != nil {
		l.t.Fatal(err)
	}
	l.configure(officeNS, file, "", "")
	return dir
}

// serveAtHub serves HTTP at the hub: /small, and at /endless bytes that say where they are.
func (l *ipsecLab) serveAtHub() (address string) {
	l.t.Helper()
	ln, err := hubNS.listen(hubInner + ":0")
	if err != nil {
		l.t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/small", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })
	mux.HandleFunc("/endless", func(w http.ResponseWriter, r *http.Request) {
		for at := int64(0); r.Context().Err() == nil; at += patternSize {
			if _, err := w.Write(pattern(at)); err != nil {
				return
			}
		}
	})
	s := &http.Server{Handler: mux}
	go s.Serve(ln)
	l.t.Cleanup(func() { s.Close() })
	return ln.Addr().String()
}

// patternSize is how many bytes a pattern has.
const patternSize = 4096

// pattern is what an endless page has at an offset.
func pattern(at int64) []byte { return bytes.Repeat(fmt.Appendf(nil, "%015d\n", at), patternSize/16) }

// download is a curl that loads the endless page.
type download struct {
	stop func()
	read atomic.Int64
	done chan error
}

func (l *ipsecLab) download(t *testing.T, door, page string, more ...string) *download {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cmd := command(ctx, t.TempDir(), "curl", append(more, "-sS", "-x", "socks5h://"+door, "http://"+page+"/endless")...)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = officeNS.do(cmd.Start)
	}
	if err != nil {
		t.Fatal(err)
	}
	d := &download{stop: cancel, done: make(chan error, 1)}
	go func() {
		err := d.check(out)
		cancel()
		if waitErr, cut := cmd.Wait(), errors.Is(err, context.Canceled); !cut && err == nil {
			err = waitErr
		}
		d.done <- err
	}()
	t.Cleanup(cancel)
	return d
}

// check reads until the end, which comes with curl's, and fails if a byte is wrong.
func (d *download) check(out io.Reader) error {
	got := make([]byte, patternSize)
	for at := int64(0); ; at += patternSize {
		if _, err := io.ReadFull(out, got); err != nil {
			return nil // it was stopped, or says why when it ends
		}
		if !bytes.Equal(got, pattern(at)) {
			return fmt.Errorf("at %d there is %q", at, got[:32])
		}
		d.read.Store(at + patternSize)
	}
}

// passes waits until so many more bytes have come.
func (d *download) passes(t *testing.T, bytes int64) {
	t.Helper()
	last, since := d.read.Load(), time.Now()
	for enough := last + bytes; last < enough; time.Sleep(time.Millisecond) {
		select {
		case err := <-d.done:
			t.Fatalf("the download has ended: %v", err)
		default:
		}
		if now := d.read.Load(); now > last {
			last, since = now, time.Now()
		}
		if time.Since(since) > time.Minute {
			t.Fatalf("after %d bytes of %d there is none for a minute", last, enough)
		}
	}
}

// finish ends the download, and wants all of it to have been right.
func (d *download) finish(t *testing.T) {
	t.Helper()
	d.stop()
	err := <-d.done
	if _, killed := errors.AsType[*exec.ExitError](err); err != nil && !killed {
		t.Error(err)
	}
}

// reachInClear connects from the office to the hub without adit, and gives the port.
func (l *ipsecLab) reachInClear() (port uint16) {
	l.t.Helper()
	ln, err := hubNS.listen(hubInner + ":0")
	if err != nil {
		l.t.Fatal(err)
	}
	defer ln.Close()
	var c net.Conn
	if err := officeNS.do(func() (err error) { c, err = net.DialTimeout("tcp", ln.Addr().String(), 20*time.Second); return err }); err != nil {
		l.t.Fatal(err)
	}
	c.Close()
	return uint16(ln.Addr().(*net.TCPAddr).Port)
}
