package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/adit-net/adit/server/audit"
)

const auditHelp = `Ask the server's records who has reached what, when, how much, by which rule and
over what protection. A running server goes on recording meanwhile.

Without more it shows the last flows that fit. With --by it adds them up. Days and
hours in --by are UTC's. Times are "20m" or "7d" (ago), "today", "yesterday", "2026-03-01" or
"2026-03-01 20:00" on this machine's clock, or as in RFC 3339. A flow belongs to the time at which it began.

--sql takes one SELECT in SQLite's SQL on the views flows, sessions, logins, failures,
policies, acts and records (all of these), over the last ten files of the time that
--since and --until say. It cannot change anything.`

const auditExample = `  adit audit --to '*.example.org' --since yesterday
  adit audit --by user,protocol --since 7d --top 10
  adit audit --denied --follow
  adit audit --kind session,login,failure --user alice
  adit audit --sql 'SELECT user, count(*) FROM flows GROUP BY user' --format csv
  adit audit --since yesterday --until today --format parquet > flows.parquet`

// auditQuestion is what adit audit was asked.
type auditQuestion struct {
	audit.Query
	kinds        []string
	since, until string
	minBytes     string
	by           []string
	top, last    int
	follow       bool
	sql          string
	format       string
}

func newAudit(e env) *cobra.Command {
	d := dirFlag{kind: serverKind}
	var q auditQuestion
	c := &cobra.Command{
		Use:     "audit",
		Short:   "Say who has reached what, and how much",
		Long:    auditHelp,
		Example: auditExample,
		Args:    exactly(),
		PreRunE: func(c *cobra.Command, _ []string) error { return q.read(c, time.Now()) },
		RunE: func(c *cobra.Command, _ []string) error {
			dir, err := d.open()
			if err != nil {
				return err
			}
			return auditHint(q.ask(c.Context(), e, audit.NewReader(auditDir(dir))))
		},
	}
	d.add(c)
	f := c.Flags()
	f.StringSliceVar(&q.Users, "user", nil, "of this `user`")
	f.StringSliceVar(&q.Groups, "group", nil, "of users in this `group`")
	f.StringSliceVar(&q.To, "to", nil, "to this `target`: a name, *.example.org, an address or a network")
	f.StringSliceVar(&q.Protocols, "protocol", nil, "of this application `protocol`")
	f.StringSliceVar(&q.Rules, "rule", nil, "that this `rule` has decided")
	f.StringVar(&q.since, "since", "", "that began at this `time` or later")
	f.StringVar(&q.until, "until", "", "that began before this `time`")
	f.BoolVar(&q.Denied, "denied", false, "that were refused")
	f.StringVar(&q.minBytes, "min-bytes", "", "with this `size` or more both ways together: 1000, 10k, 5M, 2G")
	f.StringSliceVar(&q.kinds, "kind", nil, "records of this `kind`: flow, session, login, failure, policy, act, all (default flow)")
	f.StringSliceVar(&q.by, "by", nil, "add up by `columns`: "+strings.Join(audit.Groupings(), ","))
	f.IntVar(&q.top, "top", 0, "only the `number` with the most bytes, with --by")
	f.IntVar(&q.last, "last", 50, "only the last `number` of records; 0: all")
	f.BoolVar(&q.follow, "follow", false, "go on with what is recorded from now on")
	f.StringVar(&q.sql, "sql", "", "ask by a `SELECT` of your own")
	f.StringVar(&q.format, "format", "table", "table, csv, json or parquet")
	c.AddCommand(newAuditVerify(e))
	return c
}

// read reads what the flags say.
func (q *auditQuestion) read(c *cobra.Command, now time.Time) (err error) {
	for flag, time := range map[string]struct {
		text string
		at   *time.Time
	}{"since": {q.since, &q.Since}, "until": {q.until, &q.Until}} {
		if *time.at, err = parseWhen(time.text, now); err != nil {
			return hint(usageError{fmt.Errorf("--%s: %w", flag, err)}, `write "20m", "7d", "yesterday", "2026-03-01" or "2026-03-01 20:00"`)
		}
	}
	if q.MinBytes, err = parseSize(q.minBytes); err != nil {
		return hint(usageError{fmt.Errorf("--min-bytes: %w", err)}, "write 1000, 10k, 5M or 2G")
	}
	for _, text := range q.kinds {
		kinds := kindsOf(text)
		if len(kinds) == 0 {
			return hint(usageError{fmt.Errorf("--kind: there are no records of the kind %q", text)}, "known are: flow, session, login, failure, policy, act, all")
		}
		q.Kinds = append(q.Kinds, kinds...)
	}
	for _, name := range q.by {
		if !slices.Contains(audit.Groupings(), name) {
			return hint(usageError{fmt.Errorf("--by: there is no column %q", name)}, "known are: %s", strings.Join(audit.Groupings(), ", "))
		}
	}
	if !slices.Contains([]string{"table", "csv", "json", "parquet"}, q.format) {
		return hint(usageError{fmt.Errorf("--format: there is no format %q", q.format)}, "known are: table, csv, json, parquet")
	}
	if q.top < 0 || q.last < 0 {
		return usageError{errors.New("--top and --last are numbers from 0 on")}
	}
	if q.format != "table" && !c.Flags().Changed("last") {
		q.last = 0 // a program wants all
	}
	return q.fits(c.Flags())
}

