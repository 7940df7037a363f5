package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"
)

const rootHelp = `adit carries SOCKS and HTTP proxy traffic through one encrypted channel to a
server, which dials the targets.

Try it on this machine alone:      adit demo
Run an exit:                       adit server init --name HOST --listen :443
                                   adit user add alice
                                   adit invite alice
                                   adit server run
Use it from another machine:       adit join 'adit://…'
                                   adit client run
                                   adit run -- curl https://example.org/

Exit codes: 0 done, 1 failed, 2 used wrongly.`

// execute runs one command line and gives its exit code. Errors are on e.stderr
// by then.
func execute(ctx context.Context, e env, args []string) int {
	root := newRoot(e)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	explain(e.stderr, err)
	return exitCode(err)
}

// newRoot builds the whole command tree. Nothing in it outlives one execution.
func newRoot(e env) *cobra.Command {
	root := group("adit", "A secure tunnel for everything that speaks SOCKS or HTTP proxy", rootHelp,
		newDemo(e),
		newServer(e), newUser(e), newInvite(e), newDevice(e),
		newJoin(e), newClient(e), newRun(e), newPipe(e),
		newCheck(e), newPolicy(e), newExplain(e), newStatus(e), newTop(e), newAudit(e), newVersion(e), newCompletion(e),
	)
	root.SilenceErrors, root.SilenceUsage = true, true
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetIn(e.stdin)
	root.SetOut(e.stdout)
	root.SetErr(e.stderr)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return hint(usageError{err}, "see %s --help", cmd.CommandPath())
	})
	return root
}

// group is a command that only holds others.
func group(use, short, long string, commands ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use:   use,
		Short: short,
		Long:  long,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			err := usageError{fmt.Errorf("unknown command %q for %s", args[0], c.CommandPath())}
			if near := nearest(args[0], names(c)); near != "" {
				return hint(err, "did you mean %s %s?", c.CommandPath(), near)
			}
			return hint(err, "see %s --help", c.CommandPath())
		},
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(commands...)
	return c
}

func names(c *cobra.Command) []string {
	var all []string
	for _, sub := range c.Commands() {
		all = append(all, sub.Name())
	}
	return slices.DeleteFunc(all, func(s string) bool { return s == "" })
}

// exactly asks for as many arguments as the command's usage line names.
func exactly(words ...string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		switch {
		case len(args) < len(words):
			return hint(usageError{fmt.Errorf("%s: %s is missing", c.CommandPath(), words[len(args)])},
				"usage: %s", c.UseLine())
		case len(args) > len(words):
			return hint(usageError{fmt.Errorf("%s: %q is one argument too many", c.CommandPath(), args[len(words)])},
				"usage: %s", c.UseLine())
		}
		return nil
	}
}
