package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// config is what a config file decodes into: a pointer to a struct that holds
// the defaults.
type config interface {
	// validate reports each value that decodes but makes no sense.
	validate(report func(key, what, todo string))
}

// problem is one thing that is wrong in a config file.
type problem struct {
	file         string
	line, column int    // from 1; 0 if the file does not say it anywhere
	key          string // dotted; empty if the file is no TOML at all
	what         string
}

func (p problem) Error() string {
	place := p.file
	if p.line > 0 {
		place = fmt.Sprintf("%s:%d:%d", p.file, p.line, p.column)
	}
	if p.key == "" {
		return place + ": " + p.what
	}
	return fmt.Sprintf("%s: %s: %s", place, p.key, p.what)
}

// readConfig reads a config file over the defaults in c.
func readConfig(path string, c config) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read config: %w", err)
	}
	return parseConfig(filepath.Base(path), text, c)
}

// parseConfig decodes a config file's text over the defaults in c. Its error holds every
// [problem] of the file, each with its hint.
func parseConfig(file string, text []byte, c config) error {
	if err := toml.Unmarshal(text, c); err != nil {
		return wrongType(file, err, c)
	}
	places := locate(text)
	known := knownKeys(reflect.TypeOf(c).Elem(), "")
	var all []error
	for _, p := range places {
		if !isKnown(known, p.key) {
			p.file, p.what = file, "unknown key"
			all = append(all, hint(p, "%s", suggest(p.key, known)))
		}
	}
	c.validate(func(key, what, todo string) {
		p := problem{file: file, key: key, what: what}
		at := func(key string) int { return slices.IndexFunc(places, func(q problem) bool { return q.key == key }) }
		i := at(key)
		if table, _, ok := strings.Cut(key, "]"); ok && i < 0 {
			i = at(table + "]") // what is missing is missing there
		}
		if i >= 0 {
			p.line, p.column = places[i].line, places[i].column
		}
		all = append(all, hint(p, "%s", todo))
	})
	return errors.Join(all...)
}

// tableNumber is what locate puts behind the name of a table that may come several times.
var tableNumber = regexp.MustCompile(`\[\d+\]`)

// isKnown tells whether there is such a key. What is behind ".*" is a file's own choice.
func isKnown(known []string, key string) bool {
	key = tableNumber.ReplaceAllString(key, "")
	return slices.ContainsFunc(known, func(k string) bool {
		prefix, open := strings.CutSuffix(k, "*")
		return k == key || open && strings.HasPrefix(key, prefix)
	})
}

// wrongType says in a user's words why a text does not decode into c.
func wrongType(file string, err error, c config) error {
	decode, ok := errors.AsType[*toml.DecodeError](err)
	if !ok {
		return problem{file: file, what: err.Error()}
	}
	p := problem{file: file, key: strings.Join(decode.Key(), ".")}
	p.line, p.column = decode.Position()
	p.what = strings.TrimPrefix(decode.Error(), "toml: ")
	// The decoder speaks of Go's types.
	field := fieldOf(reflect.TypeOf(c).Elem(), decode.Key())
	if p.key == "" || field == nil || strings.Contains(p.what, "already defined") {
		return hint(p, "adit's config files are TOML 1.0: https://toml.io/en/v1.0.0")
	}
	p.what = "want " + kindWords(field)
	return hint(p, "write it like this: %s", example(p.key, field))
}

func kindWords(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[duration]():
		return "a duration in quotes"
	case tables(t) != t:
		return "tables in double brackets"
	case t.Kind() == reflect.Slice:
		return "a list of strings"
	case t.Kind() == reflect.Int:
		return "a whole number"
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() == reflect.Struct, t.Kind() == reflect.Map:
		return "a table"
	}
	return "a string in quotes"
}

func example(key string, t reflect.Type) string {
	name := key[strings.LastIndexByte(key, '.')+1:]
	switch {
	case t == reflect.TypeFor[duration]():
		return name + ` = "30s"`
	case tables(t) != t:
		return "[[" + key + "]]"
	case t.Kind() == reflect.Map:
		return name + ` = { "this" = "that" }`
	case t.Kind() == reflect.Slice:
		return name + ` = ["one", "two"]`
	case t.Kind() == reflect.Int:
		return name + " = 100"
	case t.Kind() == reflect.Bool:
		return name + " = true"
	case t.Kind() == reflect.Struct:
		return "[" + key + "]"
	}
	return name + ` = "text"`
}

// tables gives the type of each table if t is that of tables which may come several
// times, or t.
func tables(t reflect.Type) reflect.Type {
	if t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct {
		return t.Elem()
	}
	return t
}

