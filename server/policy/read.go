package policy

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2/unstable"
)

// Options say what a policy may speak of. The zero value knows no application protocol
// and opens no file.
type Options struct {
	// Protocols are the application protocols there are, each with its group, which a
	// rule names with an @.
	Protocols map[string]string

	// Open opens the file of a list.
	Open func(name string) (io.ReadCloser, error)
}

// Read reads a policy. The file's name is for messages. The error joins a [*Problem] for
// everything that is wrong.
func Read(file string, text []byte, o Options) (*Policy, error) {
	root, err := parseTOML(text)
	if err != nil {
		if p, ok := errors.AsType[*Problem](err); ok {
			p.File = file
		}
		return nil, err
	}
	r := reader{file: file, options: o, zone: time.UTC, lists: make(map[string]*List), policy: &Policy{file: file, groups: make(map[string][]string)}}
	r.document(root)
	if len(r.problems) > 0 {
		slices.SortStableFunc(r.problems, func(a, b *Problem) int { return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column)) })
		all := make([]error, len(r.problems))
		for i, p := range r.problems {
			all[i] = p
		}
		return nil, errors.Join(all...)
	}
	r.policy.compile()
	return r.policy, nil
}

// reader makes a policy of a tree, and notes what is wrong.
type reader struct {
	file     string
	options  Options
	zone     *time.Location // where a rule does not say
	lists    map[string]*List
	policy   *Policy
	problems []*Problem
}

func (r *reader) wrong(at place, todo, format string, args ...any) {
	r.problems = append(r.problems, &Problem{File: r.file, Line: at.line, Column: at.column, What: fmt.Sprintf(format, args...), Todo: todo})
}

func (r *reader) document(t *table) {
	r.zone = r.readZone(t, r.zone)
	r.readGroups(t)
	r.readLists(t)
	names := make(map[string]bool)
	for _, rule := range r.tablesOf(t, "rule") {
		made := r.rule(rule)
		if names[made.Name] {
			r.wrong(rule.place, "", "there are two rules with the name %q", made.Name)
		}
		names[made.Name] = true
		r.policy.rules = append(r.policy.rules, made)
	}
	for _, one := range r.tablesOf(t, "expect") {
		e := r.expectation(one)
		if e.rule != "" && !names[e.rule] {
			r.wrong(one.place, "", "there is no rule with the name %q", e.rule)
		}
		if e.request.Time.IsZero() && slices.ContainsFunc(r.policy.rules, (*Rule).timed) {
			r.wrong(one.place, "write at = 2026-07-01T09:30:00+02:00", "the example does not say when, and there are rules that want to know")
		}
		r.policy.expected = append(r.policy.expected, e)
	}
	r.leftOver(t, "")
}

// leftOver finds the keys that nobody has read.
func (r *reader) leftOver(t *table, in string) {
	for _, e := range t.entries {
		if !e.read {
			r.wrong(e.place, "", "unknown key %s", in+e.key)
			p := r.problems[len(r.problems)-1]
			p.Unknown, p.Known = e.key, slices.Compact(slices.Sorted(slices.Values(t.asked)))
		}
	}
}

// take gives the value of a key if there is one and it is of a kind.
func (r *reader) take(t *table, key string, kind unstable.Kind, want string) (*value, bool) {
	t.asked = append(t.asked, key)
	e := t.find(key)
	if e == nil {
		return nil, false
	}
	e.read = true
	if e.kind != kind && !(kind == unstable.Table && e.kind == unstable.InlineTable) {
		r.wrong(e.value.place, "", "%s: want %s", key, want)
		return nil, false
	}
	return &e.value, true
}

func (r *reader) text(t *table, key string) (text string, at place, ok bool) {
	v, ok := r.take(t, key, unstable.String, "a text in quotes")
	if !ok {
		return "", t.place, false
	}
	if v.text == "" {
		r.wrong(v.place, "leave the key out", "%s is empty", key)
		return "", v.place, false
	}
	return v.text, v.place, true
}

func (r *reader) texts(t *table, key string) []value {
	v, ok := r.take(t, key, unstable.Array, `a list of texts: ["one", "two"]`)
	if !ok {
		return nil
	}
	if len(v.list) == 0 {
		r.wrong(v.place, "leave the key out", "%s is empty", key)
	}
	var all []value
	for _, one := range v.list {
		if one.kind != unstable.String {
			r.wrong(one.place, "", "%s: want texts in quotes", key)
			continue
		}
		all = append(all, one)
	}
	return all
}

func (r *reader) tablesOf(t *table, key string) []*table {
	v, ok := r.take(t, key, unstable.ArrayTable, "tables in double brackets: [["+key+"]]")
	if !ok {
		return nil
	}
	return v.tables
}

func (r *reader) readZone(t *table, otherwise *time.Location) *time.Location {
	text, at, ok := r.text(t, "zone")
	if !ok {
		return otherwise
	}
	zone, err := time.LoadLocation(text)
	if err != nil || text == "Local" {
		r.wrong(at, `write a name such as "Europe/Berlin", or "UTC"`, "there is no time zone %q", text)
		return otherwise
	}
	return zone
}

func (r *reader) readGroups(t *table) {
	v, ok := r.take(t, "groups", unstable.Table, "a table: [groups]")
	if !ok {
		return
	}
	for _, e := range slices.Clone(v.table.entries) {
		for _, user := range r.texts(v.table, e.key) {
			if _, err := anyWord(user.text); err != nil || strings.HasPrefix(user.text, "!") {
				r.wrong(user.place, "", "groups: %s: %q is no user", e.key, user.text)
			}
			r.policy.groups[user.text] = append(r.policy.groups[user.text], e.key)
		}
	}
}

