package keys

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

const (
	pemType = "PRIVATE KEY" // PKCS #8 (RFC 5958), which OpenSSL reads as well

	// maxFile bounds what is read of a key file, in bytes.
	maxFile = 16 << 10
)

// writeKeys writes private keys to a new file, one PEM block each: all of it
// reaches the disk under its final name, or none of it.
func writeKeys(path string, keys ...any) error {
	var text bytes.Buffer
	for _, key := range keys {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return fmt.Errorf("encode key: %w", err)
		}
		// A bytes.Buffer takes every write.
		_ = pem.Encode(&text, &pem.Block{Type: pemType, Bytes: der})
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := checkDir(dir); err != nil {
		return err
	}
	// Between this look and the rename another adit could still slip in. Both
	// then belong to the same user, as nobody else may write here.
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("%s: %w; move it away if you want a new key", path, fs.ErrExist)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return replaceFile(path, text.Bytes())
}

// replaceFile writes a file next to its place, makes sure that it has reached
// the disk, and moves it there.
func replaceFile(path string, content []byte) error {
	temp := path + ".new-" + rand.Text()
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return syncDir(filepath.Dir(path))
}

// readKeys reads a file that [writeKeys] has written with want keys, if nobody
// but its owner could have read or changed it.
func readKeys(path string, want int) ([]any, error) {
	text, err := readPrivate(path)
	if err != nil {
		return nil, err
	}
	if len(text) == 0 {
		return nil, fmt.Errorf("%s is empty; restore it from a backup, or remove it and start anew", path)
	}
	var keys []any
	for rest := text; len(rest) > 0; {
		var block *pem.Block
		// The decoder would pass over anything in front of a block.
		if bytes.HasPrefix(rest, []byte("-----BEGIN ")) {
			block, rest = pem.Decode(rest)
		}
		if block == nil || block.Type != pemType || len(block.Headers) != 0 {
			return nil, corrupt(path)
		}
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return nil, corrupt(path)
		}
		keys = append(keys, key)
	}
	if len(keys) != want {
		return nil, corrupt(path)
	}
	return keys, nil
}

func corrupt(path string) error {
	return fmt.Errorf("%s is corrupt; restore it from a backup, or remove it and start anew", path)
}

// readPrivate reads a file that is private to whoever runs this program.
func readPrivate(path string) ([]byte, error) {
	if err := checkDir(filepath.Dir(path)); err != nil {
		return nil, err
	}
	named, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if named.Mode()&fs.ModeSymlink != 0 {
		return nil, fmt.Errorf("%s is a symbolic link; name the file itself", path)
	}
	if !named.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() // reading only: nothing to lose
	opened, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !os.SameFile(named, opened) {
		return nil, fmt.Errorf("%s was replaced while it was being opened; try again", path)
	}
	if err := checkFile(path, opened); err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxFile {
		return nil, corrupt(path)
	}
	return text, nil
}
