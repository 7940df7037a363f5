package policy

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2/unstable"
)

// Limit is what an allowed flow has to keep to. 0 and "" set no limit.
type Limit struct {
	RateUp, RateDown       int64 // bits per second that all flows of the rule have for sure
	CeilingUp, CeilingDown int64 // and that they have at most

	QuotaPerDay   int64 // bytes, of each user's flows by the rule, both ways together
	QuotaPerMonth int64

	MaxFlows int           // of each user's by the rule, at once
	Idle     time.Duration // after which a flow ends that nothing passes for
	Total    time.Duration // after which a flow ends

	Record       string // how much of a flow is recorded
	UDPFiltering string // whose datagrams an association takes

	RequireIPsec bool          // nothing passes while IPsec does not protect the path
	Patience     time.Duration // for how long a flow may stand still because of that
}

// defaultPatience is that of rules that do not say.
const defaultPatience = 30 * time.Second

// maxRate is a petabit per second, and a petabyte.
const maxRate = 1e15

var rateUnits = []unit{{"Gbit/s", 1e9}, {"Mbit/s", 1e6}, {"kbit/s", 1e3}, {"bit/s", 1}}

var sizeUnits = []unit{
	{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
	{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}, {"B", 1},
}

type unit struct {
	name string
	is   float64
}

// parseAmount reads a number with a unit.
func parseAmount(text string, units []unit) (int64, bool) {
	for _, u := range units {
		number, found := strings.CutSuffix(text, u.name)
		if !found {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		amount := math.Round(n * u.is)
		return int64(amount), err == nil && amount >= 1 && amount <= maxRate
	}
	return 0, false
}

func parseRate(text string) (int64, error) {
	n, ok := parseAmount(text, rateUnits)
	if !ok {
		return 0, fmt.Errorf("%q is no rate, such as 8 Mbit/s", text)
	}
	return n, nil
}

func parseSize(text string) (int64, error) {
	n, ok := parseAmount(text, sizeUnits)
	if !ok {
		return 0, fmt.Errorf("%q is no amount of data, such as 10 GB or 10 GiB", text)
	}
	return n, nil
}

func parseSpan(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("%q is no duration, such as 30s, 5m or 8h", text)
	}
	return d, nil
}

// limit reads what an allowed flow has to keep to.
func (r *reader) limit(t *table, rule *Rule) {
	l := &rule.Limit
	limited := false
	read := func(key string, set func(text string) error) {
		text, at, ok := r.text(t, key)
		if !ok {
			return
		}
		limited = true
		if err := set(text); err != nil {
			r.wrong(at, "", "%s: %v", key, err)
		}
	}
	for key, to := range map[string]*int64{"rate_up": &l.RateUp, "rate_down": &l.RateDown, "ceiling_up": &l.CeilingUp, "ceiling_down": &l.CeilingDown} {
		read(key, func(text string) (err error) { *to, err = parseRate(text); return err })
	}
	for key, to := range map[string]*int64{"quota_per_day": &l.QuotaPerDay, "quota_per_month": &l.QuotaPerMonth} {
		read(key, func(text string) (err error) { *to, err = parseSize(text); return err })
	}
	for key, to := range map[string]*time.Duration{"idle": &l.Idle, "total": &l.Total} {
		read(key, func(text string) (err error) { *to, err = parseSpan(text); return err })
	}
	record := oneOf("none", "summary", "full")
	read("record", func(text string) (err error) { l.Record, err = record(text); return err })
	filtering := oneOf("endpoint-independent", "address-dependent", "address-and-port-dependent")
	read("udp_filtering", func(text string) (err error) { l.UDPFiltering, err = filtering(text); return err })
	if v, ok := r.take(t, "max_flows", unstable.Integer, "a whole number"); ok {
		n, err := strconv.Atoi(strings.ReplaceAll(v.text, "_", ""))
		if err != nil || n < 1 {
			r.wrong(v.place, "", "max_flows: %s is no number of flows", v.text)
		}
		l.MaxFlows, limited = n, true
	}
	if r.requirement(t, l) {
		limited = true
	}
	if limited && !rule.Allow {
		r.wrong(t.place, "take out the limits, or allow it", "the rule denies, and limits what it denies")
	}
	if l.CeilingUp > 0 && l.RateUp > l.CeilingUp || l.CeilingDown > 0 && l.RateDown > l.CeilingDown {
		r.wrong(t.place, "", "the rule's rate is above its ceiling")
	}
}

// requirement reads what has to protect the path, and tells whether anything has.
func (r *reader) requirement(t *table, l *Limit) bool {
	v, ok := r.take(t, "require_ipsec", unstable.Bool, "true or false")
	l.RequireIPsec = ok && v.text == "true"
	if l.RequireIPsec {
		l.Patience = defaultPatience
	}
	text, at, ok := r.text(t, "patience")
	if !ok {
		return l.RequireIPsec
	}
	patience, err := parseSpan(text)
	switch {
	case err != nil:
		r.wrong(at, "", "patience: %v", err)
	case !l.RequireIPsec:
		r.wrong(at, "write require_ipsec = true, or leave patience out", "patience is how long flows wait for IPsec, and the rule does not require it")
	}
	l.Patience = patience
	return l.RequireIPsec
}
