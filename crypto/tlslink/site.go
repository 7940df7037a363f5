package tlslink

import (
	"bytes"
	_ "embed"
	"io/fs"
	"log"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path"
	"strings"
	"time"
)

// page is what the built-in site shows. It names nothing and nobody.
//
//go:embed page.html
var page string

// plainPage is the built-in site.
func plainPage(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/" && r.URL.Path != "/index.html" {
		http.NotFound(w, r)
		return
	}
	http.ServeContent(w, r, "index.html", time.Time{}, strings.NewReader(page))
}

// SiteDir is a site of the files in a directory. There are no listings, no
// files whose path has a part that begins with a dot, and no way out of the
// directory by symbolic links.
func SiteDir(dir string) http.Handler { return http.FileServerFS(siteFiles(dir)) }

type siteFiles string

func (dir siteFiles) Open(name string) (fs.File, error) {
	if strings.HasPrefix(name, ".") && name != "." || strings.Contains(name, "/.") {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	f, err := os.OpenInRoot(string(dir), name)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.IsDir() {
		// A directory is its index page, or it is not there.
		var index fs.File
		if index, err = dir.Open(path.Join(name, "index.html")); err == nil {
			err = index.Close()
		}
	}
	if err != nil {
		_ = f.Close() // opened for reading: nothing to lose
		return nil, err
	}
	return f, nil
}

// SiteProxy is a site that somebody else serves: a reverse proxy. The other
// site is asked under its own name.
func SiteProxy(target *url.URL, log *slog.Logger) http.Handler {
	transport := &http.Transport{
		ForceAttemptHTTP2:     true,
		MaxIdleConns:          16,
		IdleConnTimeout:       siteIdle,
		TLSHandshakeTimeout:   defaultTimeout,
		ResponseHeaderTimeout: time.Minute,
	}
	return siteProxy{
		ReverseProxy: &httputil.ReverseProxy{
			Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target) },
			Transport: transport,
			ErrorLog:  newErrorLog(log),
		},
		transport: transport,
	}
}

type siteProxy struct {
	*httputil.ReverseProxy
	transport *http.Transport
}

func (p siteProxy) CloseIdleConnections() { p.transport.CloseIdleConnections() }

// newErrorLog is where net/http writes its lines. What strangers do is of no
// interest unless one looks for it; what is wrong with the server is.
func newErrorLog(l *slog.Logger) *log.Logger { return log.New(errorLog{l}, "", 0) }

type errorLog struct{ *slog.Logger }

func (l errorLog) Write(line []byte) (int, error) {
	text := string(bytes.TrimSpace(line))
	switch {
	case strings.Contains(text, "panic serving"):
		l.Error(text)
	case strings.Contains(text, "Accept error"):
		l.Warn(text)
	default:
		l.Debug(text)
	}
	return len(line), nil
}
