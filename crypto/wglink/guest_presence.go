package wglink

import (
	"encoding/hex"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Presence says where a guest is.
type Presence struct {
	Remote netip.AddrPort // where its latest packet came from
	Heard  time.Time      // when the latest handshake was done; zero: there was none
}

// Present tells of the guests that WireGuard keeps keys for. It is none too cheap: it
// looks at all peers.
func (s *Server) Present() map[[32]byte]Presence {
	state, guests := s.roster.state()
	all := map[[32]byte]Presence{}
	var (
		key [32]byte
		p   Presence
	)
	for line := range strings.Lines(state) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch name {
		case "public_key":
			b, _ := hex.DecodeString(value)
			key, p = [32]byte{}, Presence{}
			copy(key[:], b)
		case "endpoint":
			p.Remote, _ = netip.ParseAddrPort(value)
			p.Remote = netip.AddrPortFrom(p.Remote.Addr().Unmap(), p.Remote.Port())
		case "last_handshake_time_sec":
			if n, _ := strconv.ParseInt(value, 10, 64); n > 0 {
				p.Heard = time.Unix(n, 0)
			}
		}
		if guests[key] {
			all[key] = p
		}
	}
	return all
}

// state gives what WireGuard says of itself, and the keys of all guests.
func (r *roster) state() (string, map[[32]byte]bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.engine == nil {
		return "", nil
	}
	guests := map[[32]byte]bool{}
	for key, p := range r.peers {
		if p.guest {
			guests[key] = true
		}
	}
	state, err := r.engine.device.IpcGet()
	if err != nil {
		return "", nil
	}
	return state, guests
}
