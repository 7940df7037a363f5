package decide

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/adit-net/adit/server/metrics"
	"github.com/adit-net/adit/server/policy"
)

// counts are what has become of questions. Its methods are safe for concurrent use.
type counts struct {
	took                                    *metrics.Histogram // until there was an answer
	allowed, denied, needs, failed, unasked atomic.Int64
}

// ends counts a question that was to be asked at some time. Its error says why there is no
// answer.
func (c *counts) ends(began time.Time, a Answer, err error) {
	switch {
	case errors.Is(err, errBusy):
		c.unasked.Add(1)
		return
	case err != nil:
		c.failed.Add(1)
		return
	}
	c.took.Observe(a.At.Sub(began))
	switch a.Outcome {
	case policy.Allow:
		c.allowed.Add(1)
	case policy.Deny:
		c.denied.Add(1)
	case policy.NeedsAddress, policy.NeedsProtocol:
		c.needs.Add(1)
	}
}

// Metrics writes what has become of questions, whoever they were for. What was known
// already is none.
func (d *Decider) Metrics(p *metrics.Page) {
	c := &d.counts
	p.Histogram("adit_decision_seconds", "How long it took until the decider had answered.", c.took)
	var all []metrics.Sample
	for _, by := range []struct {
		result string
		n      *atomic.Int64
	}{{"allowed", &c.allowed}, {"denied", &c.denied}, {"needs", &c.needs}, {"failed", &c.failed}, {"unasked", &c.unasked}} {
		all = append(all, metrics.Sample{Labels: metrics.Labels{{"result", by.result}}, Value: float64(by.n.Load())})
	}
	p.Counter("adit_decisions_total", "Questions for the decider, by what came of them.", all...)
}
