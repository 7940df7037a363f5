package users

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/adit-net/adit/crypto/keys"
)

// ErrNetworkFull says that a network has no address for one more guest.
var ErrNetworkFull = errors.New("the network has no address left")

// Guest tells whether the device runs no adit and comes over WireGuard by itself.
// Its key has signed nothing and never will.
func (d Device) Guest() bool { return d.Address.IsValid() }

// AddGuest enrols a device of a user that runs no adit, by its WireGuard key. It gets
// an address in an IPv4 network that no other device has: neither the first one, which
// is the server's, nor those that stand for the whole network. It keeps it, also when
// it is revoked, until its user is removed.
//
// The name is made one that [ValidName] takes. A refusal is [ErrUserUnknown],
// [ErrUserDisabled], [ErrDeviceKnown] or [ErrNetworkFull].
func (s *Store) AddGuest(ctx context.Context, user, name string, key [32]byte, network netip.Prefix) (Device, error) {
	d := Device{Key: key[:], WireGuard: key, User: user, Name: cleanName(name)}
	err := errors.New("the key is zero")
	if key != [32]byte{} {
		err = s.change(ctx, func(tx *sql.Tx) error { return s.addGuest(ctx, tx, &d, network) })
	}
	if err != nil {
		return Device{}, fmt.Errorf("enrol guest of user %q: %w", user, err)
	}
	return d, nil
}

func (s *Store) addGuest(ctx context.Context, tx *sql.Tx, d *Device, network netip.Prefix) error {
	if err := enabled(ctx, tx, d.User); err != nil {
		return err
	}
	var known bool
	if err := tx.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM devices WHERE key = ?1 OR wireguard = ?1)",
		d.WireGuard[:]).Scan(&known); err != nil {
		return err
	}
	if known {
		return ErrDeviceKnown
	}
	if err := s.room(ctx, tx, "devices"); err != nil {
		return err
	}
	number, err := freeAddress(ctx, tx, network)
	if err != nil {
		return err
	}
	now := millis(s.now())
	d.Created, d.Address = instant(now), numbered(number)
	_, err = tx.ExecContext(ctx, "INSERT INTO devices (key, id, wireguard, user, name, created, address) VALUES (?1, ?2, ?1, ?3, ?4, ?5, ?6)",
		d.WireGuard[:], keys.IDOf(d.Key).String(), d.User, d.Name, now, number)
	return err
}

// freeAddress gives the lowest address of a network that a guest can have.
func freeAddress(ctx context.Context, tx *sql.Tx, network netip.Prefix) (number uint32, err error) {
	if !network.IsValid() || !network.Addr().Is4() || network.Bits() < 1 {
		return 0, fmt.Errorf("%s is no IPv4 network", network)
	}
	network = network.Masked()
	first := number4(network.Addr())
	last := first | ^uint32(0)>>network.Bits()
	// Either the first one that may be given out is free, or one that follows on a
	// given one is the lowest that is.
	err = tx.QueryRowContext(ctx, `SELECT n FROM (SELECT ?1 AS n UNION ALL SELECT address + 1 FROM devices WHERE address BETWEEN ?1 AND ?2)
		WHERE n <= ?2 AND NOT EXISTS (SELECT 1 FROM devices WHERE address = n) ORDER BY n LIMIT 1`,
		int64(first)+2, int64(last)-1).Scan(&number)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, ErrNetworkFull
	}
	return number, err
}

func number4(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

func numbered(n uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], n)
	return netip.AddrFrom4(b)
}
