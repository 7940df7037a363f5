//go:build linux

// Command bench measures adit beside other programs that carry connections
// through one encrypted channel, and beside none at all. It starts them all on
// loopback, as two processes or more each, lets them take turns measurement by
// measurement, and prints two Markdown tables of the medians.
//
// What is not installed is left out, and said. It needs Linux, as it reads /proc, and
// Go, unless -adit names a program that is built already.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// options are what a run is asked for.
type options struct {
	rounds int
	window time.Duration // how long each measurement takes, after a warm-up
	idle   int           // sessions
	settle time.Duration // how long memory gets to come to rest
	only   []string      // names of contenders; none means all
	builds []build       // of adit, beside what is built from here, or in its place
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if len(os.Args) > 1 && os.Args[1] == relayCommand {
		err = runRelay(ctx, os.Args[2:])
	} else {
		err = runCommand(ctx, os.Args[1:])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func runCommand(ctx context.Context, args []string) error {
	var o options
	var only, into string
	flags := flag.NewFlagSet("bench", flag.ExitOnError)
	flags.IntVar(&o.rounds, "rounds", 3, "rounds")
	flags.DurationVar(&o.window, "window", time.Second, "how long each measurement takes, after a warm-up")
	flags.IntVar(&o.idle, "idle", 1000, "idle sessions")
	flags.DurationVar(&o.settle, "settle", 2*time.Second, "how long memory gets to come to rest")
	flags.StringVar(&only, "only", "", "measure these, comma-separated, of: "+strings.Join(names(contenders(nil)), ", "))
	flags.Func("adit", "`[NAME=]PROGRAM` of adit to measure, too, under that name, such as a former release; without a name, in place of the one\nthat is built from here (may be repeated)", func(text string) error {
		b, err := parseBuild(text)
		o.builds = append(o.builds, b)
		return err
	})
	flags.StringVar(&into, "into", "", "file in which the table replaces the one between the lines "+tableBegins+" and "+tableEnds)
	_ = flags.Parse(args) // exits
	if o.rounds < 1 || o.window <= 0 || o.idle < 1 || flags.NArg() > 0 {
		return errors.New("rounds, window and idle must be positive, and there are no arguments")
	}
	if only != "" {
		o.only = strings.Split(only, ",")
	}
	table, err := run(ctx, o, os.Stderr)
	fmt.Print(table)
	if into != "" && table != "" && ctx.Err() == nil {
		err = errors.Join(err, replaceTable(into, table))
	}
	return err
}

// run returns the table, also beside an error: then it holds what did work.
func run(ctx context.Context, o options, progress io.Writer) (_ string, err error) {
	if err := raiseFileLimit(); err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", "adit-bench-")
	if err != nil {
		return "", fmt.Errorf("make a directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	chosen, err := choose(contenders(o.builds), o.only, progress)
	if err != nil {
		return "", err
	}
	s := &stage{dir: dir}
	defer s.close()
	b := bench{options: o, progress: progress}
	failed := b.enter(ctx, s, chosen)
	if len(b.endpoints) == 0 || ctx.Err() != nil {
		return "", failed
	}
	failed = errors.Join(failed, b.measure(ctx))
	return b.tables() + fmt.Sprintf("\n%s\n", circumstances(ctx, o, b.endpoints)), failed
}

// choose returns those that were asked for and are installed.
func choose(all []contender, only []string, progress io.Writer) (chosen []contender, err error) {
	if name, twice := repeated(names(all)); twice {
		return nil, fmt.Errorf("two are called %s", name)
	}
	for _, name := range only {
		if !slices.Contains(names(all), name) {
			return nil, fmt.Errorf("there is no %q, only %s", name, strings.Join(names(all), ", "))
		}
	}
	for _, c := range all {
		if len(only) > 0 && !slices.Contains(only, c.name) {
			continue
		}
		if missing := c.missing(); len(missing) > 0 {
			fmt.Fprintf(progress, "%s is left out: %s not installed (Debian has it in %s)\n",
				c.name, strings.Join(missing, ", "), strings.Join(c.packages, ", "))
			continue
		}
		chosen = append(chosen, c)
	}
	if len(chosen) == 0 {
		return nil, errors.New("nothing to measure is installed")
	}
	return chosen, nil
}

// repeated finds what comes twice.
func repeated(all []string) (name string, found bool) {
	for i, name := range all {
		if slices.Contains(all[:i], name) {
			return name, true
		}
	}
	return "", false
}

// raiseFileLimit lets this process, and those that it starts, hold both ends of
// every idle session. Go raises its own limit only, and not that of its children.
func raiseFileLimit() error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("read the limit of open files: %w", err)
	}
	limit.Cur = limit.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("raise the limit of open files: %w", err)
	}
	return nil
}
