package main

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestWhatPeersHaveASayInDoesNothingToATerminal(t *testing.T) {
	const said = "a certificate for \x1b]0;x\a\u202eexample.org"
	var out strings.Builder
	explain(&out, errors.Join(errors.New("first"), hint(errors.New(said), "look at it")))
	(&checker{out: &out}).say("decider", "", errors.New(said))
	for _, r := range []report{
		{Server: &serverReport{Audit: said, Decider: said, Sessions: []sessionReport{{Detached: time.Now(), Lost: said}}}},
		{Client: &clientReport{Connected: true, Passed: said}},
		{Client: &clientReport{Detached: true, Error: said}},
		{Client: &clientReport{Error: said}},
	} {
		if err := printStatus(&out, r, ""); err != nil {
			t.Fatal(err)
		}
	}
	if strings.ContainsAny(out.String(), "\x1b\a\u202e") {
		t.Errorf("%q", &out)
	}
	if n := strings.Count(out.String(), `\x1b]0;x\x07\u202eexample.org`); n != 8 {
		t.Errorf("it is said %d times, not 8:\n%s", n, &out)
	}
}
