package users

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	here  = netip.MustParseAddr("192.0.2.1")
	there = netip.MustParseAddr("192.0.2.2")
)

// hashes counts the hashes that a store makes from now on, and makes cheap ones.
func hashes(s *Store) *atomic.Int64 {
	n := new(atomic.Int64)
	s.passwords.derive = func(password, salt []byte, c argonCost) []byte {
		n.Add(1)
		return argon2id(password, salt, argonCost{memory: 8, time: 1, threads: 1})
	}
	return n
}

// withAnna makes a store in which anna has a password.
func withAnna(t testing.TB) (*Store, *atomic.Int64) {
	t.Helper()
	s := newStore(t)
	n := hashes(s)
	must(t, s.AddUser(t.Context(), "anna", "staff"))
	must(t, s.SetPassword(t.Context(), "anna", "correct horse"))
	n.Store(0)
	return s, n
}

func TestRightPasswordGivesItsUser(t *testing.T) {
	s := newStore(t) // with real hashes
	must(t, s.AddUser(t.Context(), "anna", "staff"))
	must(t, s.SetPassword(t.Context(), "anna", "correct horse"))
	for range 2 {
		u, err := s.CheckPassword(t.Context(), "anna", "correct horse", here)
		if err != nil || u.Name != "anna" || len(u.Groups) != 1 {
			t.Errorf("got %+v, %v", u, err)
		}
	}
	if _, err := s.CheckPassword(t.Context(), "anna", "correct Horse", here); !errors.Is(err, ErrPassword) {
		t.Errorf("a wrong password: %v", err)
	}
}

func TestNobodyLearnsFromAWrongPasswordWhetherThereIsAUser(t *testing.T) {
	s, n := withAnna(t)
	must(t, s.AddUser(t.Context(), "bert")) // who has no password
	must(t, s.AddUser(t.Context(), "carl"))
	must(t, s.SetPassword(t.Context(), "carl", "correct horse"))
	must(t, s.SetUserDisabled(t.Context(), "carl", true))
	n.Store(0)
	for i, user := range []string{"anna", "bert", "carl", "dora", "", "no name", "ANNA"} {
		from := netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})
		for try := range int64(5) {
			_, err := s.CheckPassword(t.Context(), user, fmt.Sprint("wrong horse ", try), from)
			if !errors.Is(err, ErrPassword) || n.Swap(0) != 1 {
				t.Errorf("%q: %v, want a wrong password after one hash", user, err)
			}
		}
		if _, err := s.CheckPassword(t.Context(), user, "wrong horse", from); !errors.Is(err, ErrPasswordLimit) || n.Load() != 0 {
			t.Errorf("%q: the sixth is %v", user, err)
		}
	}
	for try := range 5 {
		if _, err := s.CheckPassword(t.Context(), "carl", "correct horse", here); !errors.Is(err, ErrPassword) || n.Swap(0) != 1 {
			t.Errorf("the right password of a disabled user, try %d: %v, want a wrong password after one hash", try, err)
		}
	}
	if _, err := s.CheckPassword(t.Context(), "carl", "correct horse", here); !errors.Is(err, ErrPasswordLimit) {
		t.Errorf("the right password of a disabled user for the sixth time: %v", err)
	}
	if _, err := s.CheckPassword(t.Context(), "bert", "", here); !errors.Is(err, ErrPassword) {
		t.Errorf("no password for a user who has none: %v", err)
	}
}

func TestWrongPasswordsKeepOutTheirUserAndSourceForAWhile(t *testing.T) {
	s, _ := withAnna(t)
	now := time.Now()
	s.now = func() time.Time { return now }
	check := func(password string, from netip.Addr, want error) {
		t.Helper()
		if _, err := s.CheckPassword(t.Context(), "anna", password, from); !errors.Is(err, want) {
			t.Errorf("%q from %s: %v, want %v", password, from, err, want)
		}
	}
	check("correct horse", here, nil)
	for range 5 {
		check("wrong horse", here, ErrPassword)
	}
	check("correct horse", here, ErrPasswordLimit) // although it is remembered
	check("correct horse", there, nil)
	now = now.Add(userWrong)
	check("correct horse", here, nil)
	check("wrong horse", here, ErrPassword)
	check("correct horse", here, ErrPasswordLimit)
	now = now.Add(maxUserWrong)
	for range 5 {
		check("wrong horse", here, ErrPassword)
	}
}

