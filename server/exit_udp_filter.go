package server

import (
	"fmt"
	"net/netip"
)

// Filtering says whose datagrams an association takes (RFC 4787 section 5).
type Filtering int

const (
	// EndpointIndependent takes everybody's, so that programs can meet peers
	// that neither has sent to. It is also known as full cone.
	EndpointIndependent Filtering = iota

	// AddressDependent takes those from addresses that were sent to.
	AddressDependent

	// AddressAndPortDependent takes those from addresses and ports that were sent
	// to.
	AddressAndPortDependent
)

var filterings = [...]string{
	EndpointIndependent:     "endpoint-independent",
	AddressDependent:        "address-dependent",
	AddressAndPortDependent: "address-and-port-dependent",
}

// ParseFiltering reads a word that String gives.
func ParseFiltering(word string) (Filtering, error) {
	for f, w := range filterings {
		if w == word {
			return Filtering(f), nil
		}
	}
	return 0, fmt.Errorf("filtering %q: the words are endpoint-independent, address-dependent and address-and-port-dependent", word)
}

func (f Filtering) String() string {
	if f < 0 || int(f) >= len(filterings) {
		return fmt.Sprintf("filtering %d", int(f))
	}
	return filterings[f]
}

// key is what has to have been sent to for a datagram from peer.
func (f Filtering) key(peer netip.AddrPort) netip.AddrPort {
	if f == AddressDependent {
		return netip.AddrPortFrom(peer.Addr(), 0)
	}
	return peer
}

// recent is a map that keeps at least the half of limit that were used last, and
// at most limit. Nothing in it takes longer when it is full.
type recent[K comparable, V any] struct {
	limit    int
	new, old map[K]V
}

func (r *recent[K, V]) get(k K) (V, bool) {
	v, ok := r.new[k]
	if ok {
		return v, true
	}
	if v, ok = r.old[k]; ok {
		r.put(k, v)
	}
	return v, ok
}

func (r *recent[K, V]) put(k K, v V) {
	if _, ok := r.new[k]; !ok && len(r.new) >= r.limit/2 {
		r.new, r.old = nil, r.new
	}
	if r.new == nil {
		r.new = make(map[K]V)
	}
	r.new[k] = v
	delete(r.old, k)
}
