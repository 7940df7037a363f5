package users

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"
)

// inner is a network with room for five guests.
var inner = netip.MustParsePrefix("10.83.0.0/29")

// added enrols a new guest.
func added(t testing.TB, s *Store, user, name string) Device {
	t.Helper()
	d, err := s.AddGuest(t.Context(), user, name, newDevice("").WireGuard, inner)
	must(t, err)
	return d
}

func TestGuestIsADeviceWithAnAddress(t *testing.T) {
	s := newStore(t)
	ctx := t.Context()
	must(t, s.AddUser(ctx, "anna"))
	laptop := joined(t, s, "anna", "laptop")
	phone := added(t, s, "anna", "Anna's phone")
	if phone.Name != "Anna-s-phone" || phone.User != "anna" || phone.Address != netip.MustParseAddr("10.83.0.2") || !phone.Guest() || laptop.Guest() {
		t.Errorf("the phone is %+v, the laptop %+v", phone, laptop)
	}
	all, err := reopen(t, s).Devices(ctx, "anna")
	must(t, err)
	if want := []Device{phone, laptop}; !reflect.DeepEqual(all, want) {
		t.Errorf("the devices are %+v, want %+v", all, want)
	}
	found, user, err := s.Lookup(ctx, phone.WireGuard[:])
	if err != nil || !reflect.DeepEqual(found, phone) || user.Name != "anna" {
		t.Errorf("the phone's key finds %+v of %+v, %v", found, user, err)
	}
	must(t, s.RevokeDevice(ctx, phone.ID().String()[:8]))
	if found, _, err := s.Lookup(ctx, phone.Key); err != nil || !found.Revoked || !found.Guest() {
		t.Errorf("after its revocation it is %+v, %v", found, err)
	}
}

func TestKeyIsAGuestsOrADevices(t *testing.T) {
	s := newStore(t)
	ctx := t.Context()
	must(t, s.AddUser(ctx, "anna"))
	laptop, phone := joined(t, s, "anna", "laptop"), added(t, s, "anna", "phone")
	for what, key := range map[string][32]byte{
		"a guest's key":               phone.WireGuard,
		"a device's key":              [32]byte(laptop.Key),
		"a device's key of WireGuard": laptop.WireGuard,
	} {
		if _, err := s.AddGuest(ctx, "anna", "again", key, inner); !errors.Is(err, ErrDeviceKnown) {
			t.Errorf("a guest with %s: %v", what, err)
		}
	}
	for what, spoil := range map[string]func(d *Device){
		"key":              func(d *Device) { d.Key = phone.Key },
		"key of WireGuard": func(d *Device) { d.WireGuard = phone.WireGuard },
	} {
		d := newDevice("thief")
		spoil(&d)
		if _, err := s.Join(ctx, invited(t, s, "anna"), d); !errors.Is(err, ErrDeviceKnown) {
			t.Errorf("a device with a guest's key as its %s: %v", what, err)
		}
	}
	must(t, s.RevokeDevice(ctx, "anna/phone"))
	if _, err := s.AddGuest(ctx, "anna", "again", phone.WireGuard, inner); !errors.Is(err, ErrDeviceKnown) {
		t.Errorf("a revoked guest came back: %v", err)
	}
}

func TestAddressOfAGuestIsNobodyElsesWhileItExists(t *testing.T) {
	s := newStore(t)
	ctx := t.Context()
	must(t, s.AddUser(ctx, "anna"))
	must(t, s.AddUser(ctx, "bert"))
	var got []string
	for _, user := range []string{"anna", "anna", "bert", "anna", "anna"} {
		got = append(got, added(t, s, user, "phone").Address.String())
	}
	if want := "10.83.0.2 10.83.0.3 10.83.0.4 10.83.0.5 10.83.0.6"; strings.Join(got, " ") != want {
		t.Errorf("addresses are %v, want %s", got, want)
	}
	devices, err := s.Devices(ctx, "")
	must(t, err)
	must(t, s.RevokeDevice(ctx, devices[0].ID().String()))
	if _, err := s.AddGuest(ctx, "anna", "phone", newDevice("").WireGuard, inner); !errors.Is(err, ErrNetworkFull) {
		t.Errorf("one guest too many gets %v", err)
	}
	must(t, s.RemoveUser(ctx, "bert"))
	if a := added(t, s, "anna", "phone").Address.String(); a != "10.83.0.4" {
		t.Errorf("the address that has become free is 10.83.0.4, and %s is given out", a)
	}
	// A network that lies around the first goes on behind its guests.
	wider := netip.MustParsePrefix("10.83.0.0/24")
	d, err := s.AddGuest(ctx, "anna", "phone", newDevice("").WireGuard, wider)
	if err != nil || d.Address.String() != "10.83.0.7" {
		t.Errorf("in a wider network: %v, %v", d.Address, err)
	}
}

