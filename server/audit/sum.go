package audit

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// maxGroups bounds how many lines a sum has before the best are taken.
const maxGroups = 1 << 20

// Sum is what the flows of one group come to.
type Sum struct {
	Key            []string // what the query is by, in its order
	Flows          int64
	Up, Down       int64 // bytes
	Sent, Received int64 // datagrams
	Duration       time.Duration
}

// add adds another sum of the same group.
func (s *Sum) add(o Sum) {
	s.Flows += o.Flows
	s.Up += o.Up
	s.Down += o.Down
	s.Sent += o.Sent
	s.Received += o.Received
	s.Duration += o.Duration
}

// grouping is how a record's group is found: inside is what the rows are grouped by,
// and outside makes a text of it. hours and hoursOutside are the same in the table of hours,
// if it is there.
type grouping struct{ inside, outside, hours, hoursOutside string }

const (
	asText     = "CAST(%s AS TEXT)"
	asWord     = "(SELECT text FROM words WHERE id = %s)"
	asTime     = "strftime('%%Y-%%m-%%d %%H:00', %s * 3600, 'unixepoch')"
	asDecision = "CASE %s WHEN 1 THEN 'allowed' WHEN 2 THEN 'refused' ELSE '' END"
	asDay      = "strftime('%%Y-%%m-%%d', %s * 86400, 'unixepoch')"
)

// ofOrigin gives a column of an origin, by its id: to join each record with its origin would
// cost more than all the rest.
func ofOrigin(column string) string { return "(SELECT " + column + " FROM origins WHERE id = %s)" }

// groupings are what sums may be by. A day is one in UTC.
func groupings() map[string]grouping {
	return map[string]grouping{
		"user":     {"r.origin", ofOrigin("user"), "h.user", asWord},
		"group":    {"r.origin", ofOrigin("groups"), "h.groups", asWord},
		"protocol": {"r.protocol", asWord, "h.protocol", asWord},
		"rule":     {"r.rule", asWord, "h.rule", asWord},
		"decision": {"r.decision", asDecision, "h.decision", asDecision},
		"hour":     {"(r.begin - (r.begin % 3600000 + 3600000) % 3600000) / 3600000", asTime, "h.hour", asTime},
		"day":      {"(r.begin - (r.begin % 86400000 + 86400000) % 86400000) / 86400000", asDay, "(h.hour - (h.hour % 24 + 24) % 24) / 24", asDay},
		"to":       {inside: "CASE WHEN r.name IN (SELECT id FROM words WHERE text = '') THEN r.address ELSE r.name END", outside: asWord},
		"address":  {inside: "r.address", outside: asWord},
		"host":     {inside: "r.host", outside: asWord},
		"port":     {inside: "r.port", outside: asText},
		"command":  {inside: "r.command", outside: asWord},
		"end":      {inside: "r.ended", outside: asWord},
		"device":   {inside: "r.origin", outside: ofOrigin("device")},
		"session":  {inside: "r.origin", outside: ofOrigin("session")},
		"source":   {inside: "r.origin", outside: ofOrigin("source")},
		"door":     {inside: "r.origin", outside: ofOrigin("door")},
		"dialect":  {inside: "r.origin", outside: ofOrigin("dialect")},
		"method":   {inside: "r.origin", outside: ofOrigin("method")},
		"carrier":  {inside: "r.origin", outside: ofOrigin("carrier")},
		"version":  {inside: "r.origin", outside: ofOrigin("version")},
		"cipher":   {inside: "r.origin", outside: ofOrigin("cipher")},
		"ipsec":    {inside: "r.origin", outside: ofOrigin("ipsec")},
		"gss":      {inside: "r.origin", outside: ofOrigin("gss")},
		"exit":     {inside: "r.origin", outside: ofOrigin("exit")},
	}
}

// Groupings gives what sums may be by.
func Groupings() []string { return slices.Sorted(maps.Keys(groupings())) }

