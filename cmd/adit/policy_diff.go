package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/adit-net/adit/server"
	"github.com/adit-net/adit/server/audit"
	"github.com/adit-net/adit/server/policy"
)

const policyDiffHelp = `Say which flows on record a changed policy would have decided differently. Write the new
rules to a file beside policy.toml, where they find the same lists, and copy it over that
if what is said here is what you want. Nothing is changed.

A flow is judged as its record has it: with its user's groups, time, address and protocol
of then. What cannot be judged is counted with the reason: a refused name's address was never
looked up, and where the datagrams of an association went is not on record. Nor is
a protocol inside another one, which is taken to be none. Limits, such as quotas, are
not played through. What a decider or the server itself has refused stays refused.

The exit code is that of diff: 0 if nothing would be decided differently, 1 if something
would, and 2 if that cannot be said.`

// exitTrouble is what diff(1) ends with when it cannot compare.
const exitTrouble = 2

// policyDiff is what adit policy diff was asked.
type policyDiff struct {
	dir      dirFlag
	since    string
	examples int
}

func newPolicyDiff(e env) *cobra.Command {
	d := policyDiff{dir: dirFlag{kind: serverKind}}
	c := &cobra.Command{
		Use:     "diff NEW.toml",
		Short:   "Say which flows on record another policy would have decided differently",
		Long:    policyDiffHelp,
		Example: "  adit policy diff --since 7d new.toml",
		Args:    exactly("NEW.toml"),
		RunE: func(c *cobra.Command, args []string) error {
			differ, err := d.run(c.Context(), e.stdout, args[0])
			switch {
			case err != nil:
				explain(e.stderr, err)
				return exitError(exitTrouble)
			case differ:
				return exitError(exitFailed)
			}
			return nil
		},
	}
	d.dir.add(c)
	c.Flags().StringVar(&d.since, "since", "24h", "flows that began at this `time` or later, as in adit audit")
	c.Flags().IntVar(&d.examples, "examples", 3, "how many flows of each group to show, the last `number`")
	return c
}

// run prints what differs, and tells whether anything does.
func (d *policyDiff) run(ctx context.Context, out io.Writer, file string) (differ bool, err error) {
	since, err := parseWhen(d.since, time.Now())
	if err != nil || d.examples < 0 {
		return false, hint(fmt.Errorf("--since and --examples: %q and %d are no time and no number", d.since, d.examples), `write "20m", "7d", "yesterday" or "2026-03-01"`)
	}
	rules, err := readPolicy(file)
	if err != nil {
		return false, err
	}
	dir, err := d.dir.open()
	if err != nil {
		return false, err
	}
	c, err := newComparison(dir, rules, d.examples)
	if err != nil {
		return false, err
	}
	for r, err := range audit.NewReader(auditDir(dir)).Records(ctx, audit.Query{Kinds: []audit.Kind{audit.Flow}, Since: since}) {
		if err != nil {
			return false, auditHint(err)
		}
		c.add(r)
	}
	if c.flows == 0 {
		return false, hint(fmt.Errorf("no flow since %s is on record", since.Local().Format(time.DateTime)), "look further back: adit policy diff --since 7d %s", filepath.Base(file))
	}
	return c.print(out, since)
}

// comparison is how new rules decide what is on record.
type comparison struct {
	rules    *policy.Policy
	old      map[string]*policy.Rule // the rules that are in force now, by name
	exit     *server.Exit            // denies some of what rules allow
	examples int

	flows  int
	groups map[change]*changed
	lacks  map[string]int // flows that cannot be judged, by reason
}

// change is what becomes of some flows.
type change struct {
	allowed, allows bool // then, and by the new rules
	was, is         string
}

// changed are the flows that this becomes of.
type changed struct {
	change
	flows int
	users map[string]bool
	last  []audit.Record
}

