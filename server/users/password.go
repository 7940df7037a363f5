package users

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"
)

const (
	// MinPassword and MaxPassword are how many bytes a password has. More than 255
	// no SOCKS app can send.
	MinPassword = 8
	MaxPassword = 255

	// hashesAtOnce is how many passwords one process checks at a time. Each takes a
	// core and argon2id's memory.
	hashesAtOnce = 2

	// A password that was right is remembered for a while: every connection of a
	// browser has to give it again.
	rememberFor   = 10 * time.Minute
	maxRemembered = 1024
)

// What a caller may want to tell apart about passwords.
var (
	ErrPassword      = errors.New("wrong user or password")
	ErrPasswordLimit = errors.New("there were too many wrong passwords: wait a minute")
)

// SetPassword gives a user a password of [MinPassword] to [MaxPassword] bytes, in
// place of the one that there may be.
func (s *Store) SetPassword(ctx context.Context, user, password string) error {
	if len(password) < MinPassword || len(password) > MaxPassword {
		return fmt.Errorf("set password: it has %d bytes, not %d to %d", len(password), MinPassword, MaxPassword)
	}
	hash, err := s.passwords.encode(ctx, password)
	if err == nil {
		err = s.change(ctx, func(tx *sql.Tx) error {
			if err := known(ctx, tx, user); err != nil {
				return err
			}
			_, err := tx.ExecContext(ctx, "INSERT INTO passwords VALUES (?, ?) ON CONFLICT DO UPDATE SET hash = excluded.hash", user, hash)
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("set password: %w", err)
	}
	return nil
}

// RemovePassword takes a user's password away. That there was none is no error.
func (s *Store) RemovePassword(ctx context.Context, user string) error {
	err := s.change(ctx, func(tx *sql.Tx) error {
		if err := known(ctx, tx, user); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, "DELETE FROM passwords WHERE user = ?", user)
		return err
	})
	if err != nil {
		return fmt.Errorf("remove password: %w", err)
	}
	return nil
}

// known tells whether there is a user.
func known(ctx context.Context, tx *sql.Tx, user string) error {
	if err := enabled(ctx, tx, user); !errors.Is(err, ErrUserDisabled) {
		return err
	}
	return nil
}

// CheckPassword gives the user whose password this is. It is [ErrPassword] for a wrong
// one, and for users who are not known, are disabled or have none, which takes as
// long. After some wrong ones it is [ErrPasswordLimit] for a while: for that user and
// from that source, and for all users from a source that has tried more. An IPv6
// source stands for its /64.
//
// At most 2 passwords are checked at a time; others wait until ctx ends.
func (s *Store) CheckPassword(ctx context.Context, user, password string, from netip.Addr) (User, error) {
	u, err := s.checkPassword(ctx, user, password, from)
	if err != nil {
		return User{}, fmt.Errorf("check password: %w", err)
	}
	return u, nil
}

func (s *Store) checkPassword(ctx context.Context, name, password string, from netip.Addr) (User, error) {
	user, hash, err := s.passwordOf(ctx, name)
	if err != nil {
		return User{}, err
	}
	if ValidName(name) != nil {
		name = "?" // all that no user can have are counted as one
	}
	if user.Disabled {
		hash = "" // his password is as wrong as any other, every time
	}
	right, err := s.passwords.check(ctx, attempt{user: name, password: password, hash: hash, from: from}, s.now)
	switch {
	case err != nil:
		return User{}, err
	case !right:
		return User{}, ErrPassword
	}
	return user, nil
}

// passwordOf gives a user and the hash of his password, which is empty if there is no
// such user or he has none.
func (s *Store) passwordOf(ctx context.Context, name string) (User, string, error) {
	var (
		row  userRow
		hash sql.NullString
	)
	err := s.reads.QueryRowContext(ctx, "SELECT "+userColumns+", p.hash FROM users u LEFT JOIN passwords p ON p.user = u.name WHERE u.name = ?",
		name).Scan(append(row.fields(), &hash)...)
	if errors.Is(err, sql.ErrNoRows) {
		return User{}, "", nil
	}
	return row.get(), hash.String, err
}

// passwords checks passwords within bounds. It is safe for concurrent use.
type passwords struct {
	derive func(password, salt []byte, cost argonCost) []byte
	free   chan struct{} // holds an item for each hash under way
	dummy  argonHash     // stands in where there is none

	key  [32]byte // of what follows; it never leaves the process
	mu   sync.Mutex
	good map[[32]byte]time.Time // until when
	bad  suspects
}

func newPasswords() *passwords {
	p := &passwords{derive: argon2id, free: make(chan struct{}, hashesAtOnce), good: make(map[[32]byte]time.Time)}
	rand.Read(p.key[:]) // never fails
	p.dummy = argonHash{cost: defaultCost, salt: make([]byte, saltSize), sum: make([]byte, sumSize)}
	rand.Read(p.dummy.sum)
	return p
}

// attempt is somebody's claim to be a user.
type attempt struct {
	user, password string
	hash           string // empty: there is none
	from           netip.Addr
}

// check tells whether an attempt has the right password.
func (p *passwords) check(ctx context.Context, a attempt, now func() time.Time) (bool, error) {
	hash, err := p.dummy, error(nil)
	if a.hash != "" {
		if hash, err = parseHash(a.hash); err != nil {
			return false, err
		}
	}
	tag := p.tag(a)
	if right, err := p.known(a, tag, now()); right || err != nil {
		return right, err
	}
	if err := p.take(ctx); err != nil {
		return false, err
	}
	defer p.give()
	// Somebody may have learned meanwhile what it is worth.
	if right, err := p.known(a, tag, now()); right || err != nil {
		return right, err
	}
	same := hmac.Equal(p.derive([]byte(a.password), hash.salt, hash.cost), hash.sum)
	right := same && a.hash != "" && a.password != ""
	p.note(a, tag, right, now())
	return right, nil
}

// tag stands for a right password, and for a wrong one for nothing.
func (p *passwords) tag(a attempt) (tag [32]byte) {
	m := hmac.New(sha256.New, p.key[:])
	fmt.Fprintf(m, "%d %s %d %s %s", len(a.user), a.user, len(a.hash), a.hash, a.password)
	m.Sum(tag[:0])
	return tag
}

// known tells whether an attempt is known to be right, or is one too many.
func (p *passwords) known(a attempt, tag [32]byte, now time.Time) (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bad.refuses(a.user, a.from, now) {
		return false, ErrPasswordLimit
	}
	return a.hash != "" && now.Before(p.good[tag]), nil
}

func (p *passwords) note(a attempt, tag [32]byte, right bool, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !right {
		p.bad.add(a.user, a.from, now)
		return
	}
	if len(p.good) >= maxRemembered {
		clear(p.good) // they are all checked again, which is not much work
	}
	p.good[tag] = now.Add(rememberFor)
}

func (p *passwords) take(ctx context.Context) error {
	select {
	case p.free <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (p *passwords) give() { <-p.free }

// encode gives what the store keeps of a password.
func (p *passwords) encode(ctx context.Context, password string) (string, error) {
	if err := p.take(ctx); err != nil {
		return "", err
	}
	defer p.give()
	h := argonHash{cost: defaultCost, salt: make([]byte, saltSize)}
	rand.Read(h.salt)
	h.sum = p.derive([]byte(password), h.salt, h.cost)
	return h.String(), nil
}
