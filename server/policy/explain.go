package policy

import (
	"fmt"
	"strings"
)

// Explanation says how a decision has come about.
type Explanation struct {
	Decision
	Passed []Passed // the rules before the first that matches, in order
}

// Passed is a rule that has not decided.
type Passed struct {
	Rule   *Rule
	Clause string // the first that does not match, or that cannot be judged yet
	Why    string // what the clause was judged by; "" if that is not known yet
	Open   bool   // it cannot be judged yet
}

// Explain decides as Decide does, and says why. It takes its time.
func (c *Caller) Explain(q Request) Explanation {
	e := Explanation{Decision: c.Decide(q)}
	for _, r := range c.policy.rules {
		p, passed := c.passed(r, &q)
		if !passed {
			break
		}
		e.Passed = append(e.Passed, p)
	}
	return e
}

// passed says why a rule does not match, or may not.
func (c *Caller) passed(r *Rule, q *Request) (Passed, bool) {
	open := Passed{}
	for _, s := range r.steps(c, q) {
		switch s.said {
		case no:
			return Passed{Rule: r, Clause: s.key, Why: c.fact(r, s.key, q)}, true
		case needsAddress, needsProtocol:
			if open.Rule == nil {
				open = Passed{Rule: r, Clause: s.key, Open: true}
			}
		}
	}
	return open, open.Rule != nil
}

// fact says in words what a clause of a rule is judged by.
func (c *Caller) fact(r *Rule, key string, q *Request) string {
	for kind, k := range valueKeys {
		if k == key {
			return orNone(strings.Join(valuesOf(valueKind(kind), c, q), ", "))
		}
	}
	switch key {
	case "from":
		return c.who.From.String()
	case "networks":
		return q.Addr.String()
	case "names":
		return orNone(q.Name)
	case "lists":
		return targetOf(q)
	case "ports":
		return fmt.Sprint(q.Port)
	case "days", "hours":
		return q.Time.In(r.zone).Format("Mon 15:04 MST")
	}
	return "false"
}

func targetOf(q *Request) string {
	if q.Addr.IsValid() {
		return strings.TrimSpace(q.Name + " " + q.Addr.String())
	}
	return q.Name
}

func orNone(text string) string {
	if text == "" {
		return "none"
	}
	return text
}

// String says it in one line.
func (p Passed) String() string {
	where := fmt.Sprintf("%s:%d: %s: ", p.Rule.File, p.Rule.Line, p.Rule.Name)
	if p.Open {
		return where + p.Clause + " cannot be judged yet"
	}
	return fmt.Sprintf("%s%s does not match (%s)", where, p.Clause, p.Why)
}

// String says in one line what has been decided, and by which rule.
func (d Decision) String() string {
	text := d.Outcome.String()
	if d.Rule == nil {
		return text + ": no rule matches"
	}
	text = fmt.Sprintf("%s: %s:%d: %s", text, d.Rule.File, d.Rule.Line, d.Rule.Name)
	switch {
	case d.Unheld:
		text += ": it requires IPsec, and the path cannot be held to it"
	case d.Unprotected:
		text += ": it requires IPsec, which does not protect the path"
	case d.Outcome == Allow && d.Rule.Limit.RequireIPsec:
		text += ": while IPsec protects the path"
	}
	return text
}
