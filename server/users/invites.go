package users

import (
	"context"
	"crypto/ed25519"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/adit-net/adit/crypto/keys"
)

// inviteMemory is how long an invite is still known after it has expired, so
// that whoever comes with it is told why it is of no use.
const inviteMemory = 30 * 24 * time.Hour

// What a caller may want to tell apart about invites.
var (
	ErrInviteUnknown = errors.New("there is no such invite")
	ErrInviteExpired = errors.New("the invite has expired: ask for a new one")
	ErrInviteUsed    = errors.New("the invite has been used already: ask for a new one")
)

// Invite lets one device of a user enrol until expires, by means of a token
// that the store does not keep. The user is put into the groups when that
// device enrols.
func (s *Store) Invite(ctx context.Context, user string, token keys.Token, expires time.Time, groups ...string) error {
	err := validNames("group", groups...)
	if token.IsZero() {
		err = errors.Join(err, errors.New("the token is zero"))
	}
	if err == nil {
		err = s.change(ctx, func(tx *sql.Tx) error { return s.invite(ctx, tx, user, token, expires, groups) })
	}
	if err != nil {
		return fmt.Errorf("invite user %q: %w", user, err)
	}
	return nil
}

func (s *Store) invite(ctx context.Context, tx *sql.Tx, user string, token keys.Token, expires time.Time, groups []string) error {
	if err := s.purge(ctx, tx); err != nil {
		return err
	}
	if err := enabled(ctx, tx, user); err != nil {
		return err
	}
	if !expires.After(s.now()) {
		return errors.New("it would have expired already: give a later time")
	}
	if err := s.room(ctx, tx, "invites"); err != nil {
		return err
	}
	hash := token.Hash()
	// A token that is there already can only be the caller's own mistake.
	if _, err := tx.ExecContext(ctx, "INSERT INTO invites (hash, user, expires) VALUES (?, ?, ?)",
		hash[:], user, millis(expires)); err != nil {
		return err
	}
	for _, group := range groups {
		if _, err := tx.ExecContext(ctx, "INSERT OR IGNORE INTO invite_groups VALUES (?, ?)", hash[:], group); err != nil {
			return err
		}
	}
	return nil
}

// purge forgets the invites that have expired long ago, used or not.
func (s *Store) purge(ctx context.Context, tx *sql.Tx) error {
	_, err := tx.ExecContext(ctx, "DELETE FROM invites WHERE expires < ?", millis(s.now().Add(-inviteMemory)))
	return err
}

// Join enrols a device by its Key, WireGuard and Name, and gives it back as it
// is now known: with its user, and with a name that [ValidName] takes. An
// invite admits one device once, whoever else comes with its token at the same
// time. A refusal is [ErrInviteUnknown], [ErrDeviceKnown], [ErrInviteUsed],
// [ErrInviteExpired] or [ErrUserDisabled], the first of these that applies.
func (s *Store) Join(ctx context.Context, token [32]byte, d Device) (Device, error) {
	if len(d.Key) != ed25519.PublicKeySize {
		return Device{}, fmt.Errorf("enrol device: its key has %d bytes, want %d", len(d.Key), ed25519.PublicKeySize)
	}
	d.Name = cleanName(d.Name)
	err := s.change(ctx, func(tx *sql.Tx) (err error) {
		d, err = s.join(ctx, tx, keys.TokenFrom(token).Hash(), d)
		return err
	})
	if err != nil {
		return Device{}, fmt.Errorf("enrol device: %w", err)
	}
	return d, nil
}

func (s *Store) join(ctx context.Context, tx *sql.Tx, hash [32]byte, d Device) (Device, error) {
	// To the millisecond, as it will be read back.
	now := instant(millis(s.now()))
	user, err := s.admit(ctx, tx, hash, d, now)
	if err != nil {
		return Device{}, err
	}
	if err := s.room(ctx, tx, "devices"); err != nil {
		return Device{}, err
	}
	var wireguard []byte // NULL stands for none
	if d.WireGuard != [32]byte{} {
		wireguard = d.WireGuard[:]
	}
	if _, err := tx.ExecContext(ctx, "INSERT INTO devices (key, id, wireguard, user, name, created) VALUES (?, ?, ?, ?, ?, ?)",
		[]byte(d.Key), d.ID().String(), wireguard, user, d.Name, millis(now)); err != nil {
		return Device{}, err
	}
	if _, err := tx.ExecContext(ctx, "INSERT OR IGNORE INTO user_groups SELECT ?, name FROM invite_groups WHERE invite = ?",
		user, hash[:]); err != nil {
		return Device{}, err
	}
	if err := fewGroups(ctx, tx, user); err != nil {
		return Device{}, err
	}
	if _, err := tx.ExecContext(ctx, "UPDATE invites SET used = ? WHERE hash = ?", millis(now), hash[:]); err != nil {
		return Device{}, err
	}
	return Device{Key: d.Key, WireGuard: d.WireGuard, User: user, Name: d.Name, Created: now}, nil
}

// admit judges an invite and gives the user it is for.
func (s *Store) admit(ctx context.Context, tx *sql.Tx, hash [32]byte, d Device, now time.Time) (string, error) {
	if err := s.purge(ctx, tx); err != nil {
		return "", err
	}
	var (
		user            string
		expires, used   int64
		disabled, known bool
	)
	err := tx.QueryRowContext(ctx, `SELECT i.user, i.expires, i.used, u.disabled,
			EXISTS (SELECT 1 FROM devices WHERE key = ?2 OR wireguard = ?3)
		FROM invites i JOIN users u ON u.name = i.user WHERE i.hash = ?1`,
		hash[:], []byte(d.Key), d.WireGuard[:]).Scan(&user, &expires, &used, &disabled, &known)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return "", ErrInviteUnknown
	case err != nil:
		return "", err
	case known:
		// A device whose first answer was lost learns so that it is in.
		return "", ErrDeviceKnown
	case used != 0:
		return "", ErrInviteUsed
	case !now.Before(instant(expires)):
		return "", ErrInviteExpired
	case disabled:
		return "", ErrUserDisabled
	}
	return user, nil
}
