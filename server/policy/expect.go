package policy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2/unstable"
)

// expectation is an example that its author has written beside the rules.
type expectation struct {
	place
	who     Who
	request Request
	outcome Outcome
	rule    string // "": any
}

// Check decides the examples of the file. The error joins a [*Problem] for each that has
// another outcome, or another rule.
func (p *Policy) Check() error {
	var all []error
	for _, e := range p.expected {
		d := p.For(e.who).Decide(e.request)
		what := ""
		switch {
		case d.Outcome != e.outcome:
			what = fmt.Sprintf("expected %s, but it is %s", e.outcome, d)
		case e.rule != "" && d.Rule == nil:
			what = fmt.Sprintf("expected that rule %s decides, but %s", e.rule, d)
		case e.rule != "" && d.Rule.Name != e.rule:
			what = fmt.Sprintf("expected that rule %s decides, but it is %s", e.rule, d)
		}
		if what != "" {
			all = append(all, &Problem{File: p.file, Line: e.line, Column: e.column, What: what})
		}
	}
	return errors.Join(all...)
}

// Expectations is how many examples the file has.
func (p *Policy) Expectations() int { return len(p.expected) }

// ParseTarget reads HOST:PORT as a request has it: a name or an address.
func ParseTarget(text string) (name string, addr netip.Addr, port uint16, err error) {
	host, number, err := net.SplitHostPort(text)
	if err != nil {
		return "", netip.Addr{}, 0, fmt.Errorf("%q is not HOST:PORT", text)
	}
	n, err := strconv.ParseUint(number, 10, 16)
	if err != nil {
		return "", netip.Addr{}, 0, fmt.Errorf("%q: the port is not a number from 0 to 65535", text)
	}
	if addr, err = netip.ParseAddr(host); err == nil && addr.Zone() == "" {
		return "", addr.Unmap(), uint16(n), nil
	}
	if name, err = CanonicalName(host); err != nil {
		return "", netip.Addr{}, 0, err
	}
	return name, netip.Addr{}, uint16(n), nil
}

// expectation reads an example.
func (r *reader) expectation(t *table) expectation {
	e := expectation{place: t.place}
	e.who.User, _, _ = r.text(t, "user")
	e.who.Device, _, _ = r.text(t, "device")
	e.who.Door, _, _ = r.text(t, "door")
	e.who.Cipher, _, _ = r.text(t, "cipher")
	e.who.Groups = r.plain(t, "groups", anyWord)
	e.who.Protection = r.plain(t, "protection", valueParsers[protections])
	e.who.Method = r.word(t, "method", valueParsers[methods])
	e.who.From = r.address(t, "from")
	e.request = r.request(t)
	outcomes := []string{Deny.String(), Allow.String(), NeedsAddress.String(), NeedsProtocol.String()}
	outcome := r.word(t, "outcome", oneOf(outcomes...))
	if outcome == "" && t.find("outcome") == nil {
		r.wrong(t.place, `write outcome = "allow" or outcome = "deny"`, "the example does not say what is expected")
	}
	e.outcome = Outcome(max(0, slices.Index(outcomes, outcome)))
	e.rule, _, _ = r.text(t, "rule")
	r.leftOver(t, "expect.")
	return e
}

// request reads what an example asks for.
func (r *reader) request(t *table) (q Request) {
	q.Dialect = r.word(t, "dialect", valueParsers[dialects])
	if q.Command = r.word(t, "command", valueParsers[commands]); q.Command == "" {
		q.Command = "connect"
	}
	q.Protocol = r.word(t, "protocol", r.protocol)
	q.Carries = r.word(t, "carries", r.protocol)
	q.Signs = r.plain(t, "signs", valueParsers[signs])
	if text, at, ok := r.text(t, "to"); ok {
		var err error
		if q.Name, q.Addr, q.Port, err = ParseTarget(text); err != nil {
			r.wrong(at, `write to = "example.com:443"`, "to: %v", err)
		}
	}
	if a := r.address(t, "address"); a.IsValid() {
		q.Addr = a
	}
	if v, ok := r.take(t, "at", unstable.DateTime, "a time with a zone: 2026-07-01T09:30:00+02:00"); ok {
		at, err := time.Parse(time.RFC3339, strings.ToUpper(strings.Replace(v.text, " ", "T", 1)))
		if err != nil {
			r.wrong(v.place, "", "at: %s is no time", v.text)
		}
		q.Time = at
	}
	return q
}

func (r *reader) protocol(text string) (string, error) {
	if _, known := r.options.Protocols[text]; known || text == "unknown" {
		return text, nil
	}
	return "", fmt.Errorf("there is no protocol %q", text)
}

func (r *reader) word(t *table, key string, parse func(string) (string, error)) string {
	text, at, ok := r.text(t, key)
	if !ok {
		return ""
	}
	word, err := parse(text)
	if err != nil {
		r.wrong(at, "", "%s: %v", key, err)
	}
	return word
}

func (r *reader) plain(t *table, key string, parse func(string) (string, error)) (all []string) {
	for _, v := range r.texts(t, key) {
		word, err := parse(v.text)
		if err != nil {
			r.wrong(v.place, "", "%s: %v", key, err)
		}
		all = append(all, word)
	}
	return all
}

func (r *reader) address(t *table, key string) netip.Addr {
	text, at, ok := r.text(t, key)
	if !ok {
		return netip.Addr{}
	}
	a, err := netip.ParseAddr(text)
	if err != nil || a.Zone() != "" {
		r.wrong(at, "", "%s: %q is no IP address", key, text)
	}
	return a.Unmap()
}
