package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/adit-net/adit/server"
	"github.com/adit-net/adit/server/policy"
)

// policyConfig says where the rules are.
type policyConfig struct {
	File  string `toml:"file"`  // empty: policyFile, if that is there
	Watch bool   `toml:"watch"` // take over what changes in it
}

// liveRules are a running server's.
type liveRules struct {
	dir string

	// changing is held from before rules are read until they are in force, so that those
	// which were read last are.
	changing sync.Mutex

	mu      sync.Mutex
	config  policyConfig
	current *policy.Policy // nil: there is none
	tried   sources        // of what was read last, if it was refused, too
	now     sources        // as watching has last seen them
}

// readRules are rules that are not in force yet.
type readRules struct {
	config policyConfig
	policy *policy.Policy // nil: there is none
	files  sources
}

// read reads the rules that server.toml names. A running server that has some does not
// go on without. l.changing is held.
func (l *liveRules) read(cfg policyConfig) (r readRules, err error) {
	r.config = cfg
	path, err := policyPath(l.dir, cfg.File)
	switch {
	case err == nil:
		r.policy, r.files, err = readPolicyFrom(path)
	case errors.Is(err, errNoPolicy):
		err = nil
		r.files = sources{filepath.Join(l.dir, policyFile): nil}
		if l.any() {
			err = hint(fmt.Errorf("%s has gone", policyFile), "put it back; to run without a policy, restart the server")
		}
	}
	if err != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		for path := range l.tried {
			if _, read := r.files[path]; !read {
				r.files.note(path) // a broken file does not say which lists it has
			}
		}
		l.tried = r.files
	}
	return r, err
}

// set makes rules the ones by which a server decides, once it is there. l.changing is
// held.
func (l *liveRules) set(r readRules, s *server.Server) {
	l.mu.Lock()
	l.config, l.current, l.tried = r.config, r.policy, r.files
	l.mu.Unlock()
	if s != nil {
		s.SetPolicy(r.policy)
	}
}

// any tells whether there are rules.
func (l *liveRules) any() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.current != nil
}

// configured is what server.toml says of them.
func (l *liveRules) configured() policyConfig {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.config
}

// renew takes over what has changed in the rules, which are where cfg says.
func (l *liveRules) renew(cfg policyConfig, s *server.Server) (*policy.Policy, error) {
	l.changing.Lock()
	defer l.changing.Unlock()
	r, err := l.read(cfg)
	if err == nil && r.policy == nil {
		err = hint(errNoPolicy, "write %s; see adit policy --help", filepath.Join(l.dir, policyFile))
	}
	if err != nil {
		return nil, err
	}
	l.set(r, s)
	return r.policy, nil
}

// changed tells whether the files are other ones than those that were read last, and have
// been left alone since it was last asked: what somebody is still writing is not read.
func (l *liveRules) changed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := make(sources)
	for path := range l.tried {
		now.note(path)
	}
	settled := maps.EqualFunc(now, l.now, unchanged)
	l.now = now
	return settled && !maps.EqualFunc(now, l.tried, unchanged)
}

// unchanged tells whether a file is as it was.
func unchanged(a, b fs.FileInfo) bool {
	if a == nil || b == nil {
		return a == b
	}
	return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size() && a.Mode() == b.Mode()
}

// policyLook is how often a server looks whether its policy's files have changed.
const policyLook = time.Second

// watchPolicy takes over the policy whenever its files have changed, until ctx ends.
func (p *serverProcess) watchPolicy(ctx context.Context) error {
	tick := time.NewTicker(policyLook)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		cfg := p.rules.configured()
		// A process that is leaving is told by its successor.
		if cfg.Watch && !p.succession.isLeaving() && p.rules.changed() {
			_, _ = p.renewPolicy(ctx, cfg) // which has logged it
		}
	}
}
