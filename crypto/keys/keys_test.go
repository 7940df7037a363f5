package keys

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newDevice(t *testing.T) *Device {
	t.Helper()
	d, err := NewDevice()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func newServerKey(t *testing.T) *Server {
	t.Helper()
	s, err := NewServer()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestDeviceSignsWithItsPublicKey(t *testing.T) {
	d := newDevice(t)
	message := []byte("who goes there")
	if !ed25519.Verify(d.Public(), message, d.Sign(message)) {
		t.Error("the device's signature does not verify with its public key")
	}
	if d.WireGuardPublic() == [32]byte{} {
		t.Error("the WireGuard key is zero")
	}
	if other := newDevice(t); other.ID() == d.ID() {
		t.Error("two devices have one id")
	}
}

func TestPinIsOfTheKeyAndNotOfTheCertificate(t *testing.T) {
	s := newServerKey(t)
	for _, names := range [][]string{{"exit.example"}, {"192.0.2.1", "other.example", "2001:db8::1"}} {
		c, err := s.Certificate(names...)
		if err != nil {
			t.Fatal(err)
		}
		if PinOf(c.Leaf) != s.Pin() {
			t.Errorf("the certificate for %v has another pin than the server's", names)
		}
		for _, name := range names {
			if err := c.Leaf.VerifyHostname(name); err != nil {
				t.Error(err)
			}
		}
	}
	info, err := x509.MarshalPKIXPublicKey(&s.key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	if s.Pin() != sha256.Sum256(info) {
		t.Error("the pin is not the hash of the SubjectPublicKeyInfo")
	}
}

func TestCertificateIsValidNowAndForAServer(t *testing.T) {
	c, err := newServerKey(t).Certificate("exit.example")
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(c.Leaf)
	for _, at := range []time.Time{time.Now(), time.Now().Add(-time.Hour), time.Now().AddDate(9, 0, 0)} {
		if _, err := c.Leaf.Verify(x509.VerifyOptions{DNSName: "exit.example", Roots: roots, CurrentTime: at}); err != nil {
			t.Errorf("at %v: %v", at, err)
		}
	}
	if _, err := newServerKey(t).Certificate(); err == nil {
		t.Error("a certificate was made for no name")
	}
}

func TestPinIDAndTokenTextRoundTrips(t *testing.T) {
	pin := newServerKey(t).Pin()
	if got, err := ParsePin(pin.String()); err != nil || got != pin {
		t.Errorf("ParsePin(%v) = %v, %v", pin, got, err)
	}
	var decoded struct{ Pin Pin }
	text, err := json.Marshal(struct{ Pin Pin }{pin})
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &decoded); err != nil || decoded.Pin != pin {
		t.Errorf("decode %s: %v, %v", text, decoded.Pin, err)
	}
	id := newDevice(t).ID()
	if got, err := ParseID(id.String()); err != nil || got != id {
		t.Errorf("ParseID(%v) = %v, %v", id, got, err)
	}
	token := NewToken()
	if got, err := ParseToken(token.Reveal()); err != nil || got != token {
		t.Errorf("ParseToken: %v", err)
	}
	if TokenFrom(token.Bytes()) != token || token.IsZero() || token == NewToken() {
		t.Error("tokens are not what they were made from")
	}
	if b := token.Bytes(); token.Hash() != sha256.Sum256(b[:]) {
		t.Error("the stored form is not the SHA-256 hash")
	}
}

func TestTextFormsHaveOneSpelling(t *testing.T) {
	good := base64.RawURLEncoding.EncodeToString(bytes.Repeat([]byte{0xfb}, 32))
	for _, bad := range []string{
		"", good + "=", good[:42], good + "A", good[:42] + "\n", good[:42] + "9", good[:42] + "+", good[:20] + "\n" + good[21:],
		strings.ReplaceAll(good, "-", "+"), " " + good[1:],
	} {
		if _, err := ParsePin(bad); err == nil {
			t.Errorf("ParsePin takes %q", bad)
		}
		if _, err := ParseToken(bad); err == nil {
			t.Errorf("ParseToken takes %q", bad)
		}
	}
	id := strings.Repeat("a", 26)
	if _, err := ParseID(id); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", id[1:], id + "a", strings.ToUpper(id), id[:25] + "b", id[:25] + "1", id[:25] + "\n", id + "\n"} {
		if _, err := ParseID(bad); err == nil {
			t.Errorf("ParseID takes %q", bad)
		}
	}
}

func TestSecretsPrintAsPlaceholdersWhateverTheVerb(t *testing.T) {
	d, s, token := newDevice(t), newServerKey(t), NewToken()
	invite := Invite{Address: "exit.example:443", Token: token, Name: "alice"}
	raw := token.Bytes()
	scalar, err := s.key.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	secrets := map[string][]byte{"token": raw[:], "signing key": d.signing.Seed(), "WireGuard key": d.wireguard.Bytes(), "server key": scalar}
	var printed strings.Builder
	for _, v := range []any{d, *d, s, *s, token, &token, invite, &invite, []Token{token}, struct{ T Token }{token}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%c", "%U", "%b"} {
			fmt.Fprintf(&printed, verb+"\n", v)
		}
		slog.New(slog.NewTextHandler(&printed, nil)).Info("x", "v", v)
		slog.New(slog.NewJSONHandler(&printed, nil)).Info("x", "v", v)
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		printed.Write(text)
	}
	for what, secret := range secrets {
		for _, form := range []string{
			base64.RawURLEncoding.EncodeToString(secret), base64.StdEncoding.EncodeToString(secret), string(secret),
			fmt.Sprintf("%x", secret), fmt.Sprintf("%X", secret), strings.Trim(fmt.Sprint(secret), "[]"),
			strings.Trim(fmt.Sprintf("%#v", secret), "[]byte{}"),
		} {
			if strings.Contains(printed.String(), form) {
				t.Errorf("the %s is printed as %.20q…", what, form)
			}
		}
	}
	if !strings.Contains(printed.String(), d.ID().String()) || !strings.Contains(printed.String(), "[secret]") {
		t.Error("the placeholders are missing")
	}
}

func TestServerKeyIsOneThatEveryTLSClientVerifies(t *testing.T) {
	c, err := newServerKey(t).Certificate("exit.example")
	if err != nil {
		t.Fatal(err)
	}
	if key, ok := c.Leaf.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve.Params().Name != "P-256" {
		t.Errorf("the key is a %T", c.Leaf.PublicKey)
	}
	if c.Leaf.SignatureAlgorithm != x509.ECDSAWithSHA256 {
		t.Errorf("the certificate is signed with %v", c.Leaf.SignatureAlgorithm)
	}
}
