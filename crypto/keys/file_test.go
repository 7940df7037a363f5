package keys

import (
	"bytes"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// savedDevice saves a device's key file in a directory that Save makes.
func savedDevice(t *testing.T) (*Device, string) {
	t.Helper()
	d := newDevice(t)
	path := filepath.Join(t.TempDir(), "state", "device.key")
	if err := d.Save(path); err != nil {
		t.Fatal(err)
	}
	return d, path
}

func TestDeviceSurvivesItsFile(t *testing.T) {
	d, path := savedDevice(t)
	got, err := LoadDevice(path)
	if err != nil {
		t.Fatal(err)
	}
	if !got.Public().Equal(d.Public()) || got.WireGuardPublic() != d.WireGuardPublic() {
		t.Error("another device came back")
	}
}

func TestServerSurvivesItsFile(t *testing.T) {
	s := newServerKey(t)
	path := filepath.Join(t.TempDir(), "state", "server.key")
	if err := s.Save(path); err != nil {
		t.Fatal(err)
	}
	got, err := LoadServer(path)
	if err != nil {
		t.Fatal(err)
	}
	if got.Pin() != s.Pin() || !got.key.Equal(s.key) {
		t.Error("another server came back")
	}
}

func TestKeyFileOfAnotherKindIsRefused(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	device, server := filepath.Join(dir, "device.key"), filepath.Join(dir, "server.key")
	if err := errors.Join(newDevice(t).Save(device), newServerKey(t).Save(server)); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadDevice(server); err == nil {
		t.Error("a server's key was taken for a device's")
	}
	if _, err := LoadServer(device); err == nil {
		t.Error("a device's key was taken for a server's")
	}
	text := bytes.Join([][]byte{read(t, server), read(t, server)}, nil)
	if err := os.WriteFile(device, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadDevice(device); err == nil {
		t.Error("two server keys were taken for a device's")
	}
}

func TestSaveReplacesNoKey(t *testing.T) {
	_, path := savedDevice(t)
	before := read(t, path)
	if err := newDevice(t).Save(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Save over a key gives %v", err)
	}
	if !bytes.Equal(before, read(t, path)) {
		t.Error("the key changed")
	}
	target := filepath.Join(t.TempDir(), "nowhere")
	link := filepath.Join(filepath.Dir(path), "link")
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	if err := newDevice(t).Save(link); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Save over a dangling link gives %v", err)
	}
	if _, err := os.Lstat(target); err == nil {
		t.Error("Save wrote through a link")
	}
}

func TestFailedSaveLeavesNothingBehind(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	if err := os.MkdirAll(filepath.Join(dir, "device.key.d"), 0o700); err != nil {
		t.Fatal(err)
	}
	// A name too long for the directory, once the temporary suffix is on it.
	if err := newDevice(t).Save(filepath.Join(dir, strings.Repeat("k", 250))); err == nil {
		t.Error("Save did not fail")
	}
	if err := replaceFile(filepath.Join(dir, "device.key.d"), []byte("x")); err == nil {
		t.Error("a directory was replaced by a file")
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1 {
		t.Errorf("the directory holds %v", entries)
	}
}

func TestDamagedKeyFilesAreRefusedInOneLine(t *testing.T) {
	_, path := savedDevice(t)
	whole := read(t, path)
	block, rest := pem.Decode(whole)
	for what, content := range map[string][]byte{
		"empty":             {},
		"one block":         whole[:len(whole)-len(rest)],
		"cut off":           whole[:len(whole)-10],
		"text in front":     append([]byte("hello\n"), whole...),
		"text between":      bytes.Replace(whole, rest, append([]byte("hello\n"), rest...), 1),
		"text at the end":   append(bytes.Clone(whole), "hello"...),
		"three blocks":      append(bytes.Clone(whole), rest...),
		"zeros":             make([]byte, len(whole)),
		"another type":      bytes.ReplaceAll(whole, []byte("PRIVATE KEY"), []byte("CERTIFICATE")),
		"headers":           pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: block.Bytes, Headers: map[string]string{"a": "b"}}),
		"bytes not PKCS #8": pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: []byte("hello")}),
		"too long":          bytes.Repeat([]byte("x"), maxFile+1),
	} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := LoadDevice(path)
		if err == nil {
			t.Errorf("%s: taken", what)
			continue
		}
		if !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "; ") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func FuzzReadKeys(f *testing.F) {
	d, err := NewDevice()
	if err != nil {
		f.Fatal(err)
	}
	dir := filepath.Join(f.TempDir(), "state")
	if err := d.Save(filepath.Join(dir, "seed")); err != nil {
		f.Fatal(err)
	}
	seed, err := os.ReadFile(filepath.Join(dir, "seed"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n"))
	path := filepath.Join(dir, "fuzzed")
	f.Fuzz(func(t *testing.T, content []byte) {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if d, err := LoadDevice(path); err == nil {
			_ = d.Sign(content)
			_ = d.WireGuardPublic()
		}
		if s, err := LoadServer(path); err == nil {
			if _, err := s.Certificate("h"); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}
