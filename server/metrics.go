package server

import (
	"github.com/adit-net/adit/server/audit"
	"github.com/adit-net/adit/server/metrics"
)

// Metrics writes what the server has done, and how it is doing. No label says who somebody
// is, or where he goes.
func (s *Server) Metrics(p *metrics.Page) {
	s.sessionMetrics(p)
	s.flowMetrics(p)
	p.Level("adit_bandwidth_waiting", "Directions of flows that wait for bandwidth.", float64(s.bandwidth.waiting.Load()))
	p.Histogram("adit_bandwidth_delay_seconds", "How long what bandwidth is limited for has waited for its turn.", s.bandwidth.delay)
	p.Count("adit_bandwidth_dropped_datagrams_total", "Datagrams that were dropped because there was no bandwidth for them.", s.bandwidth.lost.Load())
	rules := 0
	if policy := s.policy.Load(); policy != nil {
		rules = len(policy.Rules())
	}
	p.Level("adit_policy_rules", "Rules that are in force.", float64(rules))
	if s.cfg.Decider != nil {
		s.cfg.Decider.Metrics(p)
	}
	if s.cfg.Audit != nil {
		auditMetrics(p, s.cfg.Audit.Stats())
	}
}

func (s *Server) sessionMetrics(p *metrics.Page) {
	c := s.counts
	attached, detached := s.population()
	p.Gauge("adit_sessions", "Sessions that there are, with a carrier and without.",
		metrics.Sample{Labels: metrics.Labels{{"state", "attached"}}, Value: float64(attached)},
		metrics.Sample{Labels: metrics.Labels{{"state", "detached"}}, Value: float64(detached)})
	p.Level("adit_visits", "Guests, apps at doors, and other users in sessions, that are here.", float64(len(s.allVisits())))
	p.Gauge("adit_carriers", "Carriers that sessions have.", samples(c.carriers, "carrier", carrierLabels)...)
	p.Counter("adit_carriers_total", "Carriers that sessions have had.", samples(c.arrivals, "carrier", carrierLabels)...)
	p.Histogram("adit_resume_seconds", "How long sessions were without a carrier that got another one.", c.resume)
	p.Count("adit_replayed_bytes_total", "Bytes that were sent again on another carrier.", c.replayed.Load())
	p.Level("adit_replay_memory_bytes", "Memory with what may have to be sent again.", float64(s.memory.Used()))
	p.Level("adit_replay_memory_limit_bytes", "Memory that there may be for that.", float64(s.cfg.ReplayMemory))
	var logins []metrics.Sample
	for _, method := range methodLabels {
		for i, result := range []string{"accepted", "denied"} {
			n := c.logins[attempts{method, i == 1}].Load()
			logins = append(logins, metrics.Sample{Labels: metrics.Labels{{"method", method}, {"result", result}}, Value: float64(n)})
		}
	}
	p.Counter("adit_logins_total", "Attempts to prove who somebody is. A resumed session is none.", logins...)
}

func (s *Server) flowMetrics(p *metrics.Page) {
	c := s.counts
	p.Gauge("adit_flows", "Flows that are open.", samples(c.open, "command", commandLabels)...)
	var ended []metrics.Sample
	for _, decision := range decisionLabels {
		for _, group := range groupLabels() {
			n := c.ended[ending{decision, group}].Load()
			ended = append(ended, metrics.Sample{Labels: metrics.Labels{{"decision", decision}, {"protocol", string(group)}}, Value: float64(n)})
		}
	}
	p.Counter("adit_flows_total", "Flows that have ended, by what was decided and the kind of protocol. Those that failed were allowed.", ended...)
	p.Counter("adit_flow_bytes_total", "Bytes of flows: up is from apps to targets.", ways(c.up.Load(), c.down.Load())...)
	p.Counter("adit_flow_datagrams_total", "Datagrams of flows: up is from apps to targets.", ways(c.sent.Load(), c.received.Load())...)
	p.Histogram("adit_connect_seconds", "How long it took until a target had answered.", c.connect)
}

func ways(up, down int64) []metrics.Sample {
	return []metrics.Sample{
		{Labels: metrics.Labels{{"direction", "up"}}, Value: float64(up)},
		{Labels: metrics.Labels{{"direction", "down"}}, Value: float64(down)},
	}
}

// Metrics writes what the exit has dropped since it was first used.
func (e *Exit) Metrics(p *metrics.Page) {
	d := e.Drops()
	var dropped []metrics.Sample
	for _, by := range []struct {
		reason string
		count  uint64
	}{{"denied", d.Denied}, {"full", d.Full}, {"unknown", d.Unknown}} {
		dropped = append(dropped, metrics.Sample{Labels: metrics.Labels{{"reason", by.reason}}, Value: float64(by.count)})
	}
	p.Counter("adit_exit_dropped_datagrams_total", "Datagrams that went no further: not allowed, no room in a socket, or nobody knows where to.", dropped...)
}

func auditMetrics(p *metrics.Page, a audit.Stats) {
	failing := 0.
	if a.Failed != nil {
		failing = 1
	}
	p.Count("adit_audit_records_total", "Records that were written.", a.Written)
	p.Count("adit_audit_lost_records_total", "Records that should have been.", a.Lost)
	p.Level("adit_audit_waiting_records", "Records that wait for the disk.", float64(a.Waiting))
	p.Level("adit_audit_open_records", "Records of what goes on.", float64(a.Open))
	p.Level("adit_audit_failing", "Whether records cannot be written now: 0 or 1.", failing)
}

// samples gives one for each value of a label, in their order.
func samples(t tally[string], label string, values []string) (all []metrics.Sample) {
	for _, v := range values {
		all = append(all, metrics.Sample{Labels: metrics.Labels{{label, v}}, Value: float64(t[v].Load())})
	}
	return all
}

// population counts the sessions that have a carrier, and those that wait for one.
func (s *Server) population() (attached, detached int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sess := range s.sessions {
		if _, is := sess.detached(); is {
			detached++
		} else {
			attached++
		}
	}
	return attached, detached
}
