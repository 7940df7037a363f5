package policy

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"
)

// expression is a rule's "when". It sees nothing but the request, ends soon and cannot
// fail.
type expression struct {
	root     *node
	aimed    bool // it speaks of what is asked for
	address  bool // it speaks of the address
	protocol bool // or the protocol
	timed    bool // or the time
}

func (e *expression) judge(r *Rule, c *Caller, q *Request) truth {
	switch {
	case e.address && !q.Addr.IsValid():
		return needsAddress
	case e.protocol && q.Protocol == "":
		return needsProtocol
	}
	return truthOf(e.root.holds(&facts{who: &c.who, request: q, now: q.Time.In(r.zone)}))
}

// facts are what an expression is judged by.
type facts struct {
	who     *Who
	request *Request
	now     time.Time
}

// A kind is of a node's value, and tells which of its methods gives it.
type kind byte

const (
	truthKind   kind = iota // holds
	numberKind              // number
	textKind                // text
	listKind                // list
	addressKind             // address
)

func (k kind) String() string {
	return [...]string{"true or false", "a number", "a text", "a list", "an address"}[k]
}

// node is a part of an expression. Which of its fields count depends on op.
type node struct {
	op          op
	kind        kind
	left, right *node

	integer  int
	words    []string // one, if it is a word or a text
	integers []int
	networks []netip.Prefix
	addr     netip.Addr
	pattern  *regexp.Regexp
}

// An op is what a node does.
type op byte

const (
	opConstant op = iota
	opWord
	opOr
	opAnd
	opNot
	opEqual
	opLess
	opIn
	opContains
	opStartsWith
	opEndsWith
	opMatches
	opPlus
	opMinus
	opTimes
	opLen
	opLower
)

func (n *node) holds(f *facts) bool {
	switch n.op {
	case opOr:
		return n.left.holds(f) || n.right.holds(f)
	case opAnd:
		return n.left.holds(f) && n.right.holds(f)
	case opNot:
		return !n.left.holds(f)
	case opEqual:
		return n.equal(f)
	case opLess:
		return n.left.number(f) < n.right.number(f)
	case opIn:
		return n.in(f)
	case opContains:
		return strings.Contains(n.left.text(f), n.right.text(f))
	case opStartsWith:
		return strings.HasPrefix(n.left.text(f), n.right.text(f))
	case opEndsWith:
		return strings.HasSuffix(n.left.text(f), n.right.text(f))
	case opMatches:
		return n.pattern.MatchString(n.left.text(f))
	}
	return n.integer != 0
}

func (n *node) equal(f *facts) bool {
	switch n.left.kind {
	case numberKind:
		return n.left.number(f) == n.right.number(f)
	case addressKind:
		return n.left.address(f) == n.right.address(f)
	}
	return n.left.text(f) == n.right.text(f)
}

func (n *node) in(f *facts) bool {
	switch n.left.kind {
	case numberKind:
		return slices.Contains(n.right.integers, n.left.number(f))
	case addressKind:
		a := n.left.address(f)
		return slices.ContainsFunc(n.right.networks, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	return slices.Contains(n.right.list(f), n.left.text(f))
}

func (n *node) number(f *facts) int {
	switch n.op {
	case opPlus:
		return n.left.number(f) + n.right.number(f)
	case opMinus:
		return n.left.number(f) - n.right.number(f)
	case opTimes:
		return n.left.number(f) * n.right.number(f)
	case opLen:
		if n.left.kind == listKind {
			return len(n.left.list(f))
		}
		return len(n.left.text(f))
	case opConstant:
		return n.integer
	}
	switch n.words[0] {
	case "port":
		return int(f.request.Port)
	case "hour":
		return f.now.Hour()
	}
	return f.now.Minute()
}

func (n *node) text(f *facts) string {
	switch n.op {
	case opLower:
		return strings.ToLower(n.left.text(f))
	case opConstant:
		return n.words[0]
	}
	switch n.words[0] {
	case "user":
		return f.who.User
	case "device":
		return f.who.Device
	case "door":
		return f.who.Door
	case "method":
		return f.who.Method
	case "cipher":
		return f.who.Cipher
	case "dialect":
		return f.request.Dialect
	case "command":
		return f.request.Command
	case "name":
		return f.request.Name
	case "protocol":
		return f.request.Protocol
	case "carries":
		return f.request.Carries
	}
	return dayNames[f.now.Weekday()]
}

func (n *node) list(f *facts) []string {
	switch {
	case n.op == opConstant:
		return n.words
	case n.words[0] == "groups":
		return f.who.Groups
	}
	return f.who.Protection
}

func (n *node) address(f *facts) netip.Addr {
	switch {
	case n.op == opConstant:
		return n.addr
	case n.words[0] == "from":
		return f.who.From
	}
	return f.request.Addr
}
