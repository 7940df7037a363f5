package users

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestValidNameTakesPlainNamesAlone(t *testing.T) {
	good := []string{"a", "Z", "0", "anna", "anna.b-c_d@example.org", strings.Repeat("x", 64)}
	bad := []string{
		"", strings.Repeat("x", 65), ".", "..", "-rf", "@all", "_x", "a b", "a/b", `a\b`, "a\x00", "a\n", "a\r", "\x1b[2J",
		"a\u202eb", "anná", "аnna", "a\xff", "a'b", `a"b`, "a;b", "a%b", "a*", "a:b", "a,b", "a\x7f", "a\u00a0",
	}
	for _, name := range good {
		if err := ValidName(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range bad {
		err := ValidName(name)
		if err == nil {
			t.Errorf("%q passes", name)
		} else if name != "" && strings.Contains(err.Error(), name) && len(name) > 1 {
			t.Errorf("%q is in its error: %v", name, err)
		}
	}
}

func FuzzValidName(f *testing.F) {
	for _, name := range []string{"", "anna", "-", "a\n", "аnna", strings.Repeat("x", 65)} {
		f.Add(name)
	}
	const (
		first = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
		later = first + "._-@"
	)
	f.Fuzz(func(t *testing.T, name string) {
		want := name != "" && len(name) <= 64 && strings.Trim(name, later) == "" && strings.ContainsRune(first, rune(name[0]))
		if got := ValidName(name) == nil; got != want {
			t.Errorf("%q: %v, want %v", name, got, want)
		}
		if clean := cleanName(name); ValidName(clean) != nil || want && clean != name {
			t.Errorf("%q was cleaned to %q", name, clean)
		}
	})
}

func TestUsersComeAndGo(t *testing.T) {
	s := newStore(t)
	ctx := t.Context()
	before := time.Now().Truncate(time.Millisecond)
	must(t, s.AddUser(ctx, "bert"))
	must(t, s.AddUser(ctx, "anna", "staff", "admins", "staff"))

	users, err := s.Users(ctx)
	must(t, err)
	if len(users) != 2 || users[0].Name != "anna" || users[1].Name != "bert" {
		t.Fatalf("users are %v", users)
	}
	if !slices.Equal(users[0].Groups, []string{"admins", "staff"}) || len(users[1].Groups) != 0 {
		t.Errorf("groups are %v and %v", users[0].Groups, users[1].Groups)
	}
	if created := users[0].Created; created.Before(before) || created.After(time.Now()) {
		t.Errorf("created at %v", created)
	}

	must(t, s.SetUserDisabled(ctx, "anna", true))
	must(t, s.SetUserDisabled(ctx, "anna", true))
	if users, _ := s.Users(ctx); !users[0].Disabled || users[1].Disabled {
		t.Errorf("after disabling anna: %v", users)
	}
	must(t, s.SetUserDisabled(ctx, "anna", false))
	if users, _ := s.Users(ctx); users[0].Disabled {
		t.Errorf("after enabling anna: %v", users)
	}
	must(t, s.RemoveUser(ctx, "anna"))
	if users, _ := s.Users(ctx); len(users) != 1 || users[0].Name != "bert" {
		t.Errorf("after removing anna: %v", users)
	}
}

func TestUsersThatAreRefusedLeaveNothingBehind(t *testing.T) {
	s := newStore(t)
	ctx := t.Context()
	must(t, s.AddUser(ctx, "anna"))
	many := make([]string, maxGroups+1)
	for i := range many {
		many[i] = fmt.Sprintf("group%d", i)
	}
	cases := []struct {
		name string
		err  error
		want error // nil: any
	}{
		{"the same again", s.AddUser(ctx, "anna"), ErrUserExists},
		{"the same in capitals", s.AddUser(ctx, "ANNA"), ErrUserExists},
		{"a bad name", s.AddUser(ctx, "anna\n"), nil},
		{"a bad group", s.AddUser(ctx, "bert", "good", "not good"), nil},
		{"too many groups", s.AddUser(ctx, "bert", many...), nil},
		{"disable nobody", s.SetUserDisabled(ctx, "bert", true), ErrUserUnknown},
		{"disable in capitals", s.SetUserDisabled(ctx, "ANNA", true), ErrUserUnknown},
		{"a grace for nobody", s.SetUserGrace(ctx, "bert", new(time.Minute)), ErrUserUnknown},
		{"no grace for nobody", s.SetUserGrace(ctx, "bert", nil), ErrUserUnknown},
		{"a grace below 0", s.SetUserGrace(ctx, "anna", new(-time.Nanosecond)), nil},
		{"a grace of more than a day", s.SetUserGrace(ctx, "anna", new(MaxGrace+time.Nanosecond)), nil},
		{"remove nobody", s.RemoveUser(ctx, "bert"), ErrUserUnknown},
	}
	for _, c := range cases {
		if c.err == nil || c.want != nil && !errors.Is(c.err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, c.err, c.want)
		}
		if c.err != nil && strings.Contains(c.err.Error(), "\n") {
			t.Errorf("%s: the error has two lines: %q", c.name, c.err)
		}
	}
	if users, err := s.Users(ctx); err != nil || len(users) != 1 || users[0].Disabled || len(users[0].Groups) != 0 || users[0].Grace != nil {
		t.Errorf("users are %v, %v", users, err)
	}
}

func TestNoGraceIsNotTheServersGrace(t *testing.T) {
	s := newStore(t)
	ctx := t.Context()
	must(t, s.AddUser(ctx, "anna"))
	must(t, s.AddUser(ctx, "bert"))
	device := joined(t, s, "anna", "laptop")
	for _, want := range []*time.Duration{nil, new(time.Duration(0)), new(90 * time.Second), new(time.Millisecond), new(MaxGrace), nil} {
		must(t, s.SetUserGrace(ctx, "anna", want))
		_, looked, err := s.Lookup(ctx, device.Key)
		must(t, err)
		listed, err := s.Users(ctx)
		must(t, err)
		for how, user := range map[string]User{"looked up": looked, "listed": listed[0]} {
			if !sameGrace(user.Grace, want) {
				t.Errorf("%s: grace is %s, want %s", how, graceText(user.Grace), graceText(want))
			}
		}
		if listed[1].Grace != nil {
			t.Errorf("bert's grace is %v", *listed[1].Grace)
		}
	}
}

func sameGrace(a, b *time.Duration) bool {
	return a == b || a != nil && b != nil && *a == *b
}

func graceText(grace *time.Duration) string {
	if grace == nil {
		return "the server's"
	}
	return grace.String()
}

func TestRemovingAUserRemovesItsDevicesAndInvites(t *testing.T) {
	s := newStore(t)
	ctx := t.Context()
	must(t, s.AddUser(ctx, "anna"))
	device := joined(t, s, "anna", "laptop")
	token := invited(t, s, "anna", "staff")
	must(t, s.RemoveUser(ctx, "anna"))

	if _, _, err := s.Lookup(ctx, device.Key); !errors.Is(err, ErrDeviceUnknown) {
		t.Errorf("the device: %v", err)
	}
	must(t, s.AddUser(ctx, "anna"))
	if _, err := s.Join(ctx, token, newDevice("other")); !errors.Is(err, ErrInviteUnknown) {
		t.Errorf("the invite: %v", err)
	}
	if users, _ := s.Users(ctx); len(users[0].Groups) != 0 {
		t.Errorf("the new anna is in %v", users[0].Groups)
	}
}
