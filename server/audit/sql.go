package audit

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// maxAttached is how many files SQLite takes together.
const maxAttached = 10

// ErrStatement says that a text is not one statement that only reads.
var ErrStatement = errors.New("it must be one SELECT")

// SQL runs a query in SQLite's SQL over the last ten files that were begun between since and
// until, and calls yield with the columns and each row until it says false. What it asks are the
// views records, flows, sessions, logins, failures, policies and acts. It cannot change
// anything.
func (r *Reader) SQL(ctx context.Context, query string, since, until time.Time, yield func(columns []string, row []any) bool) error {
	err := oneSelect(query)
	if err == nil {
		err = r.sql(ctx, query, since, until, yield)
	}
	if err != nil {
		return fmt.Errorf("ask audit: %w", err)
	}
	return nil
}

func (r *Reader) sql(ctx context.Context, query string, since, until time.Time, yield func([]string, []any) bool) (err error) {
	all, err := files(r.dir)
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(f file) bool {
		return !until.IsZero() && f.day.After(until) || !since.IsZero() && f.day.AddDate(0, 0, 1).Before(since)
	})
	all = all[max(0, len(all)-maxAttached):]
	db, err := sql.Open("sqlite", ":memory:?_defensive=1&_dqs=0")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if err := attach(ctx, conn, all); err != nil {
		return err
	}
	rows, err := conn.QueryContext(ctx, query)
	if err != nil {
		return err
	}
	defer rows.Close() // Err has the error
	columns, err := rows.Columns()
	if err != nil {
		return err
	}
	row, cells := make([]any, len(columns)), make([]any, len(columns))
	for i := range row {
		cells[i] = &row[i]
	}
	for rows.Next() {
		if err := rows.Scan(cells...); err != nil {
			return err
		}
		if !yield(columns, row) {
			return nil
		}
	}
	return rows.Err()
}

// viewColumns are what the views show of a record, and viewJoins where it is.
const viewColumns = `r.seq, CASE r.kind WHEN 1 THEN 'flow' WHEN 2 THEN 'session' WHEN 3 THEN 'login' WHEN 4 THEN 'failure' WHEN 5 THEN 'policy' ELSE 'act' END AS kind,
	o.run || '-' || r.id AS id, r.begin, strftime('%Y-%m-%dT%H:%M:%fZ', r.begin / 1000.0, 'unixepoch') AS time, r.duration,
	o.exit, o.session, o.user, o.device, o.groups, o.source, r.source_port, o.door, o.dialect, o.method,
	o.carrier, o.version, o.key_exchange, o.cipher, o.ipsec, o.gss,
	wc.text AS command, wn.text AS name, wa.text AS address, r.port, wp.text AS protocol, wh.text AS host,
	CASE r.decision WHEN 1 THEN 'allowed' WHEN 2 THEN 'refused' ELSE '' END AS decision, wr.text AS rule,
	r.up, r.down, r.sent, r.received, r.connect, r.first_byte, r.resumes, we.text AS ended, ww.text AS what`

const viewJoins = ` r JOIN origins o ON o.id = r.origin
	JOIN words wc ON wc.id = r.command JOIN words wn ON wn.id = r.name JOIN words wa ON wa.id = r.address
	JOIN words wp ON wp.id = r.protocol JOIN words wh ON wh.id = r.host JOIN words wr ON wr.id = r.rule
	JOIN words we ON we.id = r.ended JOIN words ww ON ww.id = r.what`

// views are what SQL can ask, by the kind of record; 0: all.
func views() map[string]Kind {
	return map[string]Kind{"records": 0, "flows": Flow, "sessions": Session, "logins": Login, "failures": Failure, "policies": Policy, "acts": Act}
}

// attach makes the files and the views over them what a connection sees, and nothing else.
func attach(ctx context.Context, conn *sql.Conn, all []file) error {
	if len(all) == 0 {
		return errors.New("there are no records of that time")
	}
	var parts []string
	for i, f := range all {
		if _, err := f.inspect(); err != nil {
			return err
		}
		name := fmt.Sprint("file", i)
		if _, err := conn.ExecContext(ctx, "ATTACH ? AS "+name, dsn(f.path, "mode=ro")); err != nil {
			return err
		}
		in := strings.NewReplacer("JOIN ", "JOIN "+name+".").Replace(viewJoins)
		parts = append(parts, "SELECT "+viewColumns+" FROM "+name+".records"+in)
	}
	for view, kind := range views() {
		where := ""
		if kind != 0 {
			where = fmt.Sprint(" WHERE r.kind = ", int64(kind))
		}
		text := "CREATE TEMP VIEW " + view + " AS " + strings.Join(parts, where+" UNION ALL ") + where
		if _, err := conn.ExecContext(ctx, text); err != nil {
			return err
		}
	}
	if _, err := sqlite.Limit(conn, sqlite3.SQLITE_LIMIT_ATTACHED, 0); err != nil {
		return err
	}
	_, err := conn.ExecContext(ctx, "PRAGMA query_only = 1")
	return err
}

// oneSelect tells whether a text is one statement that begins as one that only reads
// does. The driver would run several, one after another.
func oneSelect(text string) error {
	rest := skipBlank(text)
	word := rest
	if i := strings.IndexFunc(rest, func(r rune) bool { return (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') }); i >= 0 {
		word = rest[:i]
	}
	if !slices.Contains([]string{"SELECT", "WITH", "VALUES", "EXPLAIN"}, strings.ToUpper(word)) {
		return ErrStatement
	}
	for rest != "" {
		switch rest[0] {
		case ';':
			if skipBlank(rest[1:]) != "" {
				return ErrStatement
			}
			return nil
		case '$', '@', '#', ':', 0: // parameters, which have quoting rules of their own
			return ErrStatement
		}
		rest = skipToken(rest)
	}
	return nil
}

// skipBlank skips white space and comments.
func skipBlank(text string) string {
	for {
		text = strings.TrimLeft(text, " \t\n\f\r")
		if !strings.HasPrefix(text, "--") && !strings.HasPrefix(text, "/*") {
			return text
		}
		text = skipToken(text)
	}
}

// skipToken skips what is quoted, a comment, or one byte.
func skipToken(text string) string {
	for _, quote := range []struct{ before, after string }{{"--", "\n"}, {"/*", "*/"}, {"'", "'"}, {`"`, `"`}, {"`", "`"}, {"[", "]"}} {
		if rest, ok := strings.CutPrefix(text, quote.before); ok {
			_, rest, _ = strings.Cut(rest, quote.after)
			return rest
		}
	}
	return text[1:]
}