// fits tells whether the flags go together.
func (q *auditQuestion) fits(f *pflag.FlagSet) error {
	ways := 0
	for _, way := range []bool{len(q.by) > 0, q.follow, q.sql != ""} {
		if way {
			ways++
		}
	}
	switch {
	case ways > 1:
		return usageError{errors.New("--by, --follow and --sql exclude each other")}
	case q.follow && q.format == "parquet":
		return usageError{errors.New("--follow and --format parquet exclude each other: a file in that format has an end")}
	case q.top > 0 && len(q.by) == 0:
		return hint(usageError{errors.New("--top needs --by")}, "adit audit --by user --top %d", q.top)
	case q.sql == "":
		return nil
	}
	for _, flag := range []string{"user", "group", "to", "protocol", "rule", "denied", "min-bytes", "kind", "last"} {
		if f.Changed(flag) {
			return hint(usageError{fmt.Errorf("--sql and --%s exclude each other", flag)}, "the SELECT says what fits; --since and --until say which files it is asked of")
		}
	}
	return nil
}

// kindsOf gives the kinds of records that a word stands for.
func kindsOf(word string) []audit.Kind {
	all := []audit.Kind{audit.Flow, audit.Session, audit.Login, audit.Failure, audit.Policy, audit.Act}
	if word == "all" {
		return all
	}
	return slices.DeleteFunc(all, func(k audit.Kind) bool { return k.String() != word })
}

// ask prints the answer.
func (q *auditQuestion) ask(ctx context.Context, e env, r *audit.Reader) error {
	if q.format == "parquet" && e.columns > 0 {
		return hint(usageError{errors.New("no screen shows Parquet")}, "put it in a file: adit audit --format parquet > flows.parquet")
	}
	p := &counter{Printer: q.printer(e.stdout)}
	var err error
	switch {
	case q.sql != "":
		err = q.askSQL(ctx, r, p)
	case len(q.by) > 0:
		err = q.askSums(ctx, r, p)
	case q.follow:
		err = q.askFollow(ctx, r, p)
	default:
		err = q.askRecords(ctx, r, p)
	}
	if err != nil && q.format == "parquet" {
		return err // a file with an end says that it is whole
	}
	err = errors.Join(err, p.Flush())
	if err == nil && p.lines == 0 && q.format == "table" {
		fmt.Fprintln(e.stderr, "nothing on record fits")
	}
	return err
}

// counter knows whether there was anything to print.
type counter struct {
	audit.Printer
	lines int
}

func (c *counter) Print(columns []string, row []any) error {
	c.lines++
	return c.Printer.Print(columns, row)
}

func (q *auditQuestion) printer(w io.Writer) audit.Printer {
	switch q.format {
	case "csv":
		return audit.NewCSV(w)
	case "json":
		return audit.NewJSON(w)
	case "parquet":
		columns, example := q.example()
		return audit.NewParquet(w, columns, example)
	}
	return audit.NewTable(w)
}

// example is a row as the answer has them; nil if only the answer tells.
func (q *auditQuestion) example() (columns []string, row []any) {
	switch {
	case q.sql != "":
		return nil, nil
	case len(q.by) > 0:
		return q.sumRow(audit.Sum{Key: make([]string, len(q.by))})
	}
	return q.row(audit.Record{})
}

func (q *auditQuestion) askSQL(ctx context.Context, r *audit.Reader, p audit.Printer) (err error) {
	asked := r.SQL(ctx, q.sql, q.Since, q.Until, func(columns []string, row []any) bool {
		err = p.Print(columns, row)
		return err == nil
	})
	return errors.Join(asked, err)
}

func (q *auditQuestion) askSums(ctx context.Context, r *audit.Reader, p audit.Printer) error {
	sums, err := r.Sums(ctx, q.Query, q.by)
	if err != nil {
		return err
	}
	if q.top > 0 {
		sums = sums[:min(q.top, len(sums))]
	}
	for _, s := range sums {
		if err := p.Print(q.sumRow(s)); err != nil {
			return err
		}
	}
	return nil
}

// sumRow is what is printed of a sum.
func (q *auditQuestion) sumRow(s audit.Sum) (columns []string, row []any) {
	for _, key := range s.Key {
		row = append(row, key)
	}
	up, down, name, took := any(s.Up), any(s.Down), "duration", any(s.Duration.Round(time.Millisecond))
	switch q.format {
	case "table":
		up, down = size(s.Up), size(s.Down)
	case "parquet":
		name, took = "duration_ms", s.Duration.Milliseconds()
	}
	return append(slices.Clone(q.by), "flows", "up", "down", "sent", "received", name), append(row, s.Flows, up, down, s.Sent, s.Received, took)
}

