package server

import (
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/adit-net/adit/server/metrics"
	"github.com/adit-net/adit/server/sniff"
	"github.com/adit-net/adit/tunnel"
	"github.com/adit-net/adit/tunnel/socks"
)

// counts are what has happened since the server was made. What passes costs an addition,
// and nothing here grows: every label has all its values from the start.
type counts struct {
	up, down       atomic.Int64 // bytes of flows
	sent, received atomic.Int64 // and datagrams

	number   atomic.Int64    // of the last flow
	open     tally[string]   // flows, by command
	ended    tally[ending]   // flows
	carriers tally[string]   // that sessions have, by kind
	arrivals tally[string]   // carriers in all
	logins   tally[attempts] // attempts to prove who somebody is

	replayed atomic.Int64 // bytes that were sent again on another carrier

	connect *metrics.Histogram // until a target has answered
	resume  *metrics.Histogram // from one carrier to the next
}

// ending is what has become of a flow, and what was spoken.
type ending struct {
	decision string // see decisionOf
	group    sniff.Group
}

// attempts are those by one method that came to the same.
type attempts struct {
	method string
	denied bool
}

// other stands for all that a tally has no place for.
const other = "other"

// What was decided about a flow. One that failed was allowed.
const (
	flowAllowed = "allowed"
	flowRefused = "refused"
	flowFailed  = "failed"
)

// decisionOf says how a flow has ended, as far as it was decided here.
func decisionOf(err error, code socks.Code) string {
	switch {
	case code == socks.NotAllowed || errors.Is(err, errForbidden):
		return flowRefused
	case code != socks.Succeeded:
		return flowFailed
	}
	return flowAllowed
}

// The values of labels.
var (
	commandLabels  = []string{"connect", "bind", "associate", "resolve", other}
	decisionLabels = []string{flowAllowed, flowRefused, flowFailed}
	carrierLabels  = []string{"tls", "wireguard", "ipsec", other}
	methodLabels   = []string{"device", "invite", "password", "gssapi", other}
)

// groupUnknown is the group of flows of which nobody knows what is spoken.
const groupUnknown = sniff.Group(sniff.Unknown)

// groupLabels are the groups of protocols.
func groupLabels() []sniff.Group {
	all := []sniff.Group{groupUnknown}
	for p := range sniff.Protocols() {
		all = append(all, p.Group)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func newCounts() *counts {
	c := &counts{
		open:     newTally(commandLabels),
		carriers: newTally(carrierLabels),
		arrivals: newTally(carrierLabels),
		ended:    make(tally[ending]),
		logins:   make(tally[attempts]),

		connect: metrics.NewHistogram(metrics.Spread(time.Millisecond, 30*time.Second)...),
		resume:  metrics.NewHistogram(metrics.Spread(10*time.Millisecond, time.Hour)...),
	}
	for _, decision := range decisionLabels {
		for _, group := range groupLabels() {
			c.ended[ending{decision, group}] = new(atomic.Int64)
		}
	}
	for _, method := range methodLabels {
		c.logins[attempts{method, false}] = new(atomic.Int64)
		c.logins[attempts{method, true}] = new(atomic.Int64)
	}
	return c
}

// ends counts a flow that has ended.
func (c *counts) ends(decision string, spoken sniff.Protocol) {
	group := groupUnknown
	if known, ok := sniff.Lookup(spoken); ok {
		group = known.Group
	}
	c.ended[ending{decision, group}].Add(1)
}

// attempted counts an attempt to prove who somebody is.
func (c *counts) attempted(method string, denied bool) {
	c.logins.of(attempts{method, denied}, attempts{other, denied}).Add(1)
}

// resumed counts a carrier that takes over from another.
func (c *counts) resumed(carrier *tunnel.Carrier) {
	c.resume.Observe(carrier.Gap)
	c.replayed.Add(carrier.Replay)
}

// went counts bytes of the app's, and came gives how many have come back by now.
func (f *flow) went(n int64) {
	f.up.Add(n)
	f.caller.server.counts.up.Add(n)
}

func (f *flow) came(n int64) int64 {
	f.caller.server.counts.down.Add(n)
	return f.down.Add(n)
}

// count counts the flow, which has ended.
func (f *flow) count(err error, code socks.Code) {
	f.mu.Lock()
	spoken, _ := f.spoke()
	f.mu.Unlock()
	if f.wish.command == "resolve" {
		spoken = string(sniff.DNS)
	}
	decision := decisionOf(err, code)
	f.caller.server.counts.ends(decision, sniff.Protocol(spoken))
	if decision == flowRefused && err != nil {
		f.wish.refuses(f.asked.String(), err)
	}
}

// tally counts by keys, of which there are never more.
type tally[K comparable] map[K]*atomic.Int64

func newTally[K comparable](keys []K) tally[K] {
	t := make(tally[K], len(keys))
	for _, k := range keys {
		t[k] = new(atomic.Int64)
	}
	return t
}

// of gives the count of a key, or of the one that stands for it.
func (t tally[K]) of(key, instead K) *atomic.Int64 {
	if n := t[key]; n != nil {
		return n
	}
	return t[instead]
}
