package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

const runHelp = `Run a command whose connections go through the tunnel. It sets the variables that
programs look at for a proxy:

  HTTP_PROXY, HTTPS_PROXY   curl, git, Go, Python, Node, Ruby, and most others
  ALL_PROXY                 curl and git, for what is not HTTP
  NODE_USE_ENV_PROXY        Node 24 and newer
  GIT_SSH_COMMAND           git over ssh
  JAVA_TOOL_OPTIONS         Java

and drops NO_PROXY. A program that looks at none of these goes its own way: adit
run is no sandbox. Programs in Go never use a proxy for localhost.

The command goes through the client that runs in --dir. If none does, adit runs
one of its own until the command ends. The exit code is the command's.`

func newRun(e env) *cobra.Command {
	d := dirFlag{kind: clientKind}
	var quiet bool
	c := &cobra.Command{
		Use:     "run -- COMMAND [ARGUMENT…]",
		Short:   "Run one command through the tunnel",
		Long:    runHelp,
		Example: "  adit run -- curl https://example.org/\n  adit run -- git clone git@example.org:project.git",
		Args: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return hint(usageError{errors.New("adit run: COMMAND is missing")}, "usage: %s", c.UseLine())
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			return runThrough(c.Context(), e, &d, args, quiet)
		},
	}
	d.add(c)
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "do not say which variables were set")
	c.Flags().SetInterspersed(false) // what follows the command is the command's own
	return c
}

// runThrough runs a command with the door of a running client, or of a client of
// its own.
func runThrough(ctx context.Context, e env, d *dirFlag, args []string, quiet bool) error {
	dir, err := d.open()
	if err != nil {
		return err
	}
	way, err := findDoorway(ctx, dir)
	if err == nil && way.network == "tcp" {
		return runCommand(e, way, []string{"--dir", dir}, args, quiet)
	}
	// Few programs can use a Unix socket as a proxy.
	if err != nil && !errors.Is(err, errNotRunning) {
		return err
	}
	return withOwnClient(ctx, e, dir, func(way doorway) error {
		// ssh starts adit pipe, which has to find this door and its password.
		return runCommand(e, way, []string{"--dir", dir, "--door", way.address}, args, quiet)
	})
}

// runCommand runs a command to its end. Its error is an [exitError] if the command
// was run and has failed.
func runCommand(e env, way doorway, pipeFlags, args []string, quiet bool) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find adit itself: %w", err)
	}
	environ, said, err := proxyEnv(os.Environ(), way, "ssh -o ProxyCommand="+shellQuote(sshProxy(self, pipeFlags...)))
	if err != nil {
		return err
	}
	if !quiet {
		fmt.Fprintln(e.stderr, "adit: "+said)
	}
	// The command outlives adit's own wish to stop: signals are passed on to it instead.
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = environ
	cmd.Stdin, cmd.Stdout, cmd.Stderr = e.stdin, e.stdout, e.stderr
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return hint(fmt.Errorf("run %s: %w", args[0], errors.Unwrap(err)), "is it installed, and spelled right?")
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case s := <-signals:
			// A terminal has sent the signal to the command as well.
			if typed := s == os.Interrupt || s == syscall.SIGQUIT; !typed || !e.progress {
				// If it cannot be signalled it has ended, or has to end by itself.
				_ = cmd.Process.Signal(s)
			}
		case err := <-ended:
			return commandError(err)
		}
	}
}

// commandError passes on how a command has ended, as shells do.
func commandError(err error) error {
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok {
		return err
	}
	if code := exit.ExitCode(); code >= 0 {
		return exitError(code)
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return exitError(128 + int(status.Signal()))
	}
	return exitError(exitFailed)
}
