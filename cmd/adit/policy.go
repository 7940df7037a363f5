package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/adit-net/adit/server/policy"
	"github.com/adit-net/adit/server/sniff"
)

// policyFile is where rules are that server.toml does not name.
const policyFile = "policy.toml"

// errNoPolicy says that a server has no rules.
var errNoPolicy = errors.New("there is no policy")

// policyPath gives where a server's rules are, or errNoPolicy. That a file which
// server.toml names is not there is for whoever reads it to find out.
func policyPath(dir, named string) (string, error) {
	if named != "" {
		return within(dir, named), nil
	}
	path := filepath.Join(dir, policyFile)
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return "", errNoPolicy
	}
	return path, nil
}

// sources are the files that a policy was read from, as they were just before; nil: it
// was not there.
type sources map[string]fs.FileInfo

func (s sources) note(path string) {
	info, err := os.Stat(path)
	if err != nil {
		info = nil
	}
	s[path] = info
}

// readPolicy reads rules, and looks whether they do what their examples say. Lists are
// named relative to the file.
func readPolicy(path string) (*policy.Policy, error) {
	p, _, err := readPolicyFrom(path)
	return p, err
}

// readPolicyFrom is readPolicy that gives the files, too, as far as they are known if it
// fails.
func readPolicyFrom(path string) (*policy.Policy, sources, error) {
	files := make(sources)
	files.note(path)
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, files, hint(fmt.Errorf("read policy: %w", err), "put the file back, or correct file under [policy] in %s", serverFile)
	}
	p, err := policy.Read(filepath.Base(path), text, policy.Options{
		Protocols: protocolGroups(),
		Open: func(name string) (io.ReadCloser, error) {
			list := within(filepath.Dir(path), name)
			files.note(list)
			return os.Open(list)
		},
	})
	if err == nil {
		err = p.Check()
	}
	if err != nil {
		return nil, files, policyHints(err)
	}
	if len(p.Rules()) == 0 {
		return nil, files, hint(fmt.Errorf("%s has no rules", filepath.Base(path)), "without a rule nothing is allowed; see adit policy --help")
	}
	return p, files, nil
}

// protocolGroups gives the application protocols that rules may name.
func protocolGroups() map[string]string {
	all := make(map[string]string)
	for info := range sniff.Protocols() {
		all[string(info.Name)] = string(info.Group)
	}
	return all
}

// policyHints says of everything that is wrong with a policy what to do about it.
func policyHints(err error) error {
	many, ok := err.(interface{ Unwrap() []error })
	if !ok {
		many = joined{err}
	}
	var all []error
	for _, one := range many.Unwrap() {
		if p, ok := errors.AsType[*policy.Problem](one); ok {
			if near := nearest(p.Unknown, p.Known); p.Unknown != "" && near != "" {
				p.Todo = "did you mean " + near + "?"
			}
			if p.Todo != "" {
				one = hint(one, "%s", p.Todo)
			}
		}
		all = append(all, one)
	}
	return errors.Join(all...)
}

// joined is one error as if it were several.
type joined struct{ error }

func (j joined) Unwrap() []error { return []error{j.error} }