// newComparison prepares to compare with what the server in a directory has decided.
func newComparison(dir string, rules *policy.Policy, examples int) (*comparison, error) {
	cfg := defaultServerConfig()
	if err := loadConfig(dir, serverKind, &cfg); err != nil {
		return nil, err
	}
	exit, err := plainExit(cfg)
	if err != nil {
		return nil, err
	}
	c := &comparison{
		rules: rules, old: make(map[string]*policy.Rule), exit: exit, examples: examples,
		groups: make(map[change]*changed), lacks: make(map[string]int),
	}
	path, err := policyPath(dir, cfg.Policy.File)
	if errors.Is(err, errNoPolicy) {
		return c, nil
	}
	now, err := readPolicy(path)
	if err != nil {
		return nil, err
	}
	for _, r := range now.Rules() {
		c.old[r.Name] = r
	}
	return c, nil
}

// add judges one flow more.
func (c *comparison) add(r audit.Record) {
	c.flows++
	to := change{allowed: r.Decision == audit.Allowed, was: r.Rule, is: "no rule"}
	switch {
	case to.allowed:
	case c.refusedAnyway(r):
		return
	case c.ruleAllows(r): // and so has not refused it
		c.lacks["what else than a rule had refused it is not on record"]++
		return
	}
	d, lacks := server.Replay(c.rules, r)
	if lacks != "" {
		c.lacks[lacks+" is not on record"]++
		return
	}
	if to.allows = d.Outcome == policy.Allow; to.allows == to.allowed {
		return
	}
	if d.Rule != nil {
		to.is = fmt.Sprintf("%q (line %d)", d.Rule.Name, d.Rule.Line)
	}
	if to.was == "" {
		to.was = "no rule"
	} else {
		to.was = strconv.Quote(to.was)
	}
	g := c.groups[to]
	if g == nil {
		g = &changed{change: to, users: make(map[string]bool)}
		c.groups[to] = g
	}
	g.flows++
	g.users[r.User] = true
	if g.last = append(g.last, r); len(g.last) > c.examples {
		g.last = slices.Delete(g.last, 0, 1)
	}
}

// refusedAnyway tells whether a flow was refused by what no rule overrules: a decider, or the
// server's own list of what is denied.
func (c *comparison) refusedAnyway(r audit.Record) bool {
	if strings.HasPrefix(r.What, "decider ") {
		return true
	}
	return r.Command != "resolve" && r.Address.IsValid() && c.exit.Judge(netip.AddrPortFrom(r.Address.Unmap(), r.Port)) != nil
}

// ruleAllows tells whether the rule that a flow is on record with allows it.
func (c *comparison) ruleAllows(r audit.Record) bool {
	rule := c.old[r.Rule]
	return rule != nil && rule.Allow && (r.IPsec != "" || !rule.Limit.RequireIPsec)
}

// print prints what would be decided differently, and tells whether anything would.
func (c *comparison) print(out io.Writer, since time.Time) (differ bool, err error) {
	all := slices.SortedFunc(maps.Values(c.groups), func(a, b *changed) int {
		return cmp.Or(cmp.Compare(b.flows, a.flows), strings.Compare(a.was+a.is, b.was+b.is))
	})
	denied, allowed, unknown := 0, 0, 0
	for _, g := range all {
		if g.allows {
			allowed += g.flows
		} else {
			denied += g.flows
		}
	}
	for _, n := range c.lacks {
		unknown += n
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "%s since %s: %d would be denied, %d allowed, %d cannot be judged, the rest as before\n",
		count(c.flows, "flow"), since.Local().Format(time.DateTime), denied, allowed, unknown)
	for _, g := range all {
		what := "would be denied by %s, allowed by %s: %s of %s\n"
		if g.allows {
			what = "would be allowed by %s, denied by %s: %s of %s\n"
		}
		fmt.Fprintf(w, "\n"+what, g.is, g.was, count(g.flows, "flow"), count(len(g.users), "user"))
		for _, r := range g.last {
			_, row := flowRow(r)
			fmt.Fprintf(w, "  %v\t%v\t%v\t%v\t%v\t%v\n", row[0], row[1], row[2], row[3], row[4], row[5])
		}
	}
	if unknown > 0 {
		fmt.Fprintln(w, "\ncannot be judged:")
	}
	for _, why := range slices.Sorted(maps.Keys(c.lacks)) {
		fmt.Fprintf(w, "  %d\t%s\n", c.lacks[why], why)
	}
	return len(all) > 0, w.Flush()
}
