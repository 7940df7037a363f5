//go:build linux

package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"path/filepath"
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
			startChromium(t, test.proxy, test.origin+"/page/"+id).waitReport(t, id)
		})
	}
}

// TestFirefoxShowsAPageWithAPictureAndAWebSocket sets it up by hand and by the door's own
// proxy.pac.
func TestFirefoxShowsAPageWithAPictureAndAWebSocket(t *testing.T) {
	t.Parallel()
	host, port, _ := net.SplitHostPort(door4)
	socks := func(version int) string {
		return fmt.Sprintf(`
user_pref("network.proxy.type", 1);
user_pref("network.proxy.socks", %q);
user_pref("network.proxy.socks_port", %s);
user_pref("network.proxy.socks_version", %d);
user_pref("network.proxy.socks_remote_dns", true);
`, host, port, version)
	}
	for _, test := range []struct{ name, settings, origin string }{
		{"SOCKS 4", socks(4), "http://" + target4},
		{"SOCKS 5", socks(5), "http://" + targetName},
		{"PAC", fmt.Sprintf(`
user_pref("network.proxy.type", 2);
user_pref("network.proxy.autoconfig_url", "http://%s/proxy.pac");
`, door4), "http://[" + target6 + "]"},
	} {
		t.Run(test.name, func(t *testing.T) {
			id := rand.Text()
			startFirefox(t, test.settings, test.origin+"/page/"+id).waitReport(t, id)
		})
	}
}

// browser is a running browser.
type browser struct {
	cancel context.CancelFunc
	ended  chan struct{}
	output bytes.Buffer
}

// startChromium opens a page.
func startChromium(t *testing.T, proxy, url string) *browser {
	t.Helper()
	home := browserHome(t)
	return startBrowser(t, home, "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
		"--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
		// With SOCKS 4 it would look up its maker's hosts beside the proxy.
		"--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE ::1, EXCLUDE "+target4,
		"--user-data-dir="+home, "--proxy-server="+proxy, "--remote-debugging-port=0",
		"--ignore-certificate-errors-spki-list="+shared.site.spki, url)
}

// startFirefox opens a page with these settings.
func startFirefox(t *testing.T, settings, url string) *browser {
	t.Helper()
	home := browserHome(t)
	// Its maker's hosts are not the test's business. It would even go to them beside the
	// proxy.
	settings += `
user_pref("app.update.enabled", false);
user_pref("browser.region.update.enabled", false);
user_pref("browser.safebrowsing.update.enabled", false);
user_pref("browser.shell.checkDefaultBrowser", false);
user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("extensions.getAddons.cache.enabled", false);
user_pref("network.captive-portal-service.enabled", false);
user_pref("network.connectivity-service.enabled", false);
user_pref("network.proxy.allow_bypass", false);
user_pref("network.proxy.failover_direct", false);
user_pref("services.settings.server", "http://127.0.0.1:9/");
user_pref("toolkit.telemetry.server", "http://127.0.0.1:9/");
`
	if err := os.WriteFile(filepath.Join(home, "user.js"), []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	return startBrowser(t, home, "firefox-esr", "--headless", "--no-remote", "--profile", home, url)
}

// browserHome makes a directory for a browser. It is not t.TempDir: Chromium makes a
// Unix socket there, whose path must be short.
func browserHome(t *testing.T) string {
	t.Helper()
	home, err := os.MkdirTemp(shared.dir, "browser-")
	if err != nil {
		t.Fatal(err)
	}
	return home
}

func startBrowser(t *testing.T, home, name string, args ...string) *browser {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	b := &browser{cancel: cancel, ended: make(chan struct{})}
	cmd := command(ctx, home, name, args...)
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

// waitReport waits for the report of a page, and ends the browser.
func (b *browser) waitReport(t *testing.T, id string) {
	t.Helper()
	defer b.stop()
	select {
	case got := <-shared.site.report(id):
		if want := "40x30, through the adit"; got != want {
			t.Errorf("the page reports %q, want %q", got, want)
		}
	case <-b.ended:
		t.Errorf("the browser ended without a report from the page:\n%s", b.stop())
	case <-time.After(time.Minute):
		t.Errorf("no report from the page after a minute; the browser printed:\n%s", b.stop())
	}
}

// stop ends the browser and returns what it printed.
func (b *browser) stop() []byte {
	b.cancel()
	<-b.ended
	return tail(b.output.Bytes())
}
