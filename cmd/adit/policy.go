package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/adit-net/adit/server"
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

// readPolicy reads rules, and looks whether they do what their examples say. Lists are
// named relative to the file.
func readPolicy(path string) (*policy.Policy, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, hint(fmt.Errorf("read policy: %w", err), "put the file back, or correct policy in %s", serverFile)
	}
	p, err := policy.Read(filepath.Base(path), text, policy.Options{
		Protocols: protocolGroups(),
		Open:      func(name string) (io.ReadCloser, error) { return os.Open(within(filepath.Dir(path), name)) },
		Lacks:     server.RulesLack(),
	})
	if err == nil {
		err = p.Check()
	}
	if err != nil {
		return nil, policyHints(err)
	}
	if len(p.Rules()) == 0 {
		return nil, hint(fmt.Errorf("%s has no rules", filepath.Base(path)), "without a rule nothing is allowed; see adit policy --help")
	}
	return p, nil
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

// liveRules are a running server's.
type liveRules struct {
	dir string

	mu      sync.Mutex
	named   string         // in server.toml
	current *policy.Policy // nil: there is none
}

// read reads the rules that server.toml names. A running server that has some does not
// go on without.
func (l *liveRules) read(named string) (*policy.Policy, error) {
	path, err := policyPath(l.dir, named)
	if errors.Is(err, errNoPolicy) {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.current != nil {
			return nil, hint(fmt.Errorf("%s has gone", policyFile), "put it back; to run without a policy, restart the server")
		}
		return nil, nil
	}
	return readPolicy(path)
}

// set makes rules the ones by which a server decides, once it is there.
func (l *liveRules) set(named string, p *policy.Policy, s *server.Server) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.named, l.current = named, p
	if s != nil {
		s.SetPolicy(p)
	}
}

// any tells whether there are rules.
func (l *liveRules) any() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.current != nil
}

// name is what server.toml names.
func (l *liveRules) name() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.named
}

// renew takes over what has changed in the rules, which are where server.toml names
// them now.
func (l *liveRules) renew(named string, s *server.Server) (*policy.Policy, error) {
	p, err := l.read(named)
	if err == nil && p == nil {
		err = hint(errNoPolicy, "write %s; see adit policy --help", filepath.Join(l.dir, policyFile))
	}
	if err == nil {
		l.set(named, p, s)
	}
	return p, err
}
