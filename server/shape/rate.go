package shape

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Rate is how much goes through, in bits per second. What is counted is payload, not
// what the layers below add to it.
type Rate int64

// Rates for people who count in them.
const (
	Kbit Rate = 1_000
	Mbit Rate = 1_000_000
	Gbit Rate = 1_000_000_000
)

// What a Rate that somebody writes may be.
const (
	MinRate = Kbit
	MaxRate = 1_000 * Gbit
)

var units = []struct {
	name string
	rate Rate
}{{"Gbit/s", Gbit}, {"Mbit/s", Mbit}, {"kbit/s", Kbit}, {"bit/s", 1}}

// ParseRate reads a rate as people write it: "8 Mbit/s", "1.5Gbit/s", "64 kbit/s". The
// unit is needed, in any case of letters, and counts bits: bytes are refused.
func ParseRate(text string) (Rate, error) {
	r, err := parseRate(text)
	if err != nil {
		return 0, fmt.Errorf("parse rate %q: %w", text, err)
	}
	return r, nil
}

func parseRate(text string) (Rate, error) {
	for _, u := range units {
		number, ok := cutSuffixFold(text, u.name)
		if !ok {
			continue
		}
		number = strings.TrimSpace(number)
		if number == "" || strings.Trim(number, "0123456789.") != "" {
			return 0, errors.New("it has no number before its unit")
		}
		n, err := strconv.ParseFloat(number, 64)
		if err != nil {
			return 0, errors.New("it has no number before its unit")
		}
		r := math.Round(n * float64(u.rate))
		if r < float64(MinRate) || r > float64(MaxRate) {
			return 0, fmt.Errorf("it is not between %v and %v", MinRate, MaxRate)
		}
		return Rate(r), nil
	}
	return 0, errors.New("it has none of the units kbit/s, Mbit/s, Gbit/s")
}

func cutSuffixFold(s, suffix string) (string, bool) {
	at := len(s) - len(suffix)
	if at < 0 || !strings.EqualFold(s[at:], suffix) {
		return s, false
	}
	return s[:at], true
}

// String gives the rate as ParseRate reads it.
func (r Rate) String() string {
	for _, u := range units {
		if r >= u.rate {
			return strconv.FormatFloat(float64(r)/float64(u.rate), 'f', -1, 64) + " " + u.name
		}
	}
	return strconv.FormatInt(int64(r), 10) + " bit/s"
}

// takes is how many seconds so many bytes take.
func (r Rate) takes(size float64) float64 { return size * 8 / float64(r) }
