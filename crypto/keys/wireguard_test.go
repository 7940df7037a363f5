package keys

import (
	"bytes"
	"crypto/ecdh"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
)

func TestServerHasOneWireGuardKeyForEver(t *testing.T) {
	s := newServerKey(t)
	key, err := s.WireGuard()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "state", "server.key")
	if err := s.Save(path); err != nil {
		t.Fatal(err)
	}
	restored, err := LoadServer(path)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := restored.WireGuard(); err != nil || again != key {
		t.Errorf("restored: %v, %v", again, err)
	}
	if other, err := newServerKey(t).WireGuard(); err != nil || other == key {
		t.Errorf("another server: %v, %v", other, err)
	}
	if scalar, err := s.key.Bytes(); err != nil || key.Reveal() == [32]byte(scalar) {
		t.Errorf("it is the TLS key itself, or: %v", err)
	}
}

func TestKeyThatIsHandedOutIsAsWireGuardsToolsMakeIt(t *testing.T) {
	seen := make(map[[32]byte]bool)
	for range 100 {
		key, err := NewWireGuardKey()
		if err != nil {
			t.Fatal(err)
		}
		private := key.Reveal()
		if private[0]&7 != 0 || private[31]&0xc0 != 0x40 || seen[private] {
			t.Fatalf("its first byte is %#x and its last %#x, or there was such a key", private[0], private[31])
		}
		seen[private] = true
	}
}

func TestWireGuardKeysHaveTwoHalves(t *testing.T) {
	d := newDevice(t)
	server, err := newServerKey(t).WireGuard()
	if err != nil {
		t.Fatal(err)
	}
	handed, err := NewWireGuardKey()
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []WireGuardKey{d.WireGuard(), server, handed} {
		private := key.Reveal()
		half, err := ecdh.X25519().NewPrivateKey(private[:])
		if err != nil {
			t.Fatal(err)
		}
		if public := key.Public(); !bytes.Equal(half.PublicKey().Bytes(), public[:]) || key.IsZero() {
			t.Error("the halves do not belong together")
		}
	}
	if d.WireGuard().Public() != d.WireGuardPublic() {
		t.Error("the device has two public keys")
	}
	if !(WireGuardKey{}).IsZero() {
		t.Error("nothing is a key")
	}
}

func TestWireGuardKeysDoNotPrint(t *testing.T) {
	key := newDevice(t).WireGuard()
	private, public := key.Reveal(), key.Public()
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "key", key, "in", struct{ K WireGuardKey }{key})
	text := log.String() + fmt.Sprintf("%v %+v %#v %s %x %d %v", key, key, key, key, key, key, &key)
	for _, secret := range []string{base64.StdEncoding.EncodeToString(private[:]), hex.EncodeToString(private[:]), fmt.Sprint(private[:4])[1:8]} {
		if strings.Contains(text, secret) {
			t.Errorf("the private half is printed: %s", text)
		}
	}
	if !strings.Contains(text, base64.StdEncoding.EncodeToString(public[:])) {
		t.Error("the public half is not printed")
	}
}

func TestWireGuardPublicKeyIsReadAsItIsWritten(t *testing.T) {
	key := [32]byte{1, 2, 3, 255}
	text := WireGuardText(key)
	if got, err := ParseWireGuardPublic(text); err != nil || got != key || len(text) != 44 {
		t.Errorf("%q reads as %x, %v", text, got, err)
	}
	for _, bad := range []string{"", "abc", text[:43], text + "A", "\n" + text, strings.Repeat("A", 44)} {
		if got, err := ParseWireGuardPublic(bad); err == nil {
			t.Errorf("%q reads as %x", bad, got)
		}
	}
}
