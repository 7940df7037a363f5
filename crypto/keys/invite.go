package keys

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds on an invite's text, in bytes.
const (
	maxInvite = 2048
	maxHost   = 253
	maxName   = 91 // what a Join has room for
)

// Invite is what a new device is given on paper, as a link or as a QR code:
// where its server is, how to know it, and a token that admits one device
// once. As a URI:
//
//	adit://HOST:PORT/?pin=PIN&token=TOKEN&name=NAME
//
// ca=1 stands in for pin where a public CA vouches for the server, and sni
// names the server where its certificate has another name than HOST.
type Invite struct {
	Address    string // HOST:PORT
	Pin        Pin    // how to know the server: this pin, or a public CA if it is zero
	ServerName string // the name in the TLS handshake; empty: HOST
	Token      Token
	Name       string // whom the invite is for, at most 91 bytes of printable UTF-8; may be empty
}

// URI gives the invite with its secret. It fails where [ParseInvite] would
// refuse the result.
func (i Invite) URI() (string, error) {
	if err := i.check(); err != nil {
		return "", fmt.Errorf("format invite: %w", err)
	}
	// By hand, as url.Values would sort the parameters and put the token amid them.
	var b strings.Builder
	b.WriteString("adit://" + i.Address + "/?")
	if i.Pin.IsZero() {
		b.WriteString("ca=1")
	} else {
		b.WriteString("pin=" + i.Pin.String())
	}
	b.WriteString("&token=" + i.Token.Reveal())
	if i.ServerName != "" {
		b.WriteString("&sni=" + url.QueryEscape(i.ServerName))
	}
	if i.Name != "" {
		b.WriteString("&name=" + url.QueryEscape(i.Name))
	}
	return b.String(), nil
}

// ParseInvite reads an invite's URI. It is strict: unknown and repeated
// parameters are errors, so that a mangled invite is never half understood.
// Its errors repeat nothing of the text, as any part of a mangled invite may
// be the token.
func ParseInvite(s string) (Invite, error) {
	i, err := parseInvite(strings.TrimSpace(s))
	if err == nil {
		err = i.check()
	}
	if err != nil {
		return Invite{}, fmt.Errorf("parse invite: %w", err)
	}
	return i, nil
}

func parseInvite(s string) (Invite, error) {
	if len(s) > maxInvite {
		return Invite{}, fmt.Errorf("it is longer than %d bytes", maxInvite)
	}
	u, err := url.Parse(s)
	if err != nil { // the error repeats the text
		return Invite{}, errors.New("it is not a URI")
	}
	switch {
	case u.Scheme != "adit" || u.Opaque != "":
		return Invite{}, errors.New("it does not begin with adit://")
	case u.User != nil || u.Fragment != "" || (u.Path != "" && u.Path != "/"):
		return Invite{}, errors.New("it has more parts than a host, a port and parameters")
	}
	params, err := url.ParseQuery(u.RawQuery)
	if err != nil { // the error repeats the text
		return Invite{}, errors.New("its parameters are garbled")
	}
	for key, values := range params {
		if !slices.Contains([]string{"pin", "ca", "token", "sni", "name"}, key) {
			return Invite{}, errors.New("it has a parameter other than pin, ca, token, sni and name; a newer adit may know it")
		}
		if len(values) != 1 || values[0] == "" {
			return Invite{}, fmt.Errorf("its parameter %s is empty or repeated", key)
		}
	}
	i := Invite{Address: u.Host, ServerName: params.Get("sni"), Name: params.Get("name")}
	if i.Token, err = ParseToken(params.Get("token")); err != nil {
		return Invite{}, err
	}
	if i.Pin, err = parseTrust(params); err != nil {
		return Invite{}, err
	}
	return i, nil
}

// parseTrust reads how the server is to be known: by exactly one of pin and ca.
func parseTrust(params url.Values) (Pin, error) {
	if params.Has("pin") == params.Has("ca") {
		return Pin{}, errors.New("it must say how to know the server, by either pin or ca=1")
	}
	if !params.Has("pin") {
		if params.Get("ca") != "1" {
			return Pin{}, errors.New("its parameter ca is not 1")
		}
		return Pin{}, nil
	}
	pin, err := ParsePin(params.Get("pin"))
	if err == nil && pin.IsZero() {
		err = errors.New("its pin is zero")
	}
	return pin, err
}

// check tells what is wrong with an invite, without repeating any of it.
func (i Invite) check() error {
	host, port, err := net.SplitHostPort(i.Address)
	if err != nil || !validHost(host) || strings.ContainsRune(host, ':') != strings.HasPrefix(i.Address, "[") {
		return errors.New("its address is not HOST:PORT")
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || strconv.FormatUint(n, 10) != port {
		return errors.New("its port is not a number from 1 to 65535")
	}
	if i.ServerName != "" && !validHost(i.ServerName) {
		return errors.New("its server name is not a host name")
	}
	if i.Token.IsZero() {
		return errors.New("it has no token")
	}
	if len(i.Name) > maxName || !utf8.ValidString(i.Name) || strings.ContainsFunc(i.Name, unprintable) {
		return fmt.Errorf("its name is longer than %d bytes or has unprintable characters", maxName)
	}
	return nil
}

func unprintable(r rune) bool { return !unicode.IsPrint(r) }

// validHost takes IP addresses and the ASCII form of host names.
func validHost(s string) bool {
	if ip, err := netip.ParseAddr(s); err == nil {
		return ip.Zone() == ""
	}
	return s != "" && len(s) <= maxHost && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '.' || r == '_')
	})
}

// Format prints where the invite leads and whom it is for, whatever the verb:
// the token stays secret.
func (i Invite) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, i.String()) }

// String says where the invite leads and whom it is for, without its secret.
func (i Invite) String() string { return fmt.Sprintf("invite to %s for %q", i.Address, i.Name) }

// LogValue is what [Invite.String] says.
func (i Invite) LogValue() slog.Value { return slog.StringValue(i.String()) }
