package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/adit-net/adit/server"
)

const listed = "[lists]\nads = \"ads\"\n[[rule]]\nname = \"ads\"\nlists = [\"ads\"]\nthen = \"deny\"\n"

// newLiveRules gives the rules of a directory with a policy that has a list.
func newLiveRules(t *testing.T) *liveRules {
	t.Helper()
	l := &liveRules{dir: t.TempDir(), tried: make(sources)}
	put(t, l, "ads", "ads.example.net\n")
	put(t, l, policyFile, listed)
	if _, err := l.renew(policyConfig{}, nil); err != nil {
		t.Fatal(err)
	}
	return l
}

func put(t *testing.T, l *liveRules, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(l.dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// settles looks as often as it takes to see that nobody writes, and tells what comes of it.
func settles(l *liveRules) bool {
	l.changed()
	return l.changed()
}

func TestWatchSeesThatTheFileOrAListHasChanged(t *testing.T) {
	l := newLiveRules(t)
	if settles(l) {
		t.Fatal("nothing has changed")
	}
	for name, change := range map[string]func(path string) error{
		"written":  func(path string) error { return os.WriteFile(path, []byte("# more\n"+listed), 0o600) },
		"replaced": func(path string) error { return replace(path, listed) },
		"removed":  os.Remove,
		"made":     func(path string) error { return os.WriteFile(path, []byte(listed), 0o600) },
	} {
		for _, file := range []string{policyFile, "ads"} {
			l := newLiveRules(t)
			path := filepath.Join(l.dir, file)
			if name == "made" {
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
				if _, err := l.renew(policyConfig{}, nil); err == nil {
					t.Fatalf("without %s the policy can be read", file)
				}
				if settles(l) {
					t.Errorf("what was refused is looked at again, though nothing has changed")
				}
			}
			if err := change(path); err != nil {
				t.Fatal(err)
			}
			if !settles(l) {
				t.Errorf("nobody sees that %s was %s", file, name)
			}
		}
	}
}

// replace puts a new file in a file's place, as editors do.
func replace(path, text string) error {
	f, err := os.CreateTemp(filepath.Dir(path), "")
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func TestWatchWaitsForWhoeverIsStillWriting(t *testing.T) {
	l := newLiveRules(t)
	settles(l)
	for n := range 5 {
		put(t, l, policyFile, listed[:len(listed)/5*n])
		if l.changed() {
			t.Fatal("what was written a moment ago counts already")
		}
	}
	if !l.changed() {
		t.Error("what nobody writes any more does not count")
	}
}

func TestABrokenPolicyDoesNotTakeTheOldOnesPlace(t *testing.T) {
	l := newLiveRules(t)
	old := l.current
	for _, text := range []string{"", "[[rule]]\nname = \"all\"\n", "[[rul", strings.Replace(listed, `"ads"`, `"gone"`, 1)} {
		put(t, l, policyFile, text)
		if _, err := l.renew(policyConfig{}, nil); err == nil || l.current != old {
			t.Errorf("%q: error %v, and other rules: %v", text, err, l.current != old)
		}
	}
}

func TestWatchReadsABrokenPolicyOnce(t *testing.T) {
	l := newLiveRules(t)
	put(t, l, policyFile, "[[rul")
	put(t, l, "ads", "other.example.net\n") // which nobody gets to
	if !settles(l) {
		t.Fatal("nobody sees that the policy was broken")
	}
	if _, err := l.renew(policyConfig{}, nil); err == nil {
		t.Fatal("a broken policy can be read")
	}
	if settles(l) {
		t.Error("it is read again, though nothing has changed")
	}
}

func TestTheRulesThatWereReadLastAreInForce(t *testing.T) {
	l := newLiveRules(t)
	s := server.New(server.Config{Policy: l.current})
	var all sync.WaitGroup
	for n := range 20 {
		all.Go(func() {
			// As editors do it: each reader sees one or the other.
			text := listed + strings.Repeat("[[rule]]\nthen = \"allow\"\n", n%4)
			if err := replace(filepath.Join(l.dir, policyFile), text); err != nil {
				t.Error(err)
			}
			if _, err := l.renew(policyConfig{}, s); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	last, err := readPolicy(filepath.Join(l.dir, policyFile))
	if err != nil {
		t.Fatal(err)
	}
	if now := l.current; len(now.Rules()) != len(last.Rules()) {
		t.Errorf("the server goes by %d rules, and the file has %d", len(now.Rules()), len(last.Rules()))
	}
}
