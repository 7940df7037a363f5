package server

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/adit-net/adit/server/audit"
	"github.com/adit-net/adit/server/policy"
)

// Replay says what rules make of a flow on record. If that depends on something that is
// not on record, lacks says what it is, and there is no decision.
func Replay(p *policy.Policy, r audit.Record) (d policy.Decision, lacks string) {
	to := destination{name: r.Name, at: netip.AddrPortFrom(r.Address.Unmap(), r.Port)}
	if r.Command == "associate" || r.Command == "resolve" && r.Name == "" || to.at.Addr().IsValid() && to.at.Addr().IsUnspecified() {
		to = destination{}
	}
	said := spoken{protocol: r.Protocol, host: r.Host}
	as := p.For(whoOf(r.Origin))
	d, err := replay(as, r, to, said)
	if err != nil {
		return policy.Decision{Outcome: policy.Deny}, ""
	}
	before := d.Outcome
	switch {
	case d.Outcome == policy.NeedsProtocol:
		return d, "what was spoken"
	case d.Outcome == policy.NeedsAddress && !to.known():
		return d, "where it went"
	case d.Outcome == policy.NeedsAddress && r.Command == "resolve":
		d.Outcome = policy.Allow // as nothing is dialled
	case d.Outcome == policy.NeedsAddress:
		return d, "its address"
	}
	said.doubt = said.protocol != ""
	if other, _ := replay(as, r, to, said); other.Outcome != before {
		return d, "whether it was what it looked like"
	}
	return d, ""
}

// replay decides what a caller has asked for. Its addresses all have to be allowed.
func replay(as *policy.Caller, r audit.Record, to destination, said spoken) (last policy.Decision, err error) {
	q, err := petition{dialect: r.Dialect, command: r.Command}.put(to, said)
	if err != nil {
		return last, err
	}
	q.Time = r.Begin
	last.Outcome = policy.Allow
	for i, a := range Judged(q.Addr) {
		q.Addr = a
		d := as.Decide(q)
		if d.Outcome == policy.Deny {
			return d, nil
		}
		if i == 0 || last.Outcome == policy.Allow {
			last = d
		}
	}
	return last, nil
}

// whoOf is whom a record comes from: what originOf has made a record of.
func whoOf(o audit.Origin) policy.Who {
	w := policy.Who{User: o.User, Device: o.Device, From: o.Source, Door: o.Door, Method: o.Method, Cipher: o.Cipher}
	if o.Groups != "" {
		w.Groups = strings.Split(o.Groups, ",")
	}
	for _, carrier := range strings.Split(o.Carrier, "+") {
		if slices.Contains([]string{"tls", "wireguard"}, carrier) {
			w.Protection = append(w.Protection, carrier)
		}
	}
	switch o.IPsec {
	case "":
	case "yes":
		w.Protection = append(w.Protection, "ipsec")
	default:
		w.Protection = append(w.Protection, "ipsec:"+o.IPsec)
	}
	if o.GSS != "" {
		w.Protection = append(w.Protection, "gss-"+o.GSS)
	}
	return w
}
