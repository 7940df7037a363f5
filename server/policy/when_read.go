package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
)

// whenWords are the words of an expression.
var whenWords = map[string]kind{
	"user": textKind, "groups": listKind, "device": textKind, "from": addressKind, "door": textKind, "method": textKind,
	"protection": listKind, "cipher": textKind, "dialect": textKind, "command": textKind, "name": textKind,
	"address": addressKind, "port": numberKind, "protocol": textKind, "carries": textKind,
	"weekday": textKind, "hour": numberKind, "minute": numberKind,
}

// whenTexts spell the texts that some of the words may be, beside none.
var whenTexts = map[string]func(string) (string, error){
	"method": valueParsers[methods], "protection": valueParsers[protections], "dialect": valueParsers[dialects],
	"command": valueParsers[commands], "name": CanonicalName, "weekday": oneOf(dayNames[:]...),
}

// readWhen reads an expression.
func readWhen(text string) (*expression, error) {
	all, err := tokens(text)
	if err != nil {
		return nil, err
	}
	r := whenReader{tokens: all, e: new(expression)}
	if r.e.root, err = r.either(); err != nil {
		return nil, err
	}
	switch {
	case r.next().text != "":
		return nil, r.wrong("there is %s after its end", r.next())
	case r.e.root.kind != truthKind:
		return nil, fmt.Errorf("it is %s, not true or false", r.e.root.kind)
	}
	return r.e, nil
}

// whenReader reads an expression by recursive descent. What binds least comes first.
type whenReader struct {
	tokens []token
	e      *expression
}

func (r *whenReader) next() token { return r.tokens[0] }

// take takes the next token, if it is one of those. The one at the end stays.
func (r *whenReader) take(texts ...string) (token, bool) {
	t := r.next()
	if t.text == "" || len(texts) > 0 && !t.is(texts...) {
		return t, false
	}
	r.tokens = r.tokens[1:]
	return t, true
}

// wrong says what is wrong at the next token.
func (r *whenReader) wrong(format string, args ...any) error {
	return fmt.Errorf("at %d: %s", r.next().at, fmt.Sprintf(format, args...))
}

// chain reads operands with operators of one kind between them.
func (r *whenReader) chain(k kind, operand func() (*node, error), ops map[string]op) (*node, error) {
	left, err := operand()
	for err == nil {
		o, found := ops[r.next().text]
		if !found {
			return left, nil
		}
		t, _ := r.take()
		var right *node
		if right, err = operand(); err != nil {
			break
		}
		for _, n := range []*node{left, right} {
			if n.kind != k {
				return nil, fmt.Errorf("at %d: %s wants %s on both sides, not %s", t.at, t, k, n.kind)
			}
		}
		left = &node{op: o, kind: k, left: left, right: right}
	}
	return nil, err
}

func (r *whenReader) either() (*node, error) {
	return r.chain(truthKind, r.both, map[string]op{"or": opOr, "||": opOr})
}

func (r *whenReader) both() (*node, error) {
	return r.chain(truthKind, r.not, map[string]op{"and": opAnd, "&&": opAnd})
}

func (r *whenReader) not() (*node, error) {
	t, found := r.take("not", "!")
	if !found {
		return r.comparison()
	}
	n, err := r.not()
	if err != nil {
		return nil, err
	}
	if n.kind != truthKind {
		return nil, fmt.Errorf("at %d: %s wants what is true or false, not %s", t.at, t, n.kind)
	}
	return negated(n), nil
}

func negated(n *node) *node { return &node{op: opNot, kind: truthKind, left: n} }

func (r *whenReader) comparison() (*node, error) {
	left, err := r.sum()
	if err != nil {
		return nil, err
	}
	_, not := r.take("not")
	t, found := r.take("in", "==", "!=", "<", "<=", ">", ">=", "contains", "startsWith", "endsWith", "matches")
	switch {
	case not && t.text != "in":
		return nil, fmt.Errorf("at %d: there is %s after not; write not in", t.at, t)
	case !found:
		return left, nil
	}
	right, err := r.sum()
	if err != nil {
		return nil, err
	}
	n, err := comparisonOf(t.text, left, right)
	if err != nil {
		return nil, fmt.Errorf("at %d: %w", t.at, err)
	}
	if not {
		n = negated(n)
	}
	return n, nil
}

