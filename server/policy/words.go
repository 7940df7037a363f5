package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// words are what a clause says: a value passes if one of is fits, or there is none, and
// none of not does.
type words[T any] struct{ is, not []T }

func (w words[T]) empty() bool { return len(w.is) == 0 && len(w.not) == 0 }

func (w words[T]) pass(fits func(T) bool) bool {
	return !slices.ContainsFunc(w.not, fits) && (len(w.is) == 0 || slices.ContainsFunc(w.is, fits))
}

func (w *words[T]) add(value T, not bool) {
	if not {
		w.not = append(w.not, value)
	} else {
		w.is = append(w.is, value)
	}
}

// each gives all words, and which of them are exceptions.
func (w words[T]) each(f func(word T, not bool)) {
	for _, word := range w.is {
		f(word, false)
	}
	for _, word := range w.not {
		f(word, true)
	}
}

// passes tells whether one of several values is what a clause wants. With exceptions,
// none of them may be one.
func passes(w words[string], values ...string) bool {
	return w.pass(func(word string) bool { return slices.Contains(values, word) })
}

// ports are a range.
type ports struct{ from, to uint16 }

func (p ports) has(port uint16) bool { return p.from <= port && port <= p.to }

func parsePorts(text string) (ports, error) {
	first, last, ranged := strings.Cut(text, "-")
	if !ranged {
		last = first
	}
	from, err := strconv.ParseUint(strings.TrimSpace(first), 10, 16)
	to, err2 := strconv.ParseUint(strings.TrimSpace(last), 10, 16)
	if err != nil || err2 != nil || from > to {
		return ports{}, fmt.Errorf("%q is no port and no range of ports, such as 443 or 8000-8100", text)
	}
	return ports{uint16(from), uint16(to)}, nil
}

// parseNetwork reads a network, or an address as the network that has only it.
func parseNetwork(text string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	switch {
	case err != nil || p.Addr().Is4In6():
		return netip.Prefix{}, fmt.Errorf("%q is no network, such as 192.0.2.0/24", text)
	case p != p.Masked():
		return netip.Prefix{}, fmt.Errorf("%q is no network, but an address in %s", text, p.Masked())
	}
	return p, nil
}

// ParseProtection reads a word for a layer of protection. Of IPsec it may say more: the
// cipher, with its key's length, with what authenticates if the cipher does not.
func ParseProtection(text string) (string, error) {
	suite, ofIPsec := strings.CutPrefix(text, "ipsec:")
	if !ofIPsec {
		return oneOf("tls", "wireguard", "ipsec", "gss-integrity", "gss-confidentiality", "none")(text)
	}
	if suite == "" || strings.ContainsFunc(suite, func(r rune) bool { return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyz0123456789-+", r) }) {
		return "", fmt.Errorf("%q names no cipher of ESP, as ipsec:aes-gcm or ipsec:aes-gcm-128 do", text)
	}
	return text, nil
}

// weekdays are a set: bit 0 is Sunday, as in package time.
type weekdays uint8

func (d weekdays) has(t time.Time) bool { return d>>t.Weekday()&1 != 0 }

var dayNames = [...]string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

func parseDays(text string) (weekdays, error) {
	first, last, ranged := strings.Cut(strings.ToLower(text), "-")
	if !ranged {
		last = first
	}
	from, to := slices.Index(dayNames[:], first), slices.Index(dayNames[:], last)
	if from < 0 || to < 0 {
		return 0, fmt.Errorf("%q is no day and no range of days, such as sat or mon-fri", text)
	}
	var d weekdays
	for day := from; ; day = (day + 1) % 7 {
		d |= 1 << day
		if day == to {
			return d, nil
		}
	}
}

// hours are a span of each day, in minutes from midnight. It ends before to, and goes
// past midnight if from is not before that.
type hours struct{ from, to int }

func (h hours) has(t time.Time) bool {
	now := t.Hour()*60 + t.Minute()
	if h.from < h.to {
		return h.from <= now && now < h.to
	}
	return now >= h.from || now < h.to
}

func parseHours(text string) (hours, error) {
	first, last, _ := strings.Cut(text, "-")
	from, ok := parseClock(first)
	to, ok2 := parseClock(last)
	if !ok || !ok2 || from == 24*60 || from == to {
		return hours{}, fmt.Errorf("%q is no span of hours, such as 08:00-18:00", text)
	}
	return hours{from, to}, nil
}

func parseClock(text string) (minutes int, ok bool) {
	h, m, _ := strings.Cut(strings.TrimSpace(text), ":")
	hour, err := strconv.ParseUint(h, 10, 8)
	minute, err2 := strconv.ParseUint(m, 10, 8)
	minutes = int(hour*60 + minute)
	return minutes, err == nil && err2 == nil && len(m) == 2 && minute < 60 && minutes <= 24*60
}
