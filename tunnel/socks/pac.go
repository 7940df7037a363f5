package socks

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// pacText is a proxy auto-configuration file, with the proxies left open. What is
// this machine's own stays on it.
const pacText = `function FindProxyForURL(url, host) {
	if (/(^|\.)localhost$/.test(host) || /^127(\.\d+){3}$/.test(host) || /^\[?::1\]?$/.test(host)) {
		return "DIRECT";
	}
	return %q;
}
`

// servePAC answers a request for a proxy auto-configuration file, and gives false if
// it is none. The file tells nobody more than how he has come here, and a web page
// gets it under no name of its own, to which somebody could make it resolve.
func (p *proxy) servePAC(w http.ResponseWriter, r *http.Request) bool {
	asks := r.Method == http.MethodGet || r.Method == http.MethodHead
	if !asks || r.URL.Path != "/proxy.pac" && r.URL.Path != "/wpad.dat" || !p.app.source.IsValid() {
		return false
	}
	port := "80"
	if p.app.door.TLS != nil {
		port = "443"
	}
	at, ok := reachedAt(r.Host, port, p.app.door.Names)
	if !ok {
		return false
	}
	proxies := []string{"SOCKS5 " + at, "SOCKS " + at, "PROXY " + at}
	switch {
	case p.app.door.TLS != nil:
		proxies = []string{"HTTPS " + at} // there is no word for SOCKS over TLS
	case p.app.entry == needsProof:
		slices.Reverse(proxies) // browsers give no password to SOCKS
	}
	h := w.Header()
	h.Set("Content-Type", "application/x-ns-proxy-autoconfig")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	h.Set("Connection", "close")
	w.WriteHeader(http.StatusOK)
	_, _ = io.WriteString(w, fmt.Sprintf(pacText, strings.Join(proxies, "; "))) // whoever has gone misses nothing
	return true
}

// reachedAt gives the address in a Host field, if its host is an IP address,
// localhost or one of the names. usual is the port of a field that has none.
func reachedAt(field, usual string, names []string) (string, bool) {
	host, port, err := net.SplitHostPort(field)
	if err != nil {
		host, port = strings.TrimSuffix(strings.TrimPrefix(field, "["), "]"), usual
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return "", false
	}
	host = strings.ToLower(host)
	if ip, err := netip.ParseAddr(host); err == nil {
		if ip.Zone() != "" {
			return "", false
		}
		host = ip.String()
	} else if same := func(name string) bool { return strings.EqualFold(name, host) }; host != "localhost" && !slices.ContainsFunc(names, same) {
		return "", false
	}
	return net.JoinHostPort(host, strconv.FormatUint(n, 10)), true
}