func TestGuestsWhoComeAtOnceGetDifferentAddresses(t *testing.T) {
	s := newStore(t)
	other := reopen(t, s)
	must(t, s.AddUser(t.Context(), "anna"))
	network := netip.MustParsePrefix("10.83.0.0/16")
	var (
		adding sync.WaitGroup
		mu     sync.Mutex
		seen   = make(map[netip.Addr]bool)
	)
	const each = 20
	for _, s := range []*Store{s, other} {
		for range each {
			adding.Go(func() {
				d, err := s.AddGuest(t.Context(), "anna", "phone", newDevice("").WireGuard, network)
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				seen[d.Address] = true
			})
		}
	}
	adding.Wait()
	if len(seen) != 2*each {
		t.Errorf("%d guests have %d addresses", 2*each, len(seen))
	}
}

func TestAddGuestRefuses(t *testing.T) {
	s := newStore(t)
	ctx := t.Context()
	must(t, s.AddUser(ctx, "anna"))
	must(t, s.AddUser(ctx, "bert"))
	must(t, s.SetUserDisabled(ctx, "bert", true))
	key := newDevice("").WireGuard
	for _, test := range []struct {
		what    string
		user    string
		key     [32]byte
		network string
		want    error // nil: any
	}{
		{"an unknown user", "carl", key, "10.83.0.0/16", ErrUserUnknown},
		{"a disabled user", "bert", key, "10.83.0.0/16", ErrUserDisabled},
		{"no key", "anna", [32]byte{}, "10.83.0.0/16", nil},
		{"an IPv6 network", "anna", key, "fd00::/64", nil},
		{"a network of all addresses", "anna", key, "0.0.0.0/0", nil},
		{"a network of two", "anna", key, "10.83.0.0/31", ErrNetworkFull},
		{"a network of one", "anna", key, "10.83.0.0/32", ErrNetworkFull},
	} {
		_, err := s.AddGuest(ctx, test.user, "phone", test.key, netip.MustParsePrefix(test.network))
		if err == nil || test.want != nil && !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.what, err, test.want)
		}
	}
	if _, err := s.AddGuest(ctx, "anna", "phone", key, netip.Prefix{}); err == nil {
		t.Error("a guest has no network")
	}
	s.maxRows = 0
	if _, err := s.AddGuest(ctx, "anna", "phone", key, inner); err == nil || !strings.Contains(err.Error(), "as many as it may") {
		t.Errorf("a full store: %v", err)
	}
	if all, err := s.Devices(ctx, ""); err != nil || len(all) != 0 {
		t.Errorf("there are %v, %v", all, err)
	}
}

func TestOpenKeepsEverythingOfAStoreOfVersion2(t *testing.T) {
	path := filepath.Join(t.TempDir(), "adit.db")
	must(t, os.WriteFile(path, nil, 0o600))
	var schema strings.Builder
	for _, name := range []string{"0001", "0002"} {
		text, err := migrations.ReadFile("migrations/" + name + ".sql")
		must(t, err)
		schema.Write(text)
	}
	laptop := newDevice("laptop")
	laptop.User, laptop.Created, laptop.LastSeen, laptop.Revoked = "anna", time.UnixMilli(3000).UTC(), time.UnixMilli(4000).UTC(), true
	execute(t, path, "PRAGMA journal_mode = WAL; BEGIN;"+schema.String()+fmt.Sprintf(`
		INSERT INTO users VALUES ('anna', 1000, 0, 60000);
		INSERT INTO devices VALUES (x'%x', '%s', x'%x', 'anna', 'laptop', 3000, 4000, 1);
		PRAGMA user_version = 2; COMMIT;`, []byte(laptop.Key), laptop.ID(), laptop.WireGuard))

	s, err := Open(t.Context(), path)
	must(t, err)
	defer s.Close()
	if devices, err := s.Devices(t.Context(), "anna"); err != nil || !reflect.DeepEqual(devices, []Device{laptop}) {
		t.Errorf("devices are %+v, %v, want %+v", devices, err, laptop)
	}
	added(t, s, "anna", "phone")
	told, _ := watching(t, s)
	must(t, s.RevokeDevice(t.Context(), "anna/phone"))
	select {
	case <-told:
	case <-time.After(noticeIn):
		t.Error("a change was not noticed")
	}
}
