package users

import (
	"bytes"
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/adit-net/adit/crypto/keys"
)

func TestJoinEnrolsADeviceAndGivesTheInvitesGroups(t *testing.T) {
	s := newStore(t)
	ctx := t.Context()
	must(t, s.AddUser(ctx, "anna", "staff"))
	device := newDevice("laptop")
	device.User, device.Revoked = "root", true // not the device's to say

	got, err := s.Join(ctx, invited(t, s, "anna", "field", "staff"), device)
	must(t, err)
	stored, user, err := s.Lookup(ctx, device.Key)
	must(t, err)
	if got.User != "anna" || got.Revoked || !got.Created.Equal(stored.Created) || stored.User != "anna" || stored.Revoked {
		t.Errorf("joined as %+v, stored as %+v", got, stored)
	}
	if !slices.Equal(user.Groups, []string{"field", "staff"}) {
		t.Errorf("groups are %v", user.Groups)
	}
}

func TestJoinWithoutWireGuardIsNoClash(t *testing.T) {
	s := newStore(t)
	must(t, s.AddUser(t.Context(), "anna"))
	for _, name := range []string{"one", "two"} {
		device := newDevice(name)
		device.WireGuard = [32]byte{}
		if _, err := s.Join(t.Context(), invited(t, s, "anna"), device); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestJoinSaysWhyItRefuses(t *testing.T) {
	s := newStore(t)
	ctx := t.Context()
	must(t, s.AddUser(ctx, "anna"))
	must(t, s.AddUser(ctx, "bert"))
	used := invited(t, s, "anna")
	old, err := s.Join(ctx, used, newDevice("old"))
	must(t, err)
	expired := keys.NewToken().Bytes()
	must(t, s.Invite(ctx, "anna", keys.TokenFrom(expired), s.now().Add(time.Second)))
	disabled := invited(t, s, "bert")
	must(t, s.SetUserDisabled(ctx, "bert", true))
	fresh := invited(t, s, "anna")
	s.now = func() time.Time { return time.Now().Add(time.Minute) }

	sameWireGuard := newDevice("new")
	sameWireGuard.WireGuard = old.WireGuard
	shortKey := newDevice("new")
	shortKey.Key = shortKey.Key[:31]
	cases := []struct {
		name   string
		token  [32]byte
		device Device
		want   error // nil: any
	}{
		{"a token that nobody has made", keys.NewToken().Bytes(), newDevice("new"), ErrInviteUnknown},
		{"no token", [32]byte{}, newDevice("new"), ErrInviteUnknown},
		{"a used invite", used, newDevice("new"), ErrInviteUsed},
		{"a used invite and the device that used it", used, old, ErrDeviceKnown},
		{"an expired invite", expired, newDevice("new"), ErrInviteExpired},
		{"a disabled user", disabled, newDevice("new"), ErrUserDisabled},
		{"a known device", fresh, old, ErrDeviceKnown},
		{"a known WireGuard key", fresh, sameWireGuard, ErrDeviceKnown},
		{"a short key", fresh, shortKey, nil},
	}
	for _, c := range cases {
		if err := refusal(s.Join(ctx, c.token, c.device)); err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		} else if strings.ContainsAny(err.Error(), "\n\u202e") {
			t.Errorf("%s: the error is %q", c.name, err)
		}
	}
	if devices, _ := s.Devices(ctx, ""); len(devices) != 1 {
		t.Errorf("there are %d devices", len(devices))
	}
	if _, err := s.Join(ctx, fresh, newDevice("new")); err != nil {
		t.Errorf("the invite should have outlived the refusals: %v", err)
	}
}

func refusal(_ Device, err error) error { return err }

func TestInvitesAreRememberedForThirtyDaysAfterTheirEnd(t *testing.T) {
	s := newStore(t)
	ctx := t.Context()
	must(t, s.AddUser(ctx, "anna"))
	used, unused := invited(t, s, "anna", "staff"), invited(t, s, "anna", "staff")
	_, err := s.Join(ctx, used, newDevice("one"))
	must(t, err)

	s.now = func() time.Time { return time.Now().Add(30 * 24 * time.Hour) }
	invited(t, s, "anna")
	if err := refusal(s.Join(ctx, used, newDevice("two"))); !errors.Is(err, ErrInviteUsed) {
		t.Errorf("the used one after 30 days: %v", err)
	}
	if err := refusal(s.Join(ctx, unused, newDevice("two"))); !errors.Is(err, ErrInviteExpired) {
		t.Errorf("the unused one after 30 days: %v", err)
	}
	s.now = func() time.Time { return time.Now().Add(30*24*time.Hour + 2*time.Hour) }
	invited(t, s, "anna")
	for _, token := range [][32]byte{used, unused} {
		if err := refusal(s.Join(ctx, token, newDevice("two"))); !errors.Is(err, ErrInviteUnknown) {
			t.Errorf("later: %v", err)
		}
	}
	var invites, groups int
	must(t, s.reads.QueryRowContext(ctx, "SELECT (SELECT count(*) FROM invites), (SELECT count(*) FROM invite_groups)").Scan(&invites, &groups))
	if invites != 2 || groups != 0 {
		t.Errorf("left are %d invites and %d groups, want the two newest without groups", invites, groups)
	}
}

func TestInviteRefusesWhatCouldNotBeUsed(t *testing.T) {
	s := newStore(t)
	ctx := t.Context()
	must(t, s.AddUser(ctx, "anna"))
	must(t, s.AddUser(ctx, "bert"))
	must(t, s.SetUserDisabled(ctx, "bert", true))
	later := s.now().Add(time.Hour)
	token := invited(t, s, "anna")
	cases := []struct {
		name string
		err  error
		want error // nil: any
	}{
		{"nobody", s.Invite(ctx, "carl", keys.NewToken(), later), ErrUserUnknown},
		{"a disabled user", s.Invite(ctx, "bert", keys.NewToken(), later), ErrUserDisabled},
		{"the past", s.Invite(ctx, "anna", keys.NewToken(), s.now()), nil},
		{"a bad group", s.Invite(ctx, "anna", keys.NewToken(), later, "a b"), nil},
		{"no token", s.Invite(ctx, "anna", keys.Token{}, later), nil},
		{"the same token again", s.Invite(ctx, "anna", keys.TokenFrom(token), later), nil},
	}
	for _, c := range cases {
		if c.err == nil || c.want != nil && !errors.Is(c.err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, c.err, c.want)
		}
	}
}

