package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

const topHelp = `Show what a running server is doing, and go on with it: its flows, its sessions
with the guests, and what it has refused, each with what passes a second. What older
processes still hold after an upgrade is in adit status.

On a terminal these keys are known:

  tab          the next view
  ← →          sort by another column; r turns the order round
  /            show only rows with a text; esc shows all
  ↑ ↓ pgup …   scroll
  space        pause
  q            quit

Without a terminal it prints lines, again and again.`

const topExample = `  adit top
  adit top --view sessions --sort UP/S
  adit top --filter alice --count 1 | cat`

// topOptions are the flags of adit top.
type topOptions struct {
	view, sort, filter string
	every              time.Duration
	count              int
}

func newTop(e env) *cobra.Command {
	d := dirFlag{kind: serverKind}
	var o topOptions
	c := &cobra.Command{
		Use:     "top",
		Short:   "Show what a running server is doing now",
		Long:    topHelp,
		Example: topExample,
		Args:    exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			dir, err := d.open()
			if err != nil {
				return err
			}
			v, err := o.start()
			if err != nil {
				return err
			}
			return runTop(c.Context(), e, v, o, func(ctx context.Context) (r topReport, err error) {
				err = ask(ctx, dir, "/top", &r)
				if errors.Is(err, errNotRunning) {
					err = hint(fmt.Errorf("no server runs in %s", dir), "start it: adit server run --dir %s", dir)
				}
				return r, err
			})
		},
	}
	d.add(c)
	f := c.Flags()
	f.StringVar(&o.view, "view", viewNames()[flowsView], "begin with this `view`: "+strings.Join(viewNames(), ", "))
	f.StringVar(&o.sort, "sort", "", "sort by this `column`, as its head has it")
	f.StringVar(&o.filter, "filter", "", "only rows with this `text`")
	f.DurationVar(&o.every, "every", time.Second, "how often to look")
	f.IntVar(&o.count, "count", 0, "end after so many looks; 0: never")
	return c
}

// start is the view that the flags describe.
func (o *topOptions) start() (*topView, error) {
	if o.every < 100*time.Millisecond || o.every > time.Hour || o.count < 0 {
		return nil, hint(usageError{errors.New("--every and --count are out of range")}, "--every 2s --count 10")
	}
	v := newTopView()
	v.filter = o.filter
	if err := v.look(o.view, strings.ToUpper(o.sort)); err != nil {
		known := viewNames()
		if v.view >= 0 {
			known = v.titles()
		}
		return nil, hint(usageError{err}, "known are: %s", strings.Join(known, ", "))
	}
	return v, nil
}

// look is what a look at the server has come to.
type look struct {
	report topReport
	err    error
}

// runTop shows what ask gives, until ctx ends or the user does not want any more. That there is no server
// to begin with is an error; one that goes away may come back.
func runTop(ctx context.Context, e env, v *topView, o topOptions, ask func(context.Context) (topReport, error)) error {
	first, err := ask(ctx)
	if err != nil {
		return err
	}
	v.take(first)
	ctx, cancel := context.WithCancel(ctx)
	var looking sync.WaitGroup
	defer looking.Wait()
	defer cancel()
	looks := make(chan look)
	looking.Go(func() { o.look(ctx, ask, looks) })
	in, isFile := e.stdin.(*os.File)
	if e.columns == 0 || !isFile || !term.IsTerminal(int(in.Fd())) {
		return printTop(ctx, e.stdout, v, o, looks)
	}
	return showTop(ctx, e, in, v, o, looks)
}

// soon is when the second look is: the first knows of no speed.
const soon = 250 * time.Millisecond

// look looks again and again, until ctx ends.
func (o *topOptions) look(ctx context.Context, ask func(context.Context) (topReport, error), looks chan<- look) {
	timer := time.NewTimer(min(soon, o.every))
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		r, err := ask(ctx)
		select {
		case looks <- look{r, err}:
		case <-ctx.Done():
			return
		}
		timer.Reset(o.every)
	}
}

// printRows is how many rows are printed of each look.
const printRows = 20

// printTop prints lines.
func printTop(ctx context.Context, w io.Writer, v *topView, o topOptions, looks <-chan look) error {
	for n := 1; ; n++ {
		select {
		case l := <-looks:
			if l.err != nil {
				return l.err
			}
			v.take(l.report)
		case <-ctx.Done():
			return nil
		}
		t := v.table()
		rows := t.rows[:min(len(t.rows), printRows)]
		widths := t.widths(1<<20, rows)
		lines := []string{v.now.At.Local().Format(time.DateTime) + "  " + v.population() + "   " + v.traffic(), t.line(t.titles, widths)}
		for _, row := range rows {
			lines = append(lines, t.line(row, widths))
		}
		if _, err := io.WriteString(w, strings.Join(lines, "\n")+"\n\n"); err != nil {
			return err
		}
		if n == o.count {
			return nil
		}
	}
}