func TestSourceThatTriesManyUsersIsKeptOut(t *testing.T) {
	s, n := withAnna(t)
	now := time.Now()
	s.now = func() time.Time { return now }
	for i := range 30 {
		from := netip.MustParseAddr(fmt.Sprintf("2001:db8::%d", i+1))
		if _, err := s.CheckPassword(t.Context(), fmt.Sprint("user", i), "wrong horse", from); !errors.Is(err, ErrPassword) {
			t.Fatalf("try %d: %v", i, err)
		}
	}
	n.Store(0)
	_, err := s.CheckPassword(t.Context(), "anna", "correct horse", netip.MustParseAddr("2001:db8::ffff"))
	if !errors.Is(err, ErrPasswordLimit) || n.Load() != 0 {
		t.Errorf("from the same network: %v", err)
	}
	if _, err := s.CheckPassword(t.Context(), "anna", "correct horse", netip.MustParseAddr("2001:db8:0:1::1")); err != nil {
		t.Errorf("from another network: %v", err)
	}
}

func TestConnectionsWithOnePasswordCostOneHash(t *testing.T) {
	s, n := withAnna(t)
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			if _, err := s.CheckPassword(t.Context(), "anna", "correct horse", here); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n.Load() > hashesAtOnce {
		t.Errorf("%d hashes", n.Load())
	}
}

func TestFewPasswordsAreCheckedAtATime(t *testing.T) {
	s, _ := withAnna(t)
	var at atomic.Int64
	begun, release := make(chan struct{}, 10), make(chan struct{})
	s.passwords.derive = func(_, _ []byte, _ argonCost) []byte {
		if n := at.Add(1); n > hashesAtOnce {
			t.Errorf("%d at a time", n)
		}
		defer at.Add(-1)
		begun <- struct{}{}
		<-release
		return nil
	}
	var all sync.WaitGroup
	for i := range 5 {
		all.Go(func() {
			_, err := s.CheckPassword(t.Context(), fmt.Sprint("user", i), "wrong horse", here)
			if !errors.Is(err, ErrPassword) {
				t.Error(err)
			}
		})
	}
	for range hashesAtOnce {
		<-begun
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.CheckPassword(ctx, "anna", "correct horse", here); !errors.Is(err, context.Canceled) {
		t.Errorf("with nobody to wait for it: %v", err)
	}
	close(release)
	all.Wait()
}

func TestChangedOrRemovedPasswordIsGoodNoMore(t *testing.T) {
	s, _ := withAnna(t)
	other := reopen(t, s)
	hashes(other)
	check := func(password string, want error) {
		t.Helper()
		if _, err := s.CheckPassword(t.Context(), "anna", password, here); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", password, err, want)
		}
	}
	check("correct horse", nil)
	must(t, other.SetPassword(t.Context(), "anna", "battery staple"))
	check("correct horse", ErrPassword)
	check("battery staple", nil)
	must(t, other.RemovePassword(t.Context(), "anna"))
	must(t, other.RemovePassword(t.Context(), "anna"))
	check("battery staple", ErrPassword)
}

func TestPasswordsThatMakeNoSenseAreRefused(t *testing.T) {
	s, _ := withAnna(t)
	for _, password := range []string{"", "1234567", strings.Repeat("x", 256)} {
		if s.SetPassword(t.Context(), "anna", password) == nil {
			t.Errorf("a password of %d bytes was set", len(password))
		}
	}
	for _, err := range []error{
		s.SetPassword(t.Context(), "dora", "correct horse"),
		s.RemovePassword(t.Context(), "dora"),
	} {
		if !errors.Is(err, ErrUserUnknown) {
			t.Errorf("for an unknown user: %v", err)
		}
	}
	must(t, s.SetUserDisabled(t.Context(), "anna", true))
	must(t, s.SetPassword(t.Context(), "anna", "battery staple"))
}

func TestStoreKeepsNoPassword(t *testing.T) {
	s, _ := withAnna(t)
	_, hash, err := s.passwordOf(t.Context(), "anna")
	must(t, err)
	if !strings.HasPrefix(hash, "$argon2id$v=19$m=19456,t=2,p=1$") || strings.Contains(hash, "horse") {
		t.Errorf("the store has %q", hash)
	}
	must(t, s.RemoveUser(t.Context(), "anna"))
	must(t, s.AddUser(t.Context(), "anna"))
	if _, hash, err := s.passwordOf(t.Context(), "anna"); err != nil || hash != "" {
		t.Errorf("another user of that name has it: %q, %v", hash, err)
	}
}

func TestSuspectsAreBounded(t *testing.T) {
	var s suspects
	now := time.Now()
	for i := range 3 * maxSuspects {
		from := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		s.add("anna", from, now.Add(time.Duration(i)*time.Millisecond))
		if len(s) > maxSuspects {
			t.Fatalf("there are %d", len(s))
		}
	}
}

func FuzzParseHash(f *testing.F) {
	f.Add("$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
	f.Add("$argon2id$v=19$m=99999999,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
	f.Add("$argon2i$v=19$m=8,t=1,p=1$$")
	f.Fuzz(func(t *testing.T, s string) {
		h, err := parseHash(s)
		if err == nil && (h.String() != s || !h.cost.sound()) {
			t.Errorf("%q was read as %q", s, h)
		}
	})
}