// fieldOf gives the type of the field that a key names, or nil.
func fieldOf(t reflect.Type, key []string) reflect.Type {
	for _, name := range key {
		switch t = tables(t); t.Kind() {
		case reflect.Struct:
		case reflect.Map:
			return t.Elem()
		default:
			return nil
		}
		i := 0
		for i < t.NumField() && t.Field(i).Tag.Get("toml") != name {
			i++
		}
		if i == t.NumField() {
			return nil
		}
		if t = t.Field(i).Type; t.Kind() == reflect.Pointer {
			t = t.Elem() // which may be left out
		}
	}
	return t
}

// knownKeys gives the dotted name of each key that t has, tables included.
func knownKeys(t reflect.Type, prefix string) []string {
	var keys []string
	for i := range t.NumField() {
		f := t.Field(i)
		name, ok := f.Tag.Lookup("toml")
		if !ok {
			continue
		}
		keys = append(keys, prefix+name)
		switch t := tables(f.Type); t.Kind() {
		case reflect.Struct:
			keys = append(keys, knownKeys(t, prefix+name+".")...)
		case reflect.Map:
			keys = append(keys, prefix+name+".*")
		}
	}
	return keys
}

// suggest says what somebody who wrote an unknown key may have meant: a key
// that is spelled alike, or that has the same name in another table.
func suggest(key string, known []string) string {
	key = tableNumber.ReplaceAllString(key, "")
	last := func(s string) string { return s[strings.LastIndexByte(s, '.')+1:] }
	near := nearest(key, known)
	if near == "" {
		if i := slices.IndexFunc(known, func(k string) bool { return last(k) == last(key) }); i >= 0 {
			near = known[i]
		}
	}
	if near == "" {
		return "remove it; every key is in the example files under testdata/config"
	}
	if table := strings.LastIndexByte(near, '.'); table >= 0 {
		return fmt.Sprintf("did you mean %s in [%s]?", near[table+1:], near[:table])
	}
	return fmt.Sprintf("did you mean %s?", near)
}

// locate gives the place of every key and table that a valid TOML text sets. The first
// [[door]] is called door[1], and its keys door[1].listen and so on.
func locate(text []byte) []problem {
	var (
		p     unstable.Parser
		all   []problem
		table string
		count = make(map[string]int) // of tables that may come several times
	)
	p.Reset(text)
	var walk func(n *unstable.Node, prefix string)
	walk = func(n *unstable.Node, prefix string) {
		var parts []string
		at := problem{}
		for key := n.Key(); key.Next(); {
			if len(parts) == 0 {
				start := p.Shape(key.Node().Raw).Start
				at.line, at.column = start.Line, start.Column
			}
			parts = append(parts, string(key.Node().Data))
		}
		at.key = prefix + strings.Join(parts, ".")
		if n.Kind == unstable.ArrayTable {
			count[at.key]++
			at.key = fmt.Sprintf("%s[%d]", at.key, count[at.key])
		} else if n.Kind == unstable.Table && count[parts[0]] > 0 {
			at.key = fmt.Sprintf("%s[%d].%s", parts[0], count[parts[0]], strings.Join(parts[1:], "."))
		}
		all = append(all, at)
		if n.Kind != unstable.KeyValue {
			table = at.key + "."
			return
		}
		if n.Value().Kind == unstable.InlineTable {
			for inner := n.Value().Children(); inner.Next(); {
				walk(inner.Node(), at.key+".")
			}
		}
	}
	for p.NextExpression() {
		if n := p.Expression(); n.Kind == unstable.KeyValue {
			walk(n, table)
		} else if n.Kind == unstable.Table || n.Kind == unstable.ArrayTable {
			walk(n, "")
		}
	}
	return all
}

// duration is a [time.Duration] that config files write as Go does: "30s".
type duration struct{ time.Duration }

// UnmarshalText makes a negative duration of what is none, which validate then
// reports: the decoder would not say where in the file an error of this method is.
func (d *duration) UnmarshalText(text []byte) (err error) {
	if d.Duration, err = time.ParseDuration(string(text)); err != nil {
		d.Duration = -1
	}
	return nil
}

func (d duration) validate(key string, report func(key, what, todo string)) {
	if d.Duration < 0 {
		report(key, "not a duration", `write it with its unit: "30s"`)
	}
}

// quoteTOML spells a string for a config file that adit itself writes.
func quoteTOML(s string) string {
	if !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || r == '"' || r == '\\' || r == utf8.RuneError }) {
		return `"` + s + `"`
	}
	text, err := toml.Marshal(map[string]string{"v": s})
	if err != nil { // a Go string that is no UTF-8
		return `""`
	}
	return strings.TrimPrefix(strings.TrimSpace(string(text)), "v = ")
}