// What a caller may want to tell apart about sums.
var (
	ErrGrouping = errors.New("records cannot be grouped by that")

	errGroups = fmt.Errorf("there are more than %d groups: ask for less", maxGroups)
)

// Sums adds up the flows that fit, by what by names, the one with the most bytes first. A flow
// whose user is in several groups counts in each.
func (r *Reader) Sums(ctx context.Context, q Query, by []string) ([]Sum, error) {
	t := totals{by: by, sums: make(map[string]*Sum)}
	for _, name := range by {
		if _, ok := groupings()[name]; !ok {
			return nil, fmt.Errorf("sum up audit: %q: %w", name, ErrGrouping)
		}
	}
	all, err := files(r.dir)
	for i := 0; i < len(all) && err == nil; i++ {
		err = t.file(ctx, all[i], q, i == len(all)-1)
	}
	if err != nil {
		return nil, fmt.Errorf("sum up audit: %w", err)
	}
	return t.sorted(), nil
}

// totals are sums in the making.
type totals struct {
	by   []string
	sums map[string]*Sum
}

func (t *totals) file(ctx context.Context, f file, q Query, newest bool) error {
	from, until, ok := t.wholeHours(q)
	if !ok {
		return f.search(ctx, q, newest, func(db *sql.DB, from string, w where) (bool, error) { return true, t.rows(ctx, db, from, w) })
	}
	if err := t.hours(ctx, f, q, from, until); err != nil {
		return err
	}
	// What is left at both ends, and what goes on.
	for _, end := range q.ends(from, until) {
		if err := f.search(ctx, end, false, func(db *sql.DB, from string, w where) (bool, error) { return true, t.rows(ctx, db, from, w) }); err != nil {
			return err
		}
	}
	if !newest {
		return nil
	}
	db, err := f.readable()
	if err != nil {
		return err
	}
	return errors.Join(t.rows(ctx, db, live, q.where()), db.Close())
}

// The first and the last hour that there may be.
const (
	firstHour = -1 << 31
	lastHour  = 1 << 31
)

// wholeHours tells whether the sums by hour answer a query, and which hours are in it as a
// whole: from the first on and before the second.
func (t *totals) wholeHours(q Query) (from, until int64, ok bool) {
	for _, name := range t.by {
		if groupings()[name].hours == "" {
			return 0, 0, false
		}
	}
	if len(q.To) > 0 || q.MinBytes > 0 || len(q.Kinds) > 0 && !slices.Equal(q.Kinds, []Kind{Flow}) {
		return 0, 0, false
	}
	from, until = firstHour, lastHour
	if !q.Since.IsZero() {
		from = hourOf(q.Since.UnixMilli() + hourMillis - 1)
	}
	if !q.Until.IsZero() {
		until = hourOf(q.Until.UnixMilli())
	}
	return from, until, from < until
}

// ends gives what a query asks beside the whole hours.
func (q Query) ends(from, until int64) (ends []Query) {
	begin, end := time.UnixMilli(from*hourMillis), time.UnixMilli(until*hourMillis)
	if !q.Since.IsZero() && q.Since.Before(begin) {
		head := q
		head.Until = begin
		ends = append(ends, head)
	}
	if !q.Until.IsZero() && q.Until.After(end) {
		tail := q
		tail.Since = end
		ends = append(ends, tail)
	}
	return ends
}

