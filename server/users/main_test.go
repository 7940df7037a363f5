package users

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/adit-net/adit/crypto/keys"
)

// asOther makes the test program another process that disables a user in the
// store that the variable names.
const asOther = "ADIT_TEST_DISABLE_ANNA_IN"

func TestMain(m *testing.M) {
	if path := os.Getenv(asOther); path != "" {
		if err := disableAnna(context.Background(), path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

func disableAnna(ctx context.Context, path string) error {
	s, err := Open(ctx, path)
	if err != nil {
		return err
	}
	defer s.Close()
	return s.SetUserDisabled(ctx, "anna", true)
}

// newStore makes a store that ends with the test.
func newStore(t testing.TB) *Store {
	t.Helper()
	s, err := Create(t.Context(), filepath.Join(t.TempDir(), "adit.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// reopen opens another store's file a second time.
func reopen(t testing.TB, s *Store) *Store {
	t.Helper()
	other, err := Open(t.Context(), s.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { other.Close() })
	return other
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newDevice makes up what a device says of itself.
func newDevice(name string) Device {
	d := Device{Key: make(ed25519.PublicKey, ed25519.PublicKeySize), Name: name}
	_, _ = rand.Read(d.Key)
	_, _ = rand.Read(d.WireGuard[:])
	return d
}

// invited makes an invite for an hour.
func invited(t testing.TB, s *Store, user string, groups ...string) [32]byte {
	t.Helper()
	token := keys.NewToken()
	must(t, s.Invite(t.Context(), user, token, s.now().Add(time.Hour), groups...))
	return token.Bytes()
}

// joined enrols a new device.
func joined(t testing.TB, s *Store, user, name string) Device {
	t.Helper()
	d, err := s.Join(t.Context(), invited(t, s, user), newDevice(name))
	must(t, err)
	return d
}
