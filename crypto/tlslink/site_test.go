package tlslink

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func ask(t *testing.T, site http.Handler, method, path string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	r := httptest.NewRequest(method, "https://exit.test/", nil)
	r.URL.Path = path // as it is, with what a client would clean up
	site.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

func TestPlainPageNamesNobody(t *testing.T) {
	code, body := ask(t, http.HandlerFunc(plainPage), "GET", "/")
	if code != http.StatusOK || !strings.Contains(body, "<h1>") {
		t.Errorf("%d %s", code, body)
	}
	for _, word := range []string{"adit", "vpn", "tunnel", "proxy", "socks"} {
		if strings.Contains(strings.ToLower(body), word) {
			t.Errorf("the page says %q", word)
		}
	}
	if code, _ := ask(t, http.HandlerFunc(plainPage), "GET", "/x"); code != http.StatusNotFound {
		t.Errorf("another page gives %d", code)
	}
}

func TestSiteDirShowsFilesAndNothingElse(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "secret")
	dir := t.TempDir()
	for name, content := range map[string]string{
		outside:                            "secret",
		filepath.Join(dir, "index.html"):   "home",
		filepath.Join(dir, "a.txt"):        "a",
		filepath.Join(dir, ".env"):         "secret",
		filepath.Join(dir, "b/index.html"): "b",
		filepath.Join(dir, "c/c.txt"):      "c",
		filepath.Join(dir, ".git/config"):  "secret",
		filepath.Join(dir, "c/.htaccess"):  "secret",
	} {
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(outside, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	site := SiteDir(dir)
	for path, want := range map[string]string{"/": "home", "/a.txt": "a", "/b/": "b", "/c/c.txt": "c"} {
		if code, body := ask(t, site, "GET", path); code != http.StatusOK || body != want {
			t.Errorf("%s: %d %q", path, code, body)
		}
	}
	for _, path := range []string{
		"/.env", "/.git/config", "/.git/", "/.git", "/c/.htaccess", "/c/", "/c", "/link", "/x",
		"/../secret", "/c/../.env", "/./.env", "//.env", "/c//.htaccess", "/.", "/..", "/a.txt/", "/%2eenv", "/\x00", "/c\\.htaccess",
	} {
		code, body := ask(t, site, "GET", path)
		if code == http.StatusOK && body != "home" || strings.Contains(body, "secret") || strings.Contains(body, "c.txt") {
			t.Errorf("%s: %d %q", path, code, body)
		}
	}
	if code, _ := ask(t, SiteDir(filepath.Join(dir, "none")), "GET", "/"); code != http.StatusNotFound {
		t.Errorf("a directory that is not there gives %d", code)
	}
}

func TestSiteProxyShowsAnotherSite(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Path", r.URL.Path)
		body, _ := io.ReadAll(r.Body)
		_, _ = io.WriteString(w, "host "+r.Host+" for "+r.Header.Get("X-Forwarded-For")+" "+string(body))
	}))
	defer other.Close()
	target, err := url.Parse(other.URL)
	if err != nil {
		t.Fatal(err)
	}
	site := SiteProxy(target, discard())
	e := start(t, &Server{Site: site}, nobody)
	for _, protocol := range alpn {
		got := (&prober{e.address}).try(probe{alpn: []string{protocol}, send: map[string][]byte{
			"http/1.1": []byte("GET /x HTTP/1.1\r\nHost: exit.test\r\nConnection: close\r\n\r\n"),
			"h2":       append(flight(opening()), get("GET", "/x", 1, true)...),
		}[protocol]})
		if !strings.Contains(got, "host "+target.Host+" for ") || !strings.Contains(strings.ToLower(got), "x-path") {
			t.Errorf("%s: %s", protocol, got)
		}
	}
	e.stop() // and goleak sees whether a connection to the other site is left
	other.Close()
	if code, body := ask(t, site, "GET", "/"); code != http.StatusBadGateway || body != "" {
		t.Errorf("without the other site: %d %q", code, body)
	}
}
