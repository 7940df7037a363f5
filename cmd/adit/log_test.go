package main

import (
	"bufio"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// logCalls are how lines get into the log, with the place of the first key among the arguments.
func logCalls() map[string]int {
	calls := map[string]int{"With": 0, "Log": 3}
	for _, level := range []string{"Debug", "Info", "Warn", "Error"} {
		calls[level], calls[level+"Context"] = 1, 2
	}
	return calls
}

// logKeys gives the keys that a file logs, with where.
func logKeys(t *testing.T, path string) map[string]string {
	t.Helper()
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, path, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	keys := make(map[string]string)
	note := func(e ast.Expr) {
		literal, ok := e.(*ast.BasicLit)
		if !ok || literal.Kind != token.STRING {
			t.Errorf("%s: a key is no string that can be read here", set.Position(e.Pos()))
			return
		}
		key, err := strconv.Unquote(literal.Value)
		if err != nil {
			t.Error(err)
		}
		keys[key] = set.Position(e.Pos()).String()
	}
	ast.Inspect(file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		method, ok := call.Fun.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if isSlog(method.X) && isAttr(method.Sel.Name) {
			note(call.Args[0])
		} else if first, logs := logCalls()[method.Sel.Name]; logs && isLogger(method.X) {
			for i := first; i < len(call.Args); i++ {
				arg := call.Args[i]
				if c, ok := arg.(*ast.CallExpr); ok && isAttrCall(c) || call.Ellipsis.IsValid() {
					continue // an attribute, whose key is noted by itself
				}
				note(arg)
				i++
			}
		}
		return true
	})
	return keys
}

func isSlog(e ast.Expr) bool {
	name, ok := e.(*ast.Ident)
	return ok && name.Name == "slog"
}

// isAttr tells whether a function of slog makes an attribute.
func isAttr(name string) bool {
	return slices.Contains([]string{"Any", "Bool", "Duration", "Float64", "Group", "Int", "Int64", "String", "Time", "Uint64"}, name)
}

func isAttrCall(c *ast.CallExpr) bool {
	method, ok := c.Fun.(*ast.SelectorExpr)
	return ok && isSlog(method.X) && isAttr(method.Sel.Name)
}

// isLogger tells whether something is a logger, by its name: log, Log, c.cfg.Log, or what With gives.
func isLogger(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.Ident:
		return regexp.MustCompile(`(?i)^(.*log|.*logger|journal)$`).MatchString(e.Name)
	case *ast.SelectorExpr:
		return isLogger(e.Sel)
	case *ast.CallExpr:
		if method, ok := e.Fun.(*ast.SelectorExpr); ok {
			return method.Sel.Name == "With" && isLogger(method.X) || isSlog(method.X) && method.Sel.Name == "Default"
		}
	}
	return false
}

// logTable reads what the keys of the log mean.
func logTable(t *testing.T) map[string]string {
	t.Helper()
	f, err := os.Open("../../testdata/log/keys.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	table := make(map[string]string)
	last := ""
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line := lines.Text()
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, meaning, ok := strings.Cut(line, " ")
		if !ok || strings.TrimSpace(meaning) == "" || key <= last {
			t.Errorf("the line %q has no meaning, or is not in order", line)
		}
		table[key], last = strings.TrimSpace(meaning), key
	}
	return table
}

// A collector of logs can rely on a key: it is always the same thing.
func TestLogHasNoKeysButThoseOfItsTable(t *testing.T) {
	used := make(map[string]string)
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") {
			maps.Copy(used, logKeys(t, path))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	table := logTable(t)
	spelling := regexp.MustCompile(`^[a-z][a-z0-9_]*$`)
	for _, key := range slices.Sorted(maps.Keys(used)) {
		if table[key] == "" {
			t.Errorf("%s: %s is not in the table of keys", used[key], key)
		}
		if !spelling.MatchString(key) {
			t.Errorf("%s: %s is no key", used[key], key)
		}
	}
	for key := range table {
		if used[key] == "" {
			t.Errorf("the table has %s, which nobody logs", key)
		}
	}
}
