package policy

import (
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

func FuzzRead(f *testing.F) {
	f.Add(everything)
	f.Add("[[rule]]\nthen = \"allow\"\n[rule.names]\n")
	f.Add("rule = [{then = \"deny\"}]\ngroups = {a = [\"b\"]}")
	f.Add("a.b.c = 1\n[a.b]\n[[a.d]]\n[a.d.e]\n")
	f.Add("[[rule]]\nwhen = 'len(groups) > 1'\nthen = 'deny'\n")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := Read("policy.toml", []byte(text), optionsWith(map[string]string{"ads": listText}))
		if err != nil {
			if !strings.HasPrefix(err.Error(), "policy.toml") {
				t.Errorf("%q: %v", text, err)
			}
			return
		}
		_ = p.Check()
		rnd := rand.New(rand.NewPCG(1, uint64(len(text))))
		for range 10 {
			e := p.For(randomWho(rnd)).Explain(randomRequest(rnd))
			settled := e.Outcome == Allow || e.Outcome == Deny
			if at := slices.Index(p.rules, e.Rule); settled && at >= 0 && at != len(e.Passed) || at < 0 && len(e.Passed) != len(p.rules) {
				t.Errorf("it is %s, after %v", e.Decision, e.Passed)
			}
		}
	})
}

func FuzzReadList(f *testing.F) {
	f.Add(listText)
	f.Fuzz(func(t *testing.T, text string) {
		l, err := ReadList("list", strings.NewReader(text))
		if err == nil && l.Names() > len(text) {
			t.Errorf("%d names", l.Names())
		}
	})
}

// FuzzDecide makes rules and requests of a seed, and asks the reference.
func FuzzDecide(f *testing.F) {
	f.Add(uint64(1), uint64(2))
	f.Fuzz(func(t *testing.T, a, b uint64) {
		rnd := rand.New(rand.NewPCG(a, b))
		rules := make([]refRule, 1+rnd.IntN(80))
		var text strings.Builder
		for group, members := range refGroups {
			text.WriteString("groups." + group + " = [\"" + strings.Join(members, `", "`) + "\"]\n")
		}
		for i := range rules {
			rules[i] = randomRule(rnd)
			rules[i].toml(&text)
		}
		p, err := Read("policy.toml", []byte(text.String()), Options{Protocols: refProtocols})
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			compare(t, text.String(), p, rules, randomWho(rnd), randomRequest(rnd))
		}
	})
}

var errBroken = errors.New("the disk is gone")

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errBroken }

func TestAListThatCannotBeReadToItsEndIsNone(t *testing.T) {
	if _, err := ReadList("list", io.MultiReader(strings.NewReader("a.example\n"), brokenReader{})); !errors.Is(err, errBroken) {
		t.Errorf("error is %v", err)
	}
}
