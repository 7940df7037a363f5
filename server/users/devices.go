package users

import (
	"context"
	"crypto/ed25519"
	"database/sql"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/adit-net/adit/crypto/keys"
)

const (
	// seenInterval is how exactly the store knows when a device was last seen.
	seenInterval = time.Minute

	// minPrefix is how much of a device's ID names it, in characters.
	minPrefix = 4
)

// What a caller may want to tell apart about devices.
var (
	ErrDeviceUnknown = errors.New("there is no such device")
	ErrDeviceKnown   = errors.New("the device is enrolled already")
)

// Device is one of a user's devices, known by its public key.
type Device struct {
	Key       ed25519.PublicKey // a guest's is its WireGuard key instead
	WireGuard [32]byte          // X25519 public key; zeros: none
	Address   netip.Addr        // a guest's inside WireGuard, IPv4; invalid: it is no guest
	User      string
	Name      string // for people; a user's devices may share one
	Created   time.Time
	LastSeen  time.Time // within a minute; zero: never
	Revoked   bool
}

// ID gives the device's short name.
func (d Device) ID() keys.ID { return keys.IDOf(d.Key) }

const deviceColumns = "d.key, d.wireguard, d.address, d.user, d.name, d.created, d.seen, d.revoked"

// deviceRow is a row of deviceColumns.
type deviceRow struct {
	device         Device
	key, wireguard []byte
	address        sql.Null[uint32]
	created, seen  int64
}

func (r *deviceRow) fields() []any {
	d := &r.device
	return []any{&r.key, &r.wireguard, &r.address, &d.User, &d.Name, &r.created, &r.seen, &d.Revoked}
}

func (r *deviceRow) get() Device {
	d := r.device
	d.Key, d.Created, d.LastSeen = r.key, instant(r.created), instant(r.seen)
	copy(d.WireGuard[:], r.wireguard)
	if r.address.Valid {
		d.Address = numbered(r.address.V)
	}
	return d
}

const lookupQuery = "SELECT " + deviceColumns + ", " + userColumns +
	" FROM devices d JOIN users u ON u.name = d.user WHERE d.key = ?"

// Lookup gives a device and its user. Whether the device is revoked or the
// user disabled is for the caller to judge. An unknown device is
// [ErrDeviceUnknown].
func (s *Store) Lookup(ctx context.Context, key ed25519.PublicKey) (Device, User, error) {
	var (
		device deviceRow
		user   userRow
	)
	err := s.lookup.QueryRowContext(ctx, []byte(key)).Scan(append(device.fields(), user.fields()...)...)
	if errors.Is(err, sql.ErrNoRows) {
		err = ErrDeviceUnknown
	}
	if err != nil {
		return Device{}, User{}, fmt.Errorf("look up device %s: %w", keys.IDOf(key), err)
	}
	return device.get(), user.get(), nil
}

// Devices gives a user's devices, or everybody's if user is empty, by user and
// name.
func (s *Store) Devices(ctx context.Context, user string) ([]Device, error) {
	var (
		devices []Device
		err     error
	)
	if user == "" {
		devices, err = s.devices(ctx, "true")
	} else if err = s.hasUser(ctx, user); err == nil {
		devices, err = s.devices(ctx, "d.user = ?", user)
	}
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	return devices, nil
}

func (s *Store) devices(ctx context.Context, where string, args ...any) ([]Device, error) {
	return collect(ctx, s.reads, "SELECT "+deviceColumns+" FROM devices d WHERE "+where+" ORDER BY d.user, d.name, d.created",
		func(rows *sql.Rows) (Device, error) {
			var row deviceRow
			err := rows.Scan(row.fields()...)
			return row.get(), err
		}, args...)
}

func (s *Store) hasUser(ctx context.Context, name string) error {
	var one int
	err := s.reads.QueryRowContext(ctx, "SELECT 1 FROM users WHERE name = ?", name).Scan(&one)
	if errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("%q: %w", name, ErrUserUnknown)
	}
	return err
}

// RevokeDevice keeps a device out for good. It is named by the start of its
// ID, at least 4 characters, or as USER/NAME. Where that fits several devices
// that are not revoked yet, none of them is. To revoke a device again is no
// error.
func (s *Store) RevokeDevice(ctx context.Context, which string) error {
	if err := s.revoke(ctx, which); err != nil {
		return fmt.Errorf("revoke device %q: %w", which, err)
	}
	return nil
}

func (s *Store) revoke(ctx context.Context, which string) error {
	fits, err := s.named(ctx, which)
	if err != nil {
		return err
	}
	var live []Device
	for _, d := range fits {
		if !d.Revoked {
			live = append(live, d)
		}
	}
	switch {
	case len(fits) == 0:
		return ErrDeviceUnknown
	case len(live) > 1:
		return fmt.Errorf("it may be %s (%s) or %s (%s): name one by more of its ID",
			live[0].ID(), live[0].Name, live[1].ID(), live[1].Name)
	}
	for _, d := range live {
		if _, err := s.writes.ExecContext(ctx, "UPDATE devices SET revoked = 1 WHERE key = ?", []byte(d.Key)); err != nil {
			return err
		}
	}
	return nil
}

// named gives the devices that fit what a person wrote: USER/NAME, as no name
// has a slash in it, or the start of an ID.
func (s *Store) named(ctx context.Context, which string) ([]Device, error) {
	if user, name, ok := strings.Cut(which, "/"); ok {
		return s.devices(ctx, "d.user = ? AND d.name = ?", user, name)
	}
	if len(which) < minPrefix {
		return nil, fmt.Errorf("give at least %d characters of the ID, or USER/NAME", minPrefix)
	}
	start := strings.ToLower(which)
	// IDs are of a-z and 2-7, all of them before "~".
	return s.devices(ctx, "d.id >= ?1 AND d.id < ?1 || '~'", start)
}

// Seen notes that a device was here. It costs a write to the disk at most
// once a minute for each device.
func (s *Store) Seen(ctx context.Context, key ed25519.PublicKey, at time.Time) error {
	_, err := s.writes.ExecContext(ctx, "UPDATE devices SET seen = ?1 WHERE key = ?2 AND seen <= ?1 - ?3",
		millis(at), []byte(key), seenInterval.Milliseconds())
	if err != nil {
		return fmt.Errorf("note device %s as seen: %w", keys.IDOf(key), err)
	}
	return nil
}
