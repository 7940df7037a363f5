package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/adit-net/adit/server/audit"
)

const statusHelp = `Say what the server or client that runs in a directory is doing. Without --dir
it looks at the client in its usual place, and then at the server.`

func newStatus(e env) *cobra.Command {
	var dir string
	var asJSON bool
	c := &cobra.Command{
		Use:   "status",
		Short: "Say what a running server or client is doing",
		Long:  statusHelp,
		Args:  exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			r, err := askStatus(c.Context(), dir)
			if err != nil {
				return err
			}
			if asJSON {
				out := json.NewEncoder(e.stdout)
				out.SetIndent("", "  ")
				return out.Encode(r)
			}
			passes, err := watchTraffic(c.Context(), dir, r)
			if err != nil {
				return err
			}
			return printStatus(e.stdout, r, passes)
		},
	}
	c.Flags().StringVar(&dir, "dir", "", "directory of the server or client")
	// The flag was defined in the line above.
	_ = c.MarkFlagDirname("dir")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// askStatus asks the process that runs in a directory, or in one of the usual
// ones if dir is empty.
func askStatus(ctx context.Context, dir string) (report, error) {
	var r report
	dirs := []string{dir}
	if dir == "" {
		dirs = []string{defaultDir(clientKind), defaultDir(serverKind)}
	}
	for _, dir := range dirs {
		if err := ask(ctx, dir, "/status", &r); !errors.Is(err, errNotRunning) {
			return r, err
		}
	}
	if dir == "" {
		return r, hint(errors.New("neither a client nor a server of yours runs"), "adit client run, or name another directory with --dir")
	}
	return r, hint(fmt.Errorf("no adit runs in %s", dir), "start it: adit client run --dir %s, or adit server run --dir %s", dir, dir)
}

// trafficPeriod is how long people have to wait to be told what passes a second. Where nothing is open
// they need not.
const trafficPeriod = 500 * time.Millisecond

// watchTraffic looks again, and says what has passed since; nothing if nothing could.
func watchTraffic(ctx context.Context, dir string, before report) (string, error) {
	open, upBefore, downBefore := before.traffic()
	if open == 0 {
		return "", nil
	}
	began := time.Now()
	select {
	case <-time.After(trafficPeriod):
	case <-ctx.Done():
		return "", ctx.Err()
	}
	r, err := askStatus(ctx, dir)
	if err != nil || r.PID != before.PID {
		return "", err // another one has taken over
	}
	_, up, down := r.traffic()
	seconds := time.Since(began).Seconds()
	return fmt.Sprintf("down %s, up %s", rate(speed(down-downBefore, seconds)), rate(speed(up-upBefore, seconds))), nil
}

// traffic is how many flows or streams are open, and the bytes that have passed so far.
func (r report) traffic() (open int, up, down int64) {
	switch {
	case r.Server != nil:
		return r.Server.Totals.Open, r.Server.Totals.Up, r.Server.Totals.Down
	case r.Client != nil:
		return r.Client.Streams, r.Client.Up, r.Client.Down
	}
	return 0, 0, 0
}

func printStatus(out io.Writer, r report, passes string) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "%s\tadit %s, process %d, up %s\n", r.Role, r.Version, r.PID, since(r.Since))
	if passes != "" {
		fmt.Fprintf(w, "traffic\t%s\n", passes)
	}
	switch {
	case r.Server != nil:
		printServer(w, r.Server)
	case r.Client != nil:
		printClient(w, r.Client)
	}
	return w.Flush()
}

func printServer(w io.Writer, s *serverReport) {
	for _, address := range s.Listen {
		fmt.Fprintf(w, "listens on\t%s\n", address)
	}
	for _, d := range s.Doors {
		path := "plain"
		if d.TLS {
			path = "TLS"
		}
		fmt.Fprintf(w, "door\t%s, %s, by %s, %d apps\n", d.Listen, path, strings.Join(d.Methods, ", "), d.Apps)
	}
	for _, e := range s.Older {
		fmt.Fprintf(w, "older\tprocess %d, adit %s, still holds %d sessions with %d streams\n", e.PID, e.Version, e.Sessions, e.Streams)
	}
	if s.Metrics != "" {
		fmt.Fprintf(w, "metrics\thttp://%s/metrics\n", s.Metrics)
	}
	if s.Audit != "" {
		fmt.Fprintf(w, "audit\tNOT RECORDING: %s\n", audit.Show(s.Audit))
	}
	if s.Decider != "" {
		fmt.Fprintf(w, "decider\tDOES NOT ANSWER: %s\n", audit.Show(s.Decider))
	}
	fmt.Fprintf(w, "sessions\t%d\n", len(s.Sessions))
	if len(s.Guests) > 0 {
		fmt.Fprintf(w, "guests\t%d\n", len(s.Guests))
	}
	printSessions(w, s.Sessions)
	printGuests(w, s.Guests)
}

