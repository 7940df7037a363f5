package main

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/adit-net/adit/"

// arrows says for each package which of our packages it may import. A new
// package gets its line here together with its first code.
var arrows = map[string][]string{
	"client":            {"client/netwatch", "tunnel", "tunnel/socks", "tunnel/udp", "tunnel/relay"},
	"client/netwatch":   {},
	"server":            {"tunnel", "tunnel/mmsg", "tunnel/nowait", "tunnel/socks", "tunnel/udp", "tunnel/relay", "server/policy", "server/sniff", "server/shape", "server/quota", "server/audit", "server/decide", "server/users", "server/metrics"},
	"server/guest":      {"server", "server/policy", "server/users"},
	"server/door":       {"server", "server/policy", "server/users", "tunnel/socks"},
	"server/decide":     {"server/policy", "server/httpd", "server/metrics"},
	"server/httpd":      {},
	"server/policy":     {},
	"server/sniff":      {},
	"server/shape":      {},
	"server/quota":      {},
	"server/audit":      {"tunnel/giveway"},
	"server/users":      {"crypto/keys"},
	"server/metrics":    {},
	"server/web":        {"server/policy", "server/audit", "server/users", "server/metrics", "server/httpd"},
	"tunnel":            {"tunnel/resume"},
	"tunnel/resume":     {"tunnel/giveway"},
	"tunnel/giveway":    {},
	"tunnel/mmsg":       {},
	"tunnel/nowait":     {},
	"tunnel/socks":      {"tunnel/mmsg", "tunnel/nowait", "tunnel/relay"},
	"tunnel/udp":        {"tunnel", "tunnel/socks"},
	"tunnel/relay":      {"tunnel/nowait"},
	"tunnel/tunneltest": {"tunnel"},
	"crypto/keys":       {},
	"crypto/tlslink":    {"crypto/keys", "tunnel/nowait"},
	"crypto/wglink":     {"crypto/keys"},
	"crypto/ipsec":      {},
	"crypto/ipseclink":  {"crypto/keys", "tunnel/nowait"},
	"crypto/gss":        {"crypto/gss/cfx"},
	"crypto/gss/cfx":    {},
	"cmd/adit/bench":    {},
	"cmd/adit/e2e/wan":  {},
}

// goPackage is what `go list` tells of a package.
type goPackage struct {
	ImportPath                string
	Imports                   []string
	TestImports, XTestImports []string
}

func goList(t *testing.T, args ...string) (packages []goPackage) {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Imports,TestImports,XTestImports"}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v", cmd, err)
	}
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
}

// ours returns the imports that are of this module, without its path.
func ours(imports []string) (names []string) {
	for _, path := range imports {
		if name, ok := strings.CutPrefix(path, module); ok {
			names = append(names, name)
		}
	}
	return names
}

func TestPackagesImportOnlyWhatTheirArrowsAllow(t *testing.T) {
	for _, p := range goList(t, module+"...") {
		name := strings.TrimPrefix(p.ImportPath, module)
		if name == "cmd/adit" || name == "cmd/adit/e2e" {
			continue // the only places that wire
		}
		allowed, known := arrows[name]
		if !known {
			t.Errorf("package %s has no line in the table of arrows", name)
			continue
		}
		for _, dep := range ours(p.Imports) {
			if !slices.Contains(allowed, dep) {
				t.Errorf("package %s imports %s", name, dep)
			}
		}
	}
}

func TestNothingImportsCommands(t *testing.T) {
	for _, p := range goList(t, module+"...") {
		for _, dep := range ours(slices.Concat(p.Imports, p.TestImports, p.XTestImports)) {
			// What stands below a command is a part of it.
			if strings.HasPrefix(dep, "cmd/") && !strings.HasPrefix(module+dep, p.ImportPath+"/") {
				t.Errorf("package %s, or a test of it, imports %s", p.ImportPath, dep)
			}
		}
	}
}

// The tests of the two sides may not meet either: what needs both is tested
// where they are wired.
func TestClientAndServerDoNotKnowEachOther(t *testing.T) {
	for side, other := range map[string]string{"client": "server", "server": "client"} {
		for _, p := range goList(t, module+side+"/...") {
			for _, dep := range ours(slices.Concat(p.Imports, p.TestImports, p.XTestImports)) {
				if dep == other || strings.HasPrefix(dep, other+"/") {
					t.Errorf("package %s, or a test of it, imports %s", p.ImportPath, dep)
				}
			}
		}
	}
}

// A program that embeds the client carries no store, no web page and no Kerberos.
func TestClientLinksNothingOfTheServer(t *testing.T) {
	heavy := []string{
		module + "server", "database/sql", "html/template", "modernc.org/", "github.com/jcmturner/", "github.com/spf13/", "github.com/pressly/",
	}
	for _, p := range goList(t, "-deps", module+"client", module+"crypto/keys", module+"crypto/tlslink", module+"crypto/gss/cfx", module+"tunnel/...") {
		for _, prefix := range heavy {
			if strings.HasPrefix(p.ImportPath, prefix) {
				t.Errorf("a client links %s", p.ImportPath)
			}
		}
	}
}

func TestTopLevelHoldsOnlyWhatBelongsThere(t *testing.T) {
	allowed := []string{
		"client", "server", "tunnel", "crypto", "cmd", "testdata", "go.mod", "go.sum", "README.md",
		"LICENSE", "CHANGELOG.md", "Makefile", ".ci", ".gitignore", ".golangci.yml",
		".git", "bin", "adit", // not in the repository
	}
	entries, err := os.ReadDir("../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !slices.Contains(allowed, e.Name()) {
			t.Errorf("%s stands at the top level", e.Name())
		}
	}
	// A package named crypto would shadow the standard one.
	for _, p := range goList(t, module+"crypto/...") {
		if p.ImportPath == module+"crypto" {
			t.Error("crypto holds a package itself")
		}
	}
}
