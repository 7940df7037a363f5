//go:build linux

package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"os"
	"testing"
	"time"
)

func TestChromiumShowsAPageWithAPictureAndAWebSocket(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ proxy, origin string }{
		{"socks4://" + door4, "http://" + target4},
		{"socks5://" + door4, "https://" + targetName},
		{"socks5://" + door6, "http://[" + target6 + "]"},
		{"http://" + door4, "http://" + targetName6},
		{"http://" + door4, "https://" + targetName},
	} {
		t.Run(test.proxy+" "+test.origin, func(t *testing.T) {
			id := rand.Text()
			browser := startChromium(t, test.proxy, test.origin+"/page/"+id)
			defer browser.stop()
			select {
			case got := <-shared.site.report(id):
				if want := "40x30, through the adit"; got != want {
					t.Errorf("the page reports %q, want %q", got, want)
				}
			case <-browser.ended:
				t.Errorf("chromium ended without a report from the page:\n%s", browser.stop())
			case <-time.After(time.Minute):
				t.Errorf("no report from the page after a minute; chromium printed:\n%s", browser.stop())
			}
		})
	}
}

// browser is a running Chromium.
type browser struct {
	cancel context.CancelFunc
	ended  chan struct{}
	output bytes.Buffer
}

// startChromium opens a page.
func startChromium(t *testing.T, proxy, url string) *browser {
	t.Helper()
	// Not t.TempDir: Chromium makes a Unix socket there, whose path must be short.
	home, err := os.MkdirTemp(shared.dir, "chromium-")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	b := &browser{cancel: cancel, ended: make(chan struct{})}
	cmd := command(ctx, home, "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
		"--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
		// With SOCKS 4 it would look up its maker's hosts beside the proxy.
		"--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE ::1, EXCLUDE "+target4,
		"--user-data-dir="+home, "--proxy-server="+proxy, "--remote-debugging-port=0",
		"--ignore-certificate-errors-spki-list="+shared.site.spki, url)
	cmd.Stdout, cmd.Stderr = &b.output, &b.output
	if err := clientNS.do(cmd.Start); err != nil {
		cancel()
		t.Fatal(err)
	}
	go func() {
		defer close(b.ended)
		_ = cmd.Wait() // it is killed in the end
	}()
	return b
}

// stop ends the browser and returns what it printed.
func (b *browser) stop() []byte {
	b.cancel()
	<-b.ended
	return tail(b.output.Bytes())
}