func (r *reader) readLists(t *table) {
	v, ok := r.take(t, "lists", unstable.Table, "a table: [lists]")
	if !ok {
		return
	}
	for _, e := range slices.Clone(v.table.entries) {
		file, at, ok := r.text(v.table, e.key)
		if !ok {
			continue
		}
		list, err := r.openList(file)
		if err != nil {
			r.wrong(at, "", "read list %s: %v", e.key, err)
		}
		r.lists[e.key] = list // one that cannot be read is known all the same
	}
}

func (r *reader) openList(file string) (*List, error) {
	if r.options.Open == nil {
		return nil, errors.ErrUnsupported
	}
	f, err := r.options.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return ReadList(file, f)
}

// clauseOf reads the words of a clause. A ! before a word makes it an exception.
func clauseOf[T any](r *reader, t *table, key string, parse func(string) (T, error)) (w words[T]) {
	for _, v := range r.texts(t, key) {
		text, not := strings.CutPrefix(v.text, "!")
		word, err := parse(text)
		if err != nil {
			r.wrong(v.place, "", "%s: %v", key, err)
			continue
		}
		w.add(word, not)
	}
	return w
}

// oneOf reads one of some words.
func oneOf(known ...string) func(string) (string, error) {
	return func(text string) (string, error) {
		if slices.Contains(known, text) {
			return text, nil
		}
		return "", fmt.Errorf("%q is none of %s", text, strings.Join(known, ", "))
	}
}

// anyWord reads a word of which nothing is known.
func anyWord(text string) (string, error) {
	if text == "" || text != strings.TrimSpace(text) {
		return "", fmt.Errorf("%q is no name", text)
	}
	return text, nil
}

var valueParsers = [valueKinds]func(string) (string, error){
	users: anyWord, groups: anyWord, devices: anyWord, doors: anyWord, ciphers: anyWord,
	methods:     oneOf("device", "guest", "password", "gssapi", "certificate", "ike", "network"),
	protections: ParseProtection,
	dialects:    oneOf("socks4", "socks4a", "socks5", "socks6", "http-connect", "http", "wireguard", "direct"),
	commands:    oneOf(commandWords[:]...),
	asked:       oneOf("name", "address"),
	signs:       oneOf("other-host", "misplaced", "doubtful", "none"),
}

func (r *reader) rule(t *table) *Rule {
	rule := &Rule{File: r.file, Line: t.line, zone: r.readZone(t, r.zone)}
	var named bool
	if rule.Name, _, named = r.text(t, "name"); !named {
		rule.Name = "line " + strconv.Itoa(t.line)
	}
	for kind, parse := range valueParsers {
		if kind != int(protocols) {
			rule.values[kind] = clauseOf(r, t, valueKeys[kind], parse)
		}
	}
	rule.values[protocols] = r.protocols(t)
	rule.from = clauseOf(r, t, "from", parseNetwork)
	rule.networks = clauseOf(r, t, "networks", parseNetwork)
	rule.names = clauseOf(r, t, "names", parsePattern)
	rule.ports = clauseOf(r, t, "ports", parsePorts)
	rule.lists = clauseOf(r, t, "lists", r.list)
	rule.days = clauseOf(r, t, "days", parseDays)
	rule.hours = clauseOf(r, t, "hours", parseHours)
	if text, at, ok := r.text(t, "when"); ok {
		var err error
		if rule.when, err = readWhen(text); err != nil {
			r.wrong(at, "", "when: %v", err)
		}
	}
	rule.Allow = r.then(t)
	r.limit(t, rule)
	r.leftOver(t, "rule.")
	return rule
}

func (r *reader) then(t *table) (allow bool) {
	text, at, ok := r.text(t, "then")
	if !ok && t.find("then") == nil {
		r.wrong(at, `write then = "allow" or then = "deny"`, "the rule does not say what to do")
	}
	if ok && text != "allow" && text != "deny" {
		r.wrong(at, `write then = "allow" or then = "deny"`, "then: %q is neither allow nor deny", text)
	}
	return text == "allow"
}

// protocols reads the names of protocols, and those of groups as the protocols in them.
func (r *reader) protocols(t *table) (w words[string]) {
	known := r.options.Protocols
	all := clauseOf(r, t, "protocols", func(text string) ([]string, error) {
		group, grouped := strings.CutPrefix(text, "@")
		_, one := known[text]
		var members []string
		for name, its := range known {
			if grouped && its == group || one && name == text {
				members = append(members, name)
			}
		}
		if text == "unknown" {
			members = append(members, text)
		}
		if len(members) == 0 {
			return nil, fmt.Errorf("there is no protocol or group %q", text)
		}
		return members, nil
	})
	w.is, w.not = slices.Concat(all.is...), slices.Concat(all.not...)
	return w
}

func (r *reader) list(name string) (namedList, error) {
	list, ok := r.lists[name]
	if !ok {
		return namedList{}, fmt.Errorf("[lists] has no %q, but %s", name, strings.Join(slices.Sorted(maps.Keys(r.lists)), ", "))
	}
	if list == nil {
		list = new(List) // that it could not be read has been said
	}
	return namedList{list, name}, nil
}