func printSessions(w io.Writer, all []sessionReport) {
	if len(all) == 0 {
		return
	}
	fmt.Fprintln(w, "\nSESSION\tUSER\tDEVICE\tREMOTE\tUP FOR\tLANES\tRESUMED\tSTREAMS\tUP\tDOWN\tRTT\tPROTECTION")
	for _, x := range all {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%d\t%d\t%s\t%s\t%s\t%s\n", x.ID, x.User, x.Device, x.Remote, since(x.Since),
			x.lanes(), x.Resumes, x.Streams, size(x.Up), size(x.Down), roundTrip(x.RoundTripMs), x.state())
	}
}

func printGuests(w io.Writer, all []guestReport) {
	if len(all) == 0 {
		return
	}
	fmt.Fprintln(w, "\nGUEST\tUSER\tDEVICE\tREMOTE\tUP FOR\tFLOWS\tUP\tDOWN")
	for _, x := range all {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%s\t%s\n", x.Address, x.User, x.Device, x.Remote, since(x.Since), x.Flows, size(x.Up), size(x.Down))
	}
}

// lanes says how many lanes a session has, and how many carriers if not each
// has one.
func (x sessionReport) lanes() string {
	if x.Carriers == x.Lanes || x.Carriers == 0 {
		return strconv.Itoa(x.Lanes)
	}
	return fmt.Sprintf("%d of %d", x.Carriers, x.Lanes)
}

// state says what protects a session, or why nothing reaches it.
func (x sessionReport) state() string {
	if x.Detached.IsZero() {
		return x.Protection.String()
	}
	return fmt.Sprintf("detached for %s: %s", since(x.Detached), audit.Show(x.Lost))
}

func printClient(w io.Writer, c *clientReport) {
	fmt.Fprintf(w, "server\t%s\n", c.Server)
	switch {
	case c.Connected:
		fmt.Fprintf(w, "session\tfor %s, %s\n", since(c.Changed), c.Protection)
		if c.Passed != "" {
			fmt.Fprintf(w, "carrier\t%s, as nothing better works: %s\n", c.Protection.Carrier, audit.Show(c.Passed))
		}
		fmt.Fprintf(w, "round trip\t%s\n", roundTrip(c.RoundTripMs))
	case c.Detached:
		fmt.Fprintf(w, "session\tdetached for %s: %s\n", since(c.Changed), orDash(audit.Show(c.Error)))
		fmt.Fprintf(w, "next attempt\t%s\n", in(c.Retry))
	default:
		fmt.Fprintf(w, "session\tnone for %s: %s\n", since(c.Changed), orDash(audit.Show(c.Error)))
	}
	if c.Lanes > 1 {
		fmt.Fprintf(w, "lanes\t%s\n", c.lanes())
	}
	if c.Connected || c.Detached {
		fmt.Fprintf(w, "streams\t%d open, %d since the session began\n", c.Streams, c.Opened)
	}
	if c.Resumes > 0 {
		fmt.Fprintf(w, "resumed\t%s, %s sent again\n", times(c.Resumes), size(c.Replayed))
	}
	if c.Door.Listen != "" {
		fmt.Fprintf(w, "door\t%s, admits %s\n", c.Door.Listen, c.Door.Admission)
	}
	if c.Door.Socket != "" {
		fmt.Fprintf(w, "door\t%s\n", c.Door.Socket)
	}
}

// lanes says how many carriers the session has.
func (c *clientReport) lanes() string {
	if c.LanesAway == 0 {
		return strconv.Itoa(c.Lanes)
	}
	return fmt.Sprintf("%d, %d detached for %s", c.Lanes, c.LanesAway, since(c.AwaySince))
}

func (p protectionReport) String() string {
	text := orDash(p.Version)
	if p.Carrier != overIPsec {
		text += ", " + orDash(p.KeyExchange)
	}
	if p.IPsec != "" {
		text += ", in IPsec (" + p.IPsec + ")"
	}
	return text
}

func roundTrip(ms float64) string {
	if ms == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f ms", ms)
}

// in says when something is due.
func in(t time.Time) string {
	if d := time.Until(t).Round(time.Second); d > 0 {
		return "in " + d.String()
	}
	return "now"
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

func since(t time.Time) string { return time.Since(t).Round(time.Second).String() }

// size writes a number of bytes for people.
func size(n int64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, i := float64(n)/1024, 0
	for f >= 1024 && i < len(units)-1 {
		f, i = f/1024, i+1
	}
	return fmt.Sprintf("%.1f %ciB", f, units[i])
}