// comparisonOf makes a node of two sides.
func comparisonOf(sign string, left, right *node) (*node, error) {
	n := &node{kind: truthKind, left: left, right: right}
	switch sign {
	case "==", "!=":
		n.op = opEqual
		if err := n.pair(); err != nil {
			return nil, err
		}
		if sign == "!=" {
			return negated(n), nil
		}
		return n, nil
	case "<", ">", "<=", ">=":
		if left.kind != numberKind || right.kind != numberKind {
			return nil, fmt.Errorf("%s compares numbers", sign)
		}
		n.op = opLess
		if sign == ">" || sign == "<=" {
			n.left, n.right = right, left
		}
		if sign == "<=" || sign == ">=" {
			return negated(n), nil
		}
		return n, nil
	case "in":
		n.op = opIn
		return n, n.member()
	}
	n.op = map[string]op{"contains": opContains, "startsWith": opStartsWith, "endsWith": opEndsWith, "matches": opMatches}[sign]
	if left.kind != textKind || right.kind != textKind {
		return nil, fmt.Errorf("%s compares texts", sign)
	}
	if n.op == opMatches {
		return n, n.compilePattern()
	}
	return n, nil
}

// pair sees to it that two sides can be equal.
func (n *node) pair() error {
	if n.right.kind == addressKind && n.left.isText() {
		n.left, n.right = n.right, n.left
	}
	if n.left.kind == addressKind && n.right.isText() {
		return n.right.toAddress()
	}
	if k := n.left.kind; k != n.right.kind || k == listKind || k == truthKind {
		return fmt.Errorf("%s is never %s", n.left.kind, n.right.kind)
	}
	return n.spelled()
}

// spelled sees to it that a word can be the texts that it is compared with.
func (n *node) spelled() error {
	word, texts := n.left, n.right
	if word.op == opConstant {
		word, texts = texts, word
	}
	if word.op != opWord || texts.op != opConstant {
		return nil
	}
	parse, limited := whenTexts[word.words[0]]
	for _, text := range texts.words {
		if !limited || text == "" {
			continue
		}
		as, err := parse(text)
		if err != nil {
			return err
		}
		if as != text {
			return fmt.Errorf("%s is never %q; write %q", word.words[0], text, as)
		}
	}
	return nil
}

// member sees to it that the left side can be in the right one.
func (n *node) member() error {
	list := n.right
	switch {
	case n.left.kind == addressKind && (list.isText() || list.kind == listKind && list.op == opConstant):
		for _, w := range list.words {
			p, err := parseNetwork(w)
			if err != nil {
				return err
			}
			list.networks = append(list.networks, p)
		}
		if len(list.integers) == 0 {
			return nil
		}
	case n.left.kind == textKind && list.kind == listKind && len(list.integers) == 0:
		return n.spelled()
	case n.left.kind == numberKind && list.kind == listKind && list.op == opConstant && len(list.words) == 0:
		return nil
	}
	return fmt.Errorf("%s is never in what is behind in", n.left.kind)
}

func (n *node) isText() bool { return n.op == opConstant && n.kind == textKind }

// toAddress makes a text an address; an empty one is none.
func (n *node) toAddress() error {
	n.kind = addressKind
	if n.words[0] == "" {
		return nil
	}
	a, err := netip.ParseAddr(n.words[0])
	n.addr = a.Unmap()
	if err != nil || a.Zone() != "" {
		return fmt.Errorf("%q is no address", n.words[0])
	}
	return nil
}

func (n *node) compilePattern() (err error) {
	if !n.right.isText() {
		return errors.New("matches wants a pattern in quotes")
	}
	if n.pattern, err = regexp.Compile(n.right.words[0]); err != nil {
		return fmt.Errorf("%q is no pattern: %w", n.right.words[0], err)
	}
	return nil
}

