package users

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// noticeIn is what the design promises for a revocation, less what the server
// needs to act on it.
const noticeIn = time.Second

// watching starts a watch and gives what it tells. The watch has begun.
func watching(t *testing.T, s *Store) (told chan time.Time, ended chan error) {
	t.Helper()
	told, ended = make(chan time.Time, 100), make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		ended <- s.Watch(ctx, func() { told <- time.Now() })
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	<-told
	return told, ended
}

func TestWatchNoticesAnotherProcess(t *testing.T) {
	s := newStore(t)
	must(t, s.AddUser(t.Context(), "anna"))
	told, _ := watching(t, s)

	command := exec.CommandContext(t.Context(), os.Args[0])
	command.Env = append(os.Environ(), asOther+"="+s.path)
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("the other process: %v\n%s", err, out)
	}
	changed := time.Now()
	select {
	case at := <-told:
		t.Logf("noticed %v after the other process had ended", at.Sub(changed))
	case <-time.After(noticeIn):
		t.Fatal("not noticed")
	}
	if users, err := s.Users(t.Context()); err != nil || !users[0].Disabled {
		t.Errorf("users are %v, %v", users, err)
	}
}

func TestWatchNoticesEveryKindOfChange(t *testing.T) {
	s := newStore(t)
	other := reopen(t, s)
	ctx := t.Context()
	told, _ := watching(t, s)
	steps := []struct {
		name string
		do   func() error
	}{
		{"a new user", func() error { return other.AddUser(ctx, "anna", "staff") }},
		{"a new device", func() error { joined(t, other, "anna", "laptop"); return nil }},
		{"a new guest", func() error { added(t, other, "anna", "phone"); return nil }},
		{"a guest that has another address", func() error {
			return statement(other, "UPDATE devices SET address = address + 1 WHERE address IS NOT NULL")(ctx)
		}},
		{"a revoked device", func() error { return other.RevokeDevice(ctx, "anna/laptop") }},
		{"a disabled user", func() error { return other.SetUserDisabled(ctx, "anna", true) }},
		{"a grace", func() error { return other.SetUserGrace(ctx, "anna", new(time.Minute)) }},
		{"a grace that is the server's again", func() error { return other.SetUserGrace(ctx, "anna", nil) }},
		{"a rate", func() error { return other.ChangeRates(ctx, "anna", func(r *Rates) { r.RateUp = new(int64(1000)) }) }},
		{"no rate", func() error { return other.ChangeRates(ctx, "anna", func(r *Rates) { *r = Rates{} }) }},
		{"a change of its own", func() error { return s.SetUserDisabled(ctx, "anna", false) }},
		{"a user who leaves a group", func() error { return statement(other, "DELETE FROM user_groups")(ctx) }},
		{"a removed user", func() error { return other.RemoveUser(ctx, "anna") }},
	}
	for _, step := range steps {
		must(t, step.do())
		select {
		case <-told:
		case <-time.After(noticeIn):
			t.Errorf("%s was not noticed", step.name)
		}
	}
}

// statement is a change that no method makes.
func statement(s *Store, text string) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := s.writes.ExecContext(ctx, text)
		return err
	}
}

func TestWatchIsSilentAboutDevicesThatAreSeen(t *testing.T) {
	s := newStore(t)
	ctx := t.Context()
	must(t, s.AddUser(ctx, "anna"))
	device := joined(t, s, "anna", "laptop")
	told, _ := watching(t, s)
	must(t, s.Seen(ctx, device.Key, time.Now()))
	select {
	case <-told:
		t.Error("told")
	case <-time.After(3 * watchInterval):
	}
	// Silence proves nothing if the watch is dead.
	must(t, s.SetUserDisabled(ctx, "anna", true))
	<-told
}

func TestWatchEndsWhenTheStoreIsReplaced(t *testing.T) {
	for name, replace := range map[string]func(path string) error{
		"removed": os.Remove,
		"replaced": func(path string) error {
			if err := os.Rename(path, path+".old"); err != nil {
				return err
			}
			return os.WriteFile(path, nil, 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "adit.db")
			s, err := Create(t.Context(), path)
			must(t, err)
			defer s.Close()
			_, ended := watching(t, s)
			must(t, replace(path))
			if err := <-ended; err == nil || !strings.HasPrefix(err.Error(), "watch store: ") {
				t.Errorf("the watch ended with %v", err)
			}
		})
	}
}

func TestWatchEndsWithItsContext(t *testing.T) {
	s := newStore(t)
	ctx, cancel := context.WithCancel(t.Context())
	if err := s.Watch(ctx, cancel); err != nil {
		t.Error(err)
	}
}
