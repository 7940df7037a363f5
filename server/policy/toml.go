package policy

import (
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// The decoder of the TOML library does not say where a value is that makes no sense.
// So the file is read into a tree that knows all places.

// place is where something is in a file; from 1.
type place struct{ line, column int }

// value is one of a string, number, truth value or time as it is written, a list, a
// table, or tables that come several times.
type value struct {
	place
	kind   unstable.Kind
	text   string
	list   []value
	table  *table
	tables []*table
}

// table is what keys stand for, in the file's order.
type table struct {
	place
	entries []entry
	asked   []string // keys that somebody knows, whether they are there or not
}

type entry struct {
	place
	key string
	value
	read bool // by whoever knows the key
}

// find gives the entry of a key, or nil.
func (t *table) find(key string) *entry {
	for i := range t.entries {
		if t.entries[i].key == key {
			return &t.entries[i]
		}
	}
	return nil
}

// inner gives the table of a key, and makes it if need be: of tables that come several
// times it is the last one.
func (t *table) inner(key string, at place) *table {
	e := t.find(key)
	if e == nil {
		t.entries = append(t.entries, entry{place: at, key: key, value: value{place: at, kind: unstable.Table, table: &table{place: at}}})
		e = &t.entries[len(t.entries)-1]
	}
	if n := len(e.tables); n > 0 {
		return e.tables[n-1]
	}
	if e.table == nil {
		return &table{place: at} // the file has been found right; this is not reached
	}
	return e.table
}

// another begins one more of the tables of a key.
func (t *table) another(key string, at place) *table {
	e := t.find(key)
	if e == nil {
		t.entries = append(t.entries, entry{place: at, key: key, value: value{place: at, kind: unstable.ArrayTable}})
		e = &t.entries[len(t.entries)-1]
	}
	made := &table{place: at}
	e.tables = append(e.tables, made)
	return made
}

// parseTOML reads a file. Its error is a *Problem without a file.
func parseTOML(text []byte) (*table, error) {
	var all map[string]any
	if err := toml.Unmarshal(text, &all); err != nil {
		p := &Problem{What: strings.TrimPrefix(err.Error(), "toml: ")}
		if decode, ok := errors.AsType[*toml.DecodeError](err); ok {
			p.Line, p.Column = decode.Position()
		}
		return nil, p
	}
	b := treeBuilder{root: new(table), lines: []int{0}}
	for i, c := range text {
		if c == '\n' {
			b.lines = append(b.lines, i+1)
		}
	}
	b.Reset(text)
	at := b.root
	for b.NextExpression() {
		switch n := b.Expression(); n.Kind {
		case unstable.KeyValue:
			b.add(at, n)
		case unstable.Table, unstable.ArrayTable:
			at = b.header(n)
		}
	}
	return b.root, nil
}

type treeBuilder struct {
	unstable.Parser
	root  *table
	lines []int // where each begins
}

func (b *treeBuilder) at(r unstable.Range) place {
	offset := int(r.Offset)
	line, found := slices.BinarySearch(b.lines, offset)
	if found {
		line++
	}
	return place{line, offset - b.lines[line-1] + 1}
}

// path gives the parts of a dotted key.
func (b *treeBuilder) path(n *unstable.Node) (parts []string, at place) {
	for key := n.Key(); key.Next(); {
		if parts == nil {
			at = b.at(key.Node().Raw)
		}
		parts = append(parts, string(key.Node().Data))
	}
	return parts, at
}

// header gives the table that a line in brackets begins.
func (b *treeBuilder) header(n *unstable.Node) *table {
	parts, at := b.path(n)
	t, last := b.root, len(parts)-1
	for _, key := range parts[:last] {
		t = t.inner(key, at)
	}
	if n.Kind == unstable.ArrayTable {
		return t.another(parts[last], at)
	}
	return t.inner(parts[last], at)
}

func (b *treeBuilder) add(t *table, n *unstable.Node) {
	parts, at := b.path(n)
	last := len(parts) - 1
	for _, key := range parts[:last] {
		t = t.inner(key, at)
	}
	t.entries = append(t.entries, entry{place: at, key: parts[last], value: b.value(n.Value(), at)})
}

func (b *treeBuilder) value(n *unstable.Node, near place) value {
	v := value{place: near, kind: n.Kind, text: string(n.Data)}
	if n.Raw.Length > 0 {
		v.place = b.at(n.Raw)
	}
	switch n.Kind {
	case unstable.Array:
		for c := n.Children(); c.Next(); {
			v.list = append(v.list, b.value(c.Node(), v.place))
		}
	case unstable.InlineTable:
		v.table = &table{place: v.place}
		for c := n.Children(); c.Next(); {
			b.add(v.table, c.Node())
		}
	}
	return v
}

// Problem is one thing that is wrong in a policy's file.
type Problem struct {
	File         string
	Line, Column int    // from 1; 0 if no place is known
	What         string // is wrong
	Todo         string // what would be right; may be empty

	// Unknown is a key that there is not, and Known are those that there are in its
	// place. Both are empty if something else is wrong.
	Unknown string
	Known   []string
}

func (p *Problem) Error() string {
	where := p.File
	if p.Line > 0 {
		where += ":" + strconv.Itoa(p.Line) + ":" + strconv.Itoa(p.Column)
	}
	return where + ": " + p.What
}