func (r *whenReader) sum() (*node, error) {
	return r.chain(numberKind, r.product, map[string]op{"+": opPlus, "-": opMinus})
}

func (r *whenReader) product() (*node, error) {
	return r.chain(numberKind, r.operand, map[string]op{"*": opTimes})
}

func (r *whenReader) operand() (*node, error) {
	t, _ := r.take()
	switch {
	case t.is("("):
		n, err := r.either()
		if err != nil {
			return nil, err
		}
		return n, r.expect(")")
	case t.is("["):
		return r.list()
	case t.is("len", "lower"):
		return r.call(t)
	case t.is("true"):
		return &node{kind: truthKind, integer: 1}, nil
	case t.is("false"):
		return &node{kind: truthKind}, nil
	}
	if k, found := whenWords[t.text]; found {
		r.speaks(t.text)
		return &node{op: opWord, kind: k, words: []string{t.text}}, nil
	}
	return literal(t)
}

func (r *whenReader) expect(text string) error {
	if _, found := r.take(text); !found {
		return r.wrong("there is %s, not %s", r.next(), text)
	}
	return nil
}

// speaks notes of what the expression speaks.
func (r *whenReader) speaks(word string) {
	switch word {
	case "name", "port":
		r.e.aimed = true
	case "address":
		r.e.aimed, r.e.address = true, true
	case "protocol", "carries":
		r.e.protocol = true
	case "weekday", "hour", "minute":
		r.e.timed = true
	}
}

// literal reads a text or a number.
func literal(t token) (*node, error) {
	if t.text == "" {
		return nil, fmt.Errorf("at %d: it is not complete", t.at)
	}
	switch c := t.text[0]; {
	case c == '\'' && len(t.text) > 1 && t.text[len(t.text)-1] == c:
		return &node{kind: textKind, words: []string{t.text[1 : len(t.text)-1]}}, nil
	case c == '"':
		if text, err := strconv.Unquote(t.text); err == nil {
			return &node{kind: textKind, words: []string{text}}, nil
		}
		return nil, fmt.Errorf("at %d: %s is no text in quotes", t.at, t)
	case '0' <= c && c <= '9':
		if number, err := strconv.ParseUint(t.text, 10, 31); err == nil {
			return &node{kind: numberKind, integer: int(number)}, nil
		}
	}
	return nil, fmt.Errorf("at %d: there is no %s in expressions", t.at, t)
}

// list reads a list of texts or of numbers, of which the bracket is taken.
func (r *whenReader) list() (*node, error) {
	n := &node{kind: listKind}
	for {
		if _, found := r.take("]"); found {
			return n, nil
		}
		t, _ := r.take()
		_, word := whenWords[t.text]
		one, err := literal(t)
		switch {
		case word:
			return nil, fmt.Errorf("at %d: a list has texts or numbers, not %s", t.at, t)
		case err != nil:
			return nil, err
		case one.kind == numberKind:
			n.integers = append(n.integers, one.integer)
		default:
			n.words = append(n.words, one.words...)
		}
		if _, found := r.take(","); !found && !r.next().is("]") {
			return nil, r.wrong("there is %s in a list", r.next())
		}
	}
}

// call reads what a function is applied to.
func (r *whenReader) call(name token) (*node, error) {
	if err := r.expect("("); err != nil {
		return nil, err
	}
	n, err := r.sum()
	if err != nil {
		return nil, err
	}
	switch {
	case name.is("len") && (n.kind == textKind || n.kind == listKind && n.op == opWord):
		n = &node{op: opLen, kind: numberKind, left: n}
	case name.is("lower") && n.kind == textKind:
		n = &node{op: opLower, kind: textKind, left: n}
	default:
		return nil, fmt.Errorf("at %d: %s is not for %s", name.at, name, n.kind)
	}
	return n, r.expect(")")
}
