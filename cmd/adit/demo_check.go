package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/adit-net/adit/tunnel/socks"
)

// bulk is how many bytes the demo sends each way.
const bulk = 64 << 20

// check sends real traffic through the door, and says what it has seen.
func (d *demo) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, demoTimeout)
	defer cancel()
	way, err := d.client.way.way()
	if err != nil {
		return err
	}
	target, err := startDemoTarget(ctx)
	if err != nil {
		return err
	}
	defer target.Close()

	d.page.title("What it measured through the door")
	p := d.client.client.Status().Protection
	d.page.row("carrier", "%s, %s, %s", p.Version, p.KeyExchange, p.Cipher)
	d.page.row("fingerprint", "the ClientHello looks like that of %s", p.Fingerprint)
	checks := []func(context.Context, doorway, *demoTarget) error{
		d.roundTrip, d.upload, d.download, d.survive, d.fetch, d.refusals,
	}
	for _, check := range checks {
		if err := check(ctx, way, target); err != nil {
			return fmt.Errorf("check the demo: %w", err)
		}
	}
	return nil
}

// through is an HTTP client whose connections go through the door by SOCKS 5. Names
// are resolved by the server.
func (d doorway) through() *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			target, err := socks.ParseAddr(address)
			if err != nil {
				return nil, err
			}
			return d.dial(ctx, target)
		},
	}}
}

// roundTrip times single bytes to an echo and back, once all is set up.
func (d *demo) roundTrip(ctx context.Context, way doorway, t *demoTarget) error {
	echo, err := socks.ParseAddr(t.echo)
	if err != nil {
		return err
	}
	c, err := way.dial(ctx, echo)
	if err != nil {
		return fmt.Errorf("connect to the echo: %w", err)
	}
	defer c.Close() // everything sent has come back
	times := make([]time.Duration, 100)
	for i := range times {
		began := time.Now()
		b := []byte{byte(i)}
		if _, err := c.Write(b); err != nil {
			return fmt.Errorf("write to the echo: %w", err)
		}
		if _, err := io.ReadFull(c, b); err != nil {
			return fmt.Errorf("read from the echo: %w", err)
		}
		times[i] = time.Since(began)
	}
	slices.Sort(times)
	d.page.row("round trip", "%.2f ms to a target and back (median of %d)", millis(times[len(times)/2]), len(times))
	return nil
}

func (d *demo) upload(ctx context.Context, way doorway, t *demoTarget) error {
	sum := sha256.New()
	began := time.Now()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, t.url("/up"), io.TeeReader(randomBytes(1), sum))
	if err != nil {
		return err
	}
	req.ContentLength = bulk
	answer, err := fetch(way.through(), req)
	if err != nil {
		return fmt.Errorf("send 64 MiB: %w", err)
	}
	took := time.Since(began)
	if got := strings.TrimSpace(string(answer)); got != hex.EncodeToString(sum.Sum(nil)) {
		return errors.New("send 64 MiB: what has arrived is not what was sent")
	}
	d.throughput("up", took)
	return nil
}

func (d *demo) download(ctx context.Context, way doorway, t *demoTarget) error {
	began := time.Now()
	if err := d.receive(ctx, way, t, func(int) {}); err != nil {
		return fmt.Errorf("receive 64 MiB: %w", err)
	}
	d.throughput("down", time.Since(began))
	return nil
}

// survive cuts the carrier in the middle of a download.
func (d *demo) survive(ctx context.Context, way doorway, t *demoTarget) error {
	before := d.client.client.Status().Resumes
	var cut, last time.Time
	var stall time.Duration
	err := d.receive(ctx, way, t, func(n int) {
		now := time.Now()
		switch {
		case n >= bulk/2 && cut.IsZero():
			d.server.cut()
			cut = now
		case !cut.IsZero():
			stall = max(stall, now.Sub(last))
		}
		last = now
	})
	if err != nil {
		return fmt.Errorf("receive 64 MiB while the carrier is cut: %w", err)
	}
	if d.client.client.Status().Resumes == before {
		return errors.New("receive 64 MiB while the carrier is cut: it was not cut")
	}
	d.page.row("cut", "carrier killed at %d MiB; the download went on after %.0f ms, %d MiB with the right SHA-256",
		bulk/2>>20, millis(stall), bulk>>20)
	return nil
}

