package users

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
)

const (
	// maxPrincipals bounds how many principals one user has.
	maxPrincipals = 16

	// maxPrincipal is the longest, in bytes.
	maxPrincipal = 511
)

// What a caller may want to tell apart about principals.
var (
	ErrPrincipalUnknown = errors.New("no user has this principal")
	ErrPrincipalTaken   = errors.New("another user has this principal")

	errPrincipal = errors.New("a principal is NAME@REALM without spaces")
)

// AddPrincipal says that whom Kerberos knows by a name, such as alice@EXAMPLE.ORG, is
// this user. Names are exact. To say it again is no error.
func (s *Store) AddPrincipal(ctx context.Context, user, principal string) error {
	err := validPrincipal(principal)
	if err == nil {
		err = s.change(ctx, func(tx *sql.Tx) error { return s.addPrincipal(ctx, tx, user, principal) })
	}
	if err != nil {
		return fmt.Errorf("add principal %q: %w", principal, err)
	}
	return nil
}

func (s *Store) addPrincipal(ctx context.Context, tx *sql.Tx, user, principal string) error {
	if err := known(ctx, tx, user); err != nil {
		return err
	}
	if err := s.room(ctx, tx, "principals"); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, "INSERT INTO principals VALUES (?, ?) ON CONFLICT DO NOTHING", principal, user); err != nil {
		return err
	}
	var owner string
	if err := tx.QueryRowContext(ctx, "SELECT user FROM principals WHERE name = ?", principal).Scan(&owner); err != nil {
		return err
	}
	if owner != user {
		return ErrPrincipalTaken
	}
	var n int
	if err := tx.QueryRowContext(ctx, "SELECT count(*) FROM principals WHERE user = ?", user).Scan(&n); err != nil {
		return err
	}
	if n > maxPrincipals {
		return fmt.Errorf("user %s would have %d principals, more than %d", user, n, maxPrincipals)
	}
	return nil
}

// validPrincipal tells whether a principal may be one: what is before its last @
// and what is after it are the name and the realm.
func validPrincipal(p string) error {
	at := strings.LastIndexByte(p, '@')
	strange := func(c rune) bool { return c <= ' ' || c == 0x7f || c == '\uFFFD' }
	if at < 1 || at == len(p)-1 || len(p) > maxPrincipal || strings.ContainsFunc(p, strange) {
		return errPrincipal
	}
	return nil
}

// RemovePrincipal takes a principal away from a user, who must have it.
func (s *Store) RemovePrincipal(ctx context.Context, user, principal string) error {
	n, err := affected(s.writes.ExecContext(ctx, "DELETE FROM principals WHERE name = ? AND user = ?", principal, user))
	if err == nil && n == 0 {
		err = fmt.Errorf("user %q: %w", user, ErrPrincipalUnknown)
	}
	if err != nil {
		return fmt.Errorf("remove principal %q: %w", principal, err)
	}
	return nil
}

// UserByPrincipal gives the user who has a principal. Whether he is disabled is for the
// caller to judge. There may be none: [ErrPrincipalUnknown].
func (s *Store) UserByPrincipal(ctx context.Context, principal string) (User, error) {
	all, err := s.users(ctx, "u.name = (SELECT user FROM principals WHERE name = ?)", principal)
	if err == nil && len(all) == 0 {
		err = ErrPrincipalUnknown
	}
	if err != nil {
		return User{}, fmt.Errorf("look up principal %q: %w", principal, err)
	}
	return all[0], nil
}
