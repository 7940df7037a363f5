package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/vm"
)

// expression is a rule's "when". It sees nothing but the request.
type expression struct {
	program  *vm.Program
	aimed    bool // it speaks of what is asked for
	address  bool // it speaks of the address
	protocol bool // or the protocol
	timed    bool // or the time
}

// facts are the words of an expression.
type facts struct {
	User       string   `expr:"user"`
	Groups     []string `expr:"groups"`
	Device     string   `expr:"device"`
	From       string   `expr:"from"`
	Door       string   `expr:"door"`
	Method     string   `expr:"method"`
	Protection []string `expr:"protection"`
	Cipher     string   `expr:"cipher"`
	Dialect    string   `expr:"dialect"`
	Command    string   `expr:"command"`
	Name       string   `expr:"name"`
	Address    string   `expr:"address"`
	Port       int      `expr:"port"`
	Protocol   string   `expr:"protocol"`
	Carries    string   `expr:"carries"`
	Weekday    string   `expr:"weekday"`
	Hour       int      `expr:"hour"`
	Minute     int      `expr:"minute"`
}

// maxExpression is how many parts an expression may have.
const maxExpression = 1000

func compileWhen(text string) (*expression, error) {
	within := expr.Function("within", func(args ...any) (any, error) {
		return within(args[0].(string), args[1].(string))
	}, new(func(address, network string) bool))
	options := []expr.Option{
		expr.Env(facts{}), expr.AsBool(), expr.MaxNodes(maxExpression), expr.DisableAllBuiltins(), within,
	}
	// What these do ends soon, and depends on nothing but the words.
	for _, name := range []string{"len", "lower", "upper", "trim", "split", "indexOf", "hasPrefix", "hasSuffix", "abs"} {
		options = append(options, expr.EnableBuiltin(name))
	}
	program, err := expr.Compile(text, options...)
	if err != nil {
		message, _, _ := strings.Cut(err.Error(), "\n")
		return nil, fmt.Errorf("%s", message)
	}
	e := &expression{program: program}
	node := program.Node()
	ast.Walk(&node, e)
	return e, nil
}

// Visit notes of what the expression speaks.
func (e *expression) Visit(node *ast.Node) {
	word, ok := (*node).(*ast.IdentifierNode)
	if !ok {
		return
	}
	switch word.Value {
	case "name", "port":
		e.aimed = true
	case "address":
		e.aimed, e.address = true, true
	case "protocol", "carries":
		e.protocol = true
	case "weekday", "hour", "minute":
		e.timed = true
	case "$env": // all of them
		e.aimed, e.address, e.protocol, e.timed = true, true, true, true
	}
}

// within tells whether an address is in a network.
func within(address, network string) (bool, error) {
	p, err := parseNetwork(network)
	if err != nil {
		return false, err
	}
	a, err := netip.ParseAddr(address)
	return err == nil && p.Contains(a), nil
}

func (e *expression) judge(r *Rule, c *Caller, q *Request) truth {
	switch {
	case e.address && !q.Addr.IsValid():
		return needsAddress
	case e.protocol && q.Protocol == "":
		return needsProtocol
	}
	said, err := e.run(r, c, q)
	if err != nil {
		return broken
	}
	return truthOf(said)
}

func (e *expression) run(r *Rule, c *Caller, q *Request) (bool, error) {
	said, err := expr.Run(e.program, factsOf(r, c, q))
	if err != nil {
		message, _, _ := strings.Cut(err.Error(), "\n")
		return false, fmt.Errorf("judge when: %s", message)
	}
	return said == true, nil
}

// failure says why the expression has failed.
func (e *expression) failure(r *Rule, c *Caller, q *Request) error {
	_, err := e.run(r, c, q)
	return err
}

func factsOf(r *Rule, c *Caller, q *Request) facts {
	now := q.Time.In(r.zone)
	f := facts{
		User:       c.who.User,
		Groups:     slices.Clone(c.who.Groups),
		Device:     c.who.Device,
		Door:       c.who.Door,
		Method:     c.who.Method,
		Protection: slices.Clone(c.who.Protection),
		Cipher:     c.who.Cipher,
		Dialect:    q.Dialect,
		Command:    q.Command,
		Name:       q.Name,
		Port:       int(q.Port),
		Protocol:   q.Protocol,
		Carries:    q.Carries,
		Weekday:    dayNames[now.Weekday()],
		Hour:       now.Hour(),
		Minute:     now.Minute(),
	}
	if c.who.From.IsValid() {
		f.From = c.who.From.String()
	}
	if q.Addr.IsValid() {
		f.Address = q.Addr.String()
	}
	return f
}
