package users

import (
	"net/netip"
	"time"
)

const (
	// A wrong password counts against its user and source for so long, and so much
	// may have come together.
	userWrong, maxUserWrong = 12 * time.Second, time.Minute

	// The same for a source, whichever users it tries.
	sourceWrong, maxSourceWrong = 2 * time.Second, time.Minute

	// maxSuspects bounds those that are remembered: some 100 bytes each.
	maxSuspects = 16_384
)

// suspect is whence wrong passwords come.
type suspect struct {
	user string // empty: whichever
	from netip.Addr
}

// suspects has for each suspect the time at which all is forgotten. The zero value
// is ready.
type suspects map[suspect]time.Time

// network gives what one machine can take its addresses from.
func network(a netip.Addr) netip.Addr {
	if a = a.Unmap().WithZone(""); a.Is6() {
		return netip.PrefixFrom(a, 64).Masked().Addr()
	}
	return a
}

// refuses tells whether there were too many wrong passwords.
func (s suspects) refuses(user string, from netip.Addr, now time.Time) bool {
	from = network(from)
	return s[suspect{user, from}].Sub(now) > maxUserWrong-userWrong ||
		s[suspect{"", from}].Sub(now) > maxSourceWrong-sourceWrong
}

// add counts a wrong password.
func (s *suspects) add(user string, from netip.Addr, now time.Time) {
	if *s == nil {
		*s = make(suspects)
	}
	if len(*s) > maxSuspects-2 {
		s.makeRoom(now)
	}
	from = network(from)
	s.addTo(suspect{"", from}, sourceWrong, now)
	s.addTo(suspect{user, from}, userWrong, now)
}

func (s suspects) addTo(who suspect, d time.Duration, now time.Time) {
	until := s[who]
	if until.Before(now) {
		until = now
	}
	s[who] = until.Add(d)
}

// makeRoom forgets those whose time is up, or else those who have the least left.
func (s suspects) makeRoom(now time.Time) {
	for longest := now; len(s) > maxSuspects/2; longest = longest.Add(maxUserWrong / 8) {
		for who, until := range s {
			if !until.After(longest) {
				delete(s, who)
			}
		}
	}
}
