package wglink

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"

	"golang.zx2c4.com/wireguard/device"
)

// Guest is a peer that runs no adit: a phone with the stock WireGuard app, or a
// gateway.
type Guest struct {
	Key [32]byte

	// Addresses are its inner ones, of IPv4 and IPv6. There is at least one. What
	// it sends from any other is dropped.
	Addresses []netip.Addr
}

// maxAddresses bounds how many inner addresses a guest has.
const maxAddresses = 16

// SetGuests adds and removes guests, so that those are left that are named here.
// A guest that goes, or whose addresses change, loses its flows at once. If some
// cannot be added, the others are. Errors are [ErrAddress] and [ErrKey] among
// others.
func (s *Server) SetGuests(guests []Guest) error {
	if s.cfg.Host == nil && len(guests) > 0 {
		return errors.New("add guests: the server has no host for them")
	}
	wanted := make(map[[32]byte]Guest, len(guests))
	var errs []error
	for _, g := range guests {
		if err := s.checkGuest(g); err != nil {
			errs = append(errs, fmt.Errorf("add guest: %w", err))
			continue
		}
		wanted[g.Key] = g
	}
	s.roster.retain(true, func(p *peer) bool {
		g, ok := wanted[p.key]
		return ok && slices.Equal(p.addresses, g.Addresses)
	})
	for _, g := range wanted {
		if err := s.roster.addGuest(g); err != nil {
			errs = append(errs, fmt.Errorf("add guest: %w", err))
		}
	}
	return errors.Join(errs...)
}

// checkGuest tells whether a guest's addresses are of use to it alone.
func (s *Server) checkGuest(g Guest) error {
	if len(g.Addresses) == 0 || len(g.Addresses) > maxAddresses {
		return fmt.Errorf("it has %d addresses, want 1 to %d", len(g.Addresses), maxAddresses)
	}
	if g.Key == [32]byte{} {
		return errors.New("it has no key")
	}
	carriers := carrierNet(s.roster.server)
	for i, a := range g.Addresses {
		switch {
		case !usable(a) || a.IsLinkLocalUnicast():
			return fmt.Errorf("%v cannot be its address", a)
		case carriers.Contains(a), slices.ContainsFunc(s.cfg.Inner, func(p netip.Prefix) bool { return p.Addr() == a }):
			return fmt.Errorf("%v: %w", a, ErrAddress)
		case slices.Contains(g.Addresses[:i], a):
			return fmt.Errorf("%v is there twice", a)
		}
	}
	return nil
}

// usable tells whether an address can be one host's, seen from another. A mapped
// one has no place in a packet.
func usable(a netip.Addr) bool {
	switch {
	case !a.IsValid() || a.Is4In6() || a.Zone() != "" || a.IsUnspecified() || a.IsLoopback() || a.IsMulticast():
		return false
	case a.Is4():
		// What is in "this network" is no destination, and what begins with 240 is
		// reserved, the broadcast address among it (RFC 6890 section 2.2.2).
		first := a.As4()[0]
		return first != 0 && first < 240
	}
	return true
}

// Drops counts packets that guests have sent in vain.
type Drops struct {
	Source      uint64 // from an inner address that is not their own; carriers' are among them
	Destination uint64 // to where no flow can go
	Limit       uint64 // beyond what one guest, or all of them, may have
}

// Dropped says what has been dropped since the server was made.
func (s *Server) Dropped() Drops {
	return Drops{Source: s.drops.source.Load(), Destination: s.drops.destination.Load(), Limit: s.drops.limit.Load()}
}

// drops counts what [Drops] tells.
type drops struct{ source, destination, limit atomic.Uint64 }

// logger is WireGuard's, which drops what does not come from a peer's own
// addresses, and says so nowhere else.
func (d *drops) logger(log *slog.Logger) *device.Logger {
	l := deviceLogger(log)
	l.Verbosef = func(format string, _ ...any) {
		if strings.Contains(format, "disallowed source address") {
			d.source.Add(1)
		}
	}
	return l
}