// hours adds the sums by hour of a file.
func (t *totals) hours(ctx context.Context, f file, q Query, from, until int64) (err error) {
	db, err := f.readable()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	var w where
	w.add("h.hour >= ? AND h.hour < ?", from, until)
	if q.Denied {
		w.add("h.decision = 2")
	}
	w.or("h.user IN (SELECT id FROM words WHERE ", "text = ? COLLATE BINARY", ")", q.Users)
	w.or("h.groups IN (SELECT id FROM words WHERE ", "instr(',' || text || ',', ',' || ? || ',') > 0", ")", q.Groups)
	w.or("h.protocol IN (SELECT id FROM words WHERE ", "text = ? COLLATE NOCASE", ")", q.Protocols)
	w.or("h.rule IN (SELECT id FROM words WHERE ", "text = ? COLLATE NOCASE", ")", q.Rules)
	how := func(g grouping) (string, string) { return g.hours, g.hoursOutside }
	return t.query(ctx, db, how, "sum(h.flows) AS f, sum(h.up) AS u, sum(h.down) AS d, sum(h.sent) AS s, sum(h.received) AS c, sum(h.duration) AS t FROM hours h"+w.String(), w.args)
}

// rows adds up records.
func (t *totals) rows(ctx context.Context, db *sql.DB, from string, w where) error {
	how := func(g grouping) (string, string) { return g.inside, g.outside }
	return t.query(ctx, db, how, "count(*) AS f, sum(r.up) AS u, sum(r.down) AS d, sum(r.sent) AS s, sum(r.received) AS c, sum(r.duration) AS t FROM "+from+" r"+w.String(), w.args)
}

// query adds what a query gives, whose columns are the groups as how has them and then
// those of a Sum.
func (t *totals) query(ctx context.Context, db *sql.DB, how func(grouping) (inside, outside string), rest string, args []any) error {
	var groups, texts, by []string
	for i, name := range t.by {
		column := fmt.Sprint("k", i)
		inside, outside := how(groupings()[name])
		groups = append(groups, inside+" AS "+column)
		texts = append(texts, fmt.Sprintf(outside, column))
		by = append(by, column)
	}
	text := "SELECT " + strings.Join(append(groups, rest), ", ")
	if len(by) > 0 {
		text += " GROUP BY " + strings.Join(by, ", ")
	}
	rows, err := db.QueryContext(ctx, "SELECT "+strings.Join(append(texts, "f, u, d, s, c, t"), ", ")+" FROM ("+text+") WHERE f > 0", args...)
	if err != nil {
		return err
	}
	defer rows.Close() // Err has the error
	for rows.Next() {
		s := Sum{Key: make([]string, len(t.by))}
		var ms int64
		var cells []any
		for i := range s.Key {
			cells = append(cells, &s.Key[i])
		}
		if err := rows.Scan(append(cells, &s.Flows, &s.Up, &s.Down, &s.Sent, &s.Received, &ms)...); err != nil {
			return err
		}
		s.Duration = time.Duration(ms) * time.Millisecond
		if err := t.add(s); err != nil {
			return err
		}
	}
	return rows.Err()
}

// add adds a sum to its group, or to each of its groups.
func (t *totals) add(s Sum) error {
	i := slices.Index(t.by, "group")
	if i < 0 || !strings.Contains(s.Key[i], ",") {
		return t.addOne(s)
	}
	for group := range strings.SplitSeq(s.Key[i], ",") {
		one := s
		one.Key = slices.Clone(s.Key)
		one.Key[i] = group
		if err := t.addOne(one); err != nil {
			return err
		}
	}
	return nil
}

func (t *totals) addOne(s Sum) error {
	key := strings.Join(s.Key, "\x00") // which no text in the warehouse has
	if known := t.sums[key]; known != nil {
		known.add(s)
		return nil
	}
	if len(t.sums) >= maxGroups {
		return errGroups
	}
	t.sums[key] = &s
	return nil
}

func (t *totals) sorted() []Sum {
	all := make([]Sum, 0, len(t.sums))
	for _, s := range t.sums {
		all = append(all, *s)
	}
	slices.SortFunc(all, func(a, b Sum) int {
		return cmp.Or(cmp.Compare(b.Up+b.Down, a.Up+a.Down), cmp.Compare(b.Flows, a.Flows), slices.Compare(a.Key, b.Key))
	})
	return all
}
