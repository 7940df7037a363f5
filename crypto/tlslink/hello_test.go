package tlslink

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	utls "github.com/refraction-networking/utls"
	"golang.org/x/crypto/cryptobyte"
)

// hello is what an observer sees of a ClientHello (RFC 8446 section 4.1.2).
type hello struct {
	ciphers, extensions, groups, shares, versions, signatures []uint16
	protocols                                                 []string
	name                                                      string
}

func parseHello(t *testing.T, b []byte) (h hello) {
	t.Helper()
	s := cryptobyte.String(b)
	var body, id, ciphers, compression, extensions cryptobyte.String
	if !s.Skip(1) || !s.ReadUint24LengthPrefixed(&body) || !body.Skip(2+32) ||
		!body.ReadUint8LengthPrefixed(&id) || !body.ReadUint16LengthPrefixed(&ciphers) ||
		!body.ReadUint8LengthPrefixed(&compression) || !body.ReadUint16LengthPrefixed(&extensions) || !body.Empty() {
		t.Fatalf("not a ClientHello: %x", b)
	}
	h.ciphers = numbers(ciphers)
	for !extensions.Empty() {
		var kind uint16
		var data, list cryptobyte.String
		if !extensions.ReadUint16(&kind) || !extensions.ReadUint16LengthPrefixed(&data) {
			t.Fatal("bad extensions")
		}
		if !isGrease(kind) {
			h.extensions = append(h.extensions, kind)
		}
		switch kind {
		case 0:
			h.name = string(data[5:])
		case 10, 13: // groups, signatures
			data.ReadUint16LengthPrefixed(&list)
			if kind == 10 {
				h.groups = numbers(list)
			} else {
				h.signatures = numbers(list)
			}
		case 16:
			data.ReadUint16LengthPrefixed(&list)
			for !list.Empty() {
				var p cryptobyte.String
				list.ReadUint8LengthPrefixed(&p)
				h.protocols = append(h.protocols, string(p))
			}
		case 43:
			data.ReadUint8LengthPrefixed(&list)
			h.versions = numbers(list)
		case 51:
			data.ReadUint16LengthPrefixed(&list)
			for !list.Empty() {
				var group uint16
				var share cryptobyte.String
				list.ReadUint16(&group)
				list.ReadUint16LengthPrefixed(&share)
				h.shares = append(h.shares, without(group)...)
			}
		}
	}
	return h
}

func numbers(s cryptobyte.String) (list []uint16) {
	for n := uint16(0); s.ReadUint16(&n); {
		list = append(list, without(n)...)
	}
	return list
}

// isGrease tells the values that browsers add to keep servers tolerant (RFC 8701).
func isGrease(n uint16) bool { return n&0x0f0f == 0x0a0a && n>>8 == n&0xff }

func without(n uint16) []uint16 {
	if isGrease(n) {
		return nil
	}
	return []uint16{n}
}

// ja4 is the fingerprint by which observers know clients
// (github.com/FoxIO-LLC/ja4): it sorts what browsers shuffle.
func (h hello) ja4() string {
	rest := slices.DeleteFunc(slices.Clone(h.extensions), func(n uint16) bool { return n == 0 || n == 16 })
	name := "i"
	if h.name != "" {
		name = "d"
	}
	return fmt.Sprintf("t13%s%02d%02d%s_%s_%s", name, len(h.ciphers), len(h.extensions), h.protocols[0],
		short(sorted(h.ciphers)), short(sorted(rest)+"_"+hexes(h.signatures)))
}

func sorted(list []uint16) string { return hexes(slices.Sorted(slices.Values(list))) }

func hexes(list []uint16) string {
	var s []string
	for _, n := range list {
		s = append(s, fmt.Sprintf("%04x", n))
	}
	return strings.Join(s, ",")
}

func short(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:6])
}

// onTheWire catches the ClientHello that a dialer sends.
func onTheWire(t *testing.T, d *Dialer) hello {
	t.Helper()
	ln := listen(t)
	defer ln.Close()
	d.Address, d.Pin, d.HandshakeTimeout = ln.Addr().String(), [32]byte{1}, patience
	failed := make(chan error, 1)
	go func() {
		_, err := d.Dial(t.Context())
		failed <- err
	}()
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(patience))
	var header [5]byte
	if _, err := io.ReadFull(c, header[:]); err != nil {
		t.Fatal(err)
	}
	body := make([]byte, int(header[3])<<8|int(header[4]))
	if _, err := io.ReadFull(c, body); err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	if err := <-failed; err == nil {
		t.Error("dialled without a server")
	}
	return parseHello(t, body)
}

// These are the fingerprints of the browsers themselves, as collected by
// others: Chrome 133 and up, Firefox 120, Safari 16.
func TestClientHelloIsTheBrowsersOnTheWire(t *testing.T) {
	for fingerprint, want := range map[string]struct {
		preset utls.ClientHelloID
		ja4    string
	}{
		"":        {utls.HelloChrome_Auto, "t13d1516h2_8daaf6152771_d8a2da3f94cd"},
		"chrome":  {utls.HelloChrome_Auto, "t13d1516h2_8daaf6152771_d8a2da3f94cd"},
		"firefox": {utls.HelloFirefox_Auto, "t13d1715h2_5b57614c22b0_5c2c66f702b0"},
		"safari":  {utls.HelloSafari_Auto, "t13d2014h2_a09f3c656075_14788d8d241b"},
	} {
		got := onTheWire(t, &Dialer{ServerName: "exit.test", Fingerprint: fingerprint})
		if got.ja4() != want.ja4 {
			t.Errorf("%q: JA4 is %s, want %s", fingerprint, got.ja4(), want.ja4)
		}
		if got.name != "exit.test" {
			t.Errorf("%q: the server name is %q", fingerprint, got.name)
		}
		// What we change in the preset does not show.
		preset := utls.UClient(nil, &utls.Config{ServerName: "exit.test"}, want.preset)
		if err := preset.BuildHandshakeState(); err != nil {
			t.Fatal(err)
		}
		as := parseHello(t, preset.HandshakeState.Hello.Raw)
		slices.Sort(as.extensions) // Chrome shuffles them
		slices.Sort(got.extensions)
		if fmt.Sprint(got) != fmt.Sprint(as) {
			t.Errorf("%q: sent\n%v, the preset has\n%v", fingerprint, got, as)
		}
	}
}

func TestRandomFingerprintsDifferAndOfferWhatCarriersNeed(t *testing.T) {
	seen := map[string]bool{}
	for range 30 {
		h := onTheWire(t, &Dialer{ServerName: "exit.test", Fingerprint: "random"})
		if !slices.Equal(h.protocols, alpn[:]) || !slices.Contains(h.versions, 0x0304) || !slices.Contains(h.shares, 0x11ec) || !slices.Contains(h.shares, 0x1d) {
			t.Errorf("random offers %+v", h)
		}
		seen[fmt.Sprint(h)] = true
	}
	if len(seen) < 25 {
		t.Errorf("30 random fingerprints are %d different ones", len(seen))
	}
}

func TestRandomFingerprintsAllConnect(t *testing.T) {
	e := start(t, &Server{}, genuine(echo))
	for range 30 {
		conn := e.attach(t, "random")
		roundTrip(t, conn, 100)
		_ = conn.Close()
	}
}

func TestAddressIsNoServerName(t *testing.T) {
	for _, fingerprint := range fingerprints {
		if h := onTheWire(t, &Dialer{Fingerprint: fingerprint}); h.name != "" {
			t.Errorf("%s: the server name is %q", fingerprint, h.name)
		}
	}
}