func TestOfRacingJoinsExactlyOneWins(t *testing.T) {
	s := newStore(t)
	stores := []*Store{s, reopen(t, s)}
	must(t, s.AddUser(t.Context(), "anna"))
	for round := range 10 {
		token := invited(t, s, "anna")
		errs := make([]error, 8)
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() { errs[i] = refusal(stores[i%2].Join(t.Context(), token, newDevice("racer"))) })
		}
		wg.Wait()
		won := 0
		for _, err := range errs {
			if err == nil {
				won++
			} else if !errors.Is(err, ErrInviteUsed) {
				t.Errorf("a loser got %v", err)
			}
		}
		if devices, _ := s.Devices(t.Context(), ""); won != 1 || len(devices) != round+1 {
			t.Fatalf("round %d: %d have won, %d devices are enrolled", round, won, len(devices))
		}
	}
}

func TestTheStoreDoesNotHoldTheToken(t *testing.T) {
	s := newStore(t)
	must(t, s.AddUser(t.Context(), "anna"))
	secret := invited(t, s, "anna")
	token := keys.TokenFrom(secret)
	hash := token.Hash()
	var all []byte
	for _, name := range append(siblings(s.path), s.path) {
		b, _ := os.ReadFile(name)
		all = append(all, b...)
	}
	if !bytes.Contains(all, hash[:]) {
		t.Fatal("the files do not even hold the token's hash")
	}
	if bytes.Contains(all, secret[:]) || bytes.Contains(all, []byte(token.Reveal())) {
		t.Error("the files hold the token")
	}
}

func TestAJoinThatIsGivenUpHasChangedNothing(t *testing.T) {
	s := newStore(t)
	must(t, s.AddUser(t.Context(), "anna"))
	token := invited(t, s, "anna")
	// The one writer is taken, so that the join has to wait.
	tx, err := s.writes.BeginTx(t.Context(), nil)
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := refusal(s.Join(ctx, token, newDevice("one"))); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("meanwhile: %v", err)
	}
	must(t, tx.Rollback())
	if _, err := s.Join(t.Context(), token, newDevice("one")); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestChangesWaitForAnotherProcess(t *testing.T) {
	s := newStore(t)
	tx, err := reopen(t, s).writes.BeginTx(t.Context(), nil)
	must(t, err)
	done := make(chan error)
	go func() { done <- s.AddUser(t.Context(), "anna") }()
	select {
	case err := <-done:
		t.Errorf("did not wait: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	must(t, tx.Rollback())
	must(t, <-done)
}

func TestJoinGivesTheDeviceAPlainName(t *testing.T) {
	s := newStore(t)
	must(t, s.AddUser(t.Context(), "anna"))
	for name, want := range map[string]string{
		"laptop":                  "laptop",
		"Anna's phone":            "Anna-s-phone",
		" x\u202e\x1b[2J\ny\x00 ": "x-2J-y",
		"-@.rf":                   "rf",
		"":                        "device",
		"电话":                      "device",
		"\xff":                    "device",
		strings.Repeat("x", 91):   strings.Repeat("x", 64),
	} {
		got, err := s.Join(t.Context(), invited(t, s, "anna"), newDevice(name))
		if err != nil || got.Name != want {
			t.Errorf("%q became %q, %v", name, got.Name, err)
		}
	}
}