func (q *auditQuestion) askFollow(ctx context.Context, r *audit.Reader, p audit.Printer) error {
	// People see that it waits for something.
	columns, _ := q.row(audit.Record{})
	if err := errors.Join(p.Print(columns, nil), p.Flush()); err != nil {
		return err
	}
	for record, err := range r.Follow(ctx, q.Query, -1) {
		if err != nil {
			return err
		}
		if err := errors.Join(p.Print(q.row(record)), p.Flush()); err != nil {
			return err
		}
	}
	return nil
}

func (q *auditQuestion) askRecords(ctx context.Context, r *audit.Reader, p audit.Printer) error {
	if q.last > 0 {
		all, err := r.Last(ctx, q.Query, q.last)
		for _, record := range all {
			if err == nil {
				err = p.Print(q.row(record))
			}
		}
		return err
	}
	for record, err := range r.Records(ctx, q.Query) {
		if err == nil {
			err = p.Print(q.row(record))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// row is what is printed of a record: for people what they look for most.
func (q *auditQuestion) row(r audit.Record) (columns []string, row []any) {
	switch {
	case q.format != "table":
		return r.Row()
	case len(q.Kinds) == 0 || slices.Equal(q.Kinds, []audit.Kind{audit.Flow}):
		return flowRow(r)
	}
	return recordRow(r)
}

func flowRow(r audit.Record) ([]string, []any) {
	target := r.Name
	if target == "" && r.Address.IsValid() {
		target = r.Address.String()
	}
	if r.Port != 0 {
		target += fmt.Sprint(":", r.Port)
	}
	return []string{"time", "user", "source", "command", "to", "protocol", "up", "down", "for", "path", "rule", "end"}, []any{
		r.Begin.Local().Format(time.DateTime), r.User, sourceText(r), r.Command, target, r.Protocol,
		size(r.Up), size(r.Down), r.Duration.Round(time.Millisecond), pathText(r), r.Rule, endText(r),
	}
}

func recordRow(r audit.Record) ([]string, []any) {
	return []string{"time", "kind", "user", "device", "source", "door", "method", "for", "end", "what"}, []any{
		r.Begin.Local().Format(time.DateTime), r.Kind.String(), r.User, r.Device, sourceText(r), r.Door, r.Method,
		r.Duration.Round(time.Millisecond), endText(r), r.What,
	}
}

func sourceText(r audit.Record) string {
	if !r.Source.IsValid() {
		return ""
	}
	return r.Source.String()
}

func pathText(r audit.Record) string {
	path := cmp.Or(r.Version, r.Carrier)
	switch {
	case r.IPsec == "":
		return path
	case path == "":
		return "IPsec (" + r.IPsec + ")"
	}
	return path + " in IPsec (" + r.IPsec + ")"
}

func endText(r audit.Record) string {
	if r.Open {
		return "open"
	}
	return r.End
}

// auditHint says what to do where there are no records.
func auditHint(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return hint(errors.New("there are no records yet"), "adit server run makes them, unless server.toml says mode = \"off\" under [audit]")
	case errors.Is(err, audit.ErrStatement):
		return hint(err, "one statement that begins with SELECT, WITH or VALUES, without parameters")
	}
	return err
}

const auditVerifyHelp = `Look whether the records are what the server has written. An edit, a deletion, a
swap, and a file that is missing in between are found. The exit code is 1 if anything is.

Whoever may write to the directory could also make all hashes anew, or cut off the
end. That is found by a head that was noted down elsewhere: the last line of an
earlier run, which --head takes.`

func newAuditVerify(e env) *cobra.Command {
	d := dirFlag{kind: serverKind}
	var head string
	c := &cobra.Command{
		Use:     "verify",
		Short:   "Say whether the records are as they were written",
		Long:    auditVerifyHelp,
		Example: "  adit audit verify\n  adit audit verify --head 1234:0f3c…",
		Args:    exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			dir, err := d.open()
			if err != nil {
				return err
			}
			var witness audit.Head
			if head != "" {
				if witness, err = audit.ParseHead(head); err != nil {
					return hint(usageError{err}, "it is the last word of what adit audit verify prints")
				}
			}
			if _, err := os.Stat(auditDir(dir)); err != nil {
				return auditHint(err)
			}
			r, err := audit.Verify(c.Context(), auditDir(dir), witness)
			if err != nil {
				return err
			}
			return printVerdict(e.stdout, r)
		},
	}
	d.add(c)
	c.Flags().StringVar(&head, "head", "", "a `head` that was printed before, and kept elsewhere")
	return c
}

func printVerdict(w io.Writer, r audit.Report) error {
	for _, p := range r.Problems {
		fmt.Fprintln(w, "WRONG", p)
	}
	verdict := "sound"
	if !r.Sound() {
		verdict = "WRONG"
	}
	fmt.Fprintf(w, "%s: %d records in %d files, %d of them under way\nhead %s\n", verdict, r.Records, r.Files, r.Open, r.Head)
	if !r.Sound() {
		return exitError(exitFailed)
	}
	return nil
}