// receive downloads 64 MiB, and says after each read how much has come.
func (d *demo) receive(ctx context.Context, way doorway, t *demoTarget, came func(n int)) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, t.url("/down"), nil)
	if err != nil {
		return err
	}
	resp, err := way.through().Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close() // reading only: nothing to lose
	got, want := sha256.New(), sha256.New()
	n, err := io.Copy(&progress{Writer: got, came: came}, resp.Body)
	if err != nil || n != bulk {
		return fmt.Errorf("%d bytes have arrived: %w", n, err)
	}
	if _, err := io.Copy(want, randomBytes(2)); err != nil {
		return err
	}
	if !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
		return errors.New("what has arrived is not what was sent")
	}
	return nil
}

// progress tells after each write how much has been written.
type progress struct {
	io.Writer
	n    int
	came func(n int)
}

func (p *progress) Write(b []byte) (int, error) {
	n, err := p.Writer.Write(b)
	p.n += n
	p.came(p.n)
	return n, err
}

func (d *demo) throughput(way string, took time.Duration) {
	d.page.row(way, "%4.0f MiB/s, %d MiB with the right SHA-256", bulk/took.Seconds()/(1<<20), bulk>>20)
}

// fetch gets a page by name, as curl --socks5-hostname and as a browser with an
// HTTP proxy would.
func (d *demo) fetch(ctx context.Context, way doorway, t *demoTarget) error {
	proxy, err := url.Parse(way.url("http"))
	if err != nil {
		return err
	}
	for name, c := range map[string]*http.Client{
		"SOCKS 5": way.through(),
		"an HTTP proxy": {Transport: &http.Transport{
			DisableKeepAlives: true,
			Proxy:             http.ProxyURL(proxy),
		}},
	} {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, t.url("/"), nil)
		if err != nil {
			return err
		}
		page, err := fetch(c, req)
		if err != nil {
			return fmt.Errorf("fetch a page by %s: %w", name, err)
		}
		if string(page) != demoPage {
			return fmt.Errorf("fetch a page by %s: it is another page", name)
		}
	}
	d.page.row("page", "fetched by name, by SOCKS 5 and by an HTTP proxy")
	return nil
}

// refusals asks for what must not be had.
func (d *demo) refusals(ctx context.Context, way doorway, t *demoTarget) error {
	for _, test := range []struct {
		what   string
		target string
		want   socks.Code
	}{
		{"a closed port", t.closed, socks.ConnectionRefused},
		{"the server's own port", d.server.Addr().String(), socks.NotAllowed},
		{"the door itself", d.door.Addr().String(), socks.NotAllowed},
	} {
		target, err := socks.ParseAddr(test.target)
		if err != nil {
			return err
		}
		c, err := way.dial(ctx, target)
		if err == nil {
			_ = c.Close() // it should not have been there
			return fmt.Errorf("connect to %s: it has worked, and must not", test.what)
		}
		if code := socks.CodeOf(err); code != test.want {
			return fmt.Errorf("connect to %s: got %w, want %w", test.what, err, test.want)
		}
		d.page.row("refused", "%s: %s (SOCKS code %02x)", test.what, test.want, byte(test.want))
	}
	return nil
}

// fetch gives the body of a good answer.
func fetch(c *http.Client, req *http.Request) ([]byte, error) {
	resp, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close() // reading only: nothing to lose
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the answer is %s", resp.Status)
	}
	return io.ReadAll(io.LimitReader(resp.Body, 1<<20))
}
