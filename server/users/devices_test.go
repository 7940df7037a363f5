package users

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestLookupGivesDeviceAndUserWithTheirFlags(t *testing.T) {
	s := newStore(t)
	ctx := t.Context()
	must(t, s.AddUser(ctx, "anna", "staff"))
	want := joined(t, s, "anna", "laptop")

	device, user, err := s.Lookup(ctx, want.Key)
	must(t, err)
	if !device.Key.Equal(want.Key) || device.WireGuard != want.WireGuard || device.User != "anna" || device.Name != "laptop" ||
		!device.Created.Equal(want.Created) || !device.LastSeen.IsZero() || device.Revoked {
		t.Errorf("got %+v, want %+v", device, want)
	}
	if user.Name != "anna" || user.Disabled || !slices.Equal(user.Groups, []string{"staff"}) {
		t.Errorf("its user is %+v", user)
	}

	must(t, s.SetUserDisabled(ctx, "anna", true))
	must(t, s.RevokeDevice(ctx, "anna/laptop"))
	device, user, err = s.Lookup(ctx, want.Key)
	if err != nil || !device.Revoked || !user.Disabled {
		t.Errorf("got %+v, %+v, %v", device, user, err)
	}
	if _, _, err := s.Lookup(ctx, newDevice("").Key); !errors.Is(err, ErrDeviceUnknown) {
		t.Errorf("an unknown key: %v", err)
	}
	if _, _, err := s.Lookup(ctx, nil); !errors.Is(err, ErrDeviceUnknown) {
		t.Errorf("no key: %v", err)
	}
}

func TestDevicesAreListedByUser(t *testing.T) {
	s := newStore(t)
	ctx := t.Context()
	must(t, s.AddUser(ctx, "bert"))
	must(t, s.AddUser(ctx, "anna"))
	must(t, s.AddUser(ctx, "carl"))
	joined(t, s, "bert", "phone")
	joined(t, s, "anna", "phone")
	joined(t, s, "anna", "laptop")

	for user, want := range map[string]string{"": "anna/laptop anna/phone bert/phone", "anna": "anna/laptop anna/phone", "carl": ""} {
		devices, err := s.Devices(ctx, user)
		must(t, err)
		var got []string
		for _, d := range devices {
			got = append(got, d.User+"/"+d.Name)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("of %q: %v, want %s", user, got, want)
		}
	}
	if _, err := s.Devices(ctx, "dora"); !errors.Is(err, ErrUserUnknown) {
		t.Errorf("of nobody: %v", err)
	}
}

func TestRevokeDeviceTakesAnIDOrAName(t *testing.T) {
	s := newStore(t)
	ctx := t.Context()
	must(t, s.AddUser(ctx, "anna"))
	one, two, three := joined(t, s, "anna", "one"), joined(t, s, "anna", "two"), joined(t, s, "anna", "three")

	for _, which := range []string{"", one.ID().String()[:3], "anna", "anna/", "/one", "bert/one", "anna/o%", "0000", one.ID().String() + "a", "'; --"} {
		if err := s.RevokeDevice(ctx, which); err == nil {
			t.Errorf("%q revoked something", which)
		}
	}
	must(t, s.RevokeDevice(ctx, one.ID().String()))
	must(t, s.RevokeDevice(ctx, strings.ToUpper(two.ID().String()[:10])))
	if got := revoked(t, s); !slices.Equal(got, []string{"one", "two"}) {
		t.Errorf("revoked are %v", got)
	}
	must(t, s.RevokeDevice(ctx, "anna/three"))
	must(t, s.RevokeDevice(ctx, "anna/three"))
	if device, _, _ := s.Lookup(ctx, three.Key); !device.Revoked {
		t.Error("three is not revoked")
	}
	if _, err := s.Join(ctx, invited(t, s, "anna"), three); !errors.Is(err, ErrDeviceKnown) {
		t.Errorf("a revoked device came back: %v", err)
	}
}

func TestRevokeDeviceNamesTheChoiceInsteadOfGuessing(t *testing.T) {
	s := newStore(t)
	ctx := t.Context()
	must(t, s.AddUser(ctx, "anna"))
	one, two := joined(t, s, "anna", "phone"), joined(t, s, "anna", "phone")

	err := s.RevokeDevice(ctx, "anna/phone")
	if err == nil || !strings.Contains(err.Error(), one.ID().String()) || !strings.Contains(err.Error(), two.ID().String()) {
		t.Errorf("error is %v", err)
	}
	if got := revoked(t, s); len(got) != 0 {
		t.Errorf("revoked are %v", got)
	}
	must(t, s.RevokeDevice(ctx, one.ID().String()))
	// There is nothing to choose any more.
	must(t, s.RevokeDevice(ctx, "anna/phone"))
	if got := revoked(t, s); len(got) != 2 {
		t.Errorf("revoked are %v", got)
	}
}

func revoked(t *testing.T, s *Store) []string {
	t.Helper()
	devices, err := s.Devices(t.Context(), "")
	must(t, err)
	var names []string
	for _, d := range devices {
		if d.Revoked {
			names = append(names, d.Name)
		}
	}
	return names
}

func TestSeenIsKeptToTheMinute(t *testing.T) {
	s := newStore(t)
	ctx := t.Context()
	must(t, s.AddUser(ctx, "anna"))
	device := joined(t, s, "anna", "laptop")
	start := time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)
	for _, step := range []struct{ after, want time.Duration }{
		{0, 0}, {59 * time.Second, 0}, {time.Minute, time.Minute}, {0, time.Minute}, {time.Hour, time.Hour},
	} {
		must(t, s.Seen(ctx, device.Key, start.Add(step.after)))
		got, _, err := s.Lookup(ctx, device.Key)
		must(t, err)
		if !got.LastSeen.Equal(start.Add(step.want)) {
			t.Errorf("after %v: seen %v", step.after, got.LastSeen.Sub(start))
		}
	}
}
