package sniff

import (
	"bytes"
	"strings"
)

const maxHost = 253

// hostname gives a name or an address in lower case, or "" for what is neither:
// it goes into records, and its sender is anybody.
func hostname(b []byte) string {
	b = bytes.TrimSuffix(b, []byte("."))
	if len(b) == 0 || len(b) > maxHost {
		return ""
	}
	for _, c := range b {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '.', c == ':':
		default:
			return ""
		}
	}
	return strings.ToLower(string(b))
}

// hostOf gives the host of "host", "host:port", "[address]" and "[address]:port".
func hostOf(b []byte) string {
	if rest, ok := bytes.CutPrefix(b, []byte("[")); ok {
		address, _, _ := bytes.Cut(rest, []byte("]"))
		return hostname(address)
	}
	host, _, _ := bytes.Cut(b, []byte(":"))
	return hostname(host)
}

// hostOfURI gives the host of a URI with a scheme, with or without user.
func hostOfURI(b []byte) string {
	_, rest, ok := bytes.Cut(b, []byte(":"))
	if !ok {
		return ""
	}
	rest = bytes.TrimPrefix(rest, []byte("//"))
	if i := bytes.IndexAny(rest, "/?;#"); i >= 0 {
		rest = rest[:i]
	}
	if i := bytes.LastIndexByte(rest, '@'); i >= 0 {
		rest = rest[i+1:]
	}
	return hostOf(rest)
}
