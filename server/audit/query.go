package audit

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Query says which records are wanted: those for which all that it says is true. Of
// several values of one kind, one has to fit.
type Query struct {
	Kinds     []Kind // none: flows
	Users     []string
	Groups    []string
	To        []string // names, *.example.org, addresses, 192.0.2.0/24
	Protocols []string
	Rules     []string

	Since, Until time.Time // when it began: from Since on, and before Until; zero: at any time
	Denied       bool      // what was refused
	MinBytes     int64     // both ways together
}

// Reader asks the warehouse in a directory. It may do so while a [Writer] writes, and never
// changes a record. Its methods are safe for concurrent use.
type Reader struct{ dir string }

// NewReader gives a Reader. Nothing is opened before it is asked.
func NewReader(dir string) *Reader { return &Reader{dir} }

// Usage is what a warehouse takes.
type Usage struct {
	Files int
	Bytes int64
}

// Usage tells what there is, and whether it may be read. No directory is an empty one.
func (r *Reader) Usage() (Usage, error) {
	var u Usage
	all, err := files(r.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return u, nil
	}
	for _, f := range all {
		if err == nil {
			_, err = f.inspect()
		}
		u.Files++
		u.Bytes += f.size()
	}
	if err != nil {
		return u, fmt.Errorf("look at audit: %w", err)
	}
	return u, nil
}

// Records gives the records that fit, as they ended, and then what goes on. After an error
// there are no more.
func (r *Reader) Records(ctx context.Context, q Query) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		all, err := files(r.dir)
		if err != nil {
			yield(Record{}, fmt.Errorf("read audit: %w", err))
			return
		}
		for i, f := range all {
			more := true
			err := f.each(ctx, q, i == len(all)-1, func(e Record) bool { more = yield(e, nil); return more })
			if err != nil && more {
				yield(Record{}, fmt.Errorf("read audit: %w", err))
			}
			if err != nil || !more {
				return
			}
		}
	}
}

// Last gives the last n of the records that fit, in the order of Records.
func (r *Reader) Last(ctx context.Context, q Query, n int) ([]Record, error) {
	all, err := files(r.dir)
	var last []Record // the last one first
	for i := len(all) - 1; i >= 0 && err == nil && len(last) < n; i-- {
		err = all[i].last(ctx, q, i == len(all)-1, func(e Record) bool {
			last = append(last, e)
			return len(last) < n
		})
	}
	if err != nil {
		return nil, fmt.Errorf("read audit: %w", err)
	}
	slices.Reverse(last)
	return last, nil
}

// each calls yield for the records of one file until it says false.
func (f file) each(ctx context.Context, q Query, newest bool, yield func(Record) bool) error {
	return f.search(ctx, q, newest, func(db *sql.DB, from string, w where) (more bool, err error) {
		return records(ctx, db, from, w, "ASC", yield)
	})
}

// last is each from the last record on.
func (f file) last(ctx context.Context, q Query, newest bool, yield func(Record) bool) (err error) {
	db, err := f.readable()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if newest {
		if more, err := records(ctx, db, live, q.where(), "DESC", yield); err != nil || !more {
			return err
		}
	}
	parts, err := parts(ctx, db, q)
	for _, p := range slices.Backward(parts) {
		if more, err := records(ctx, db, "records", q.in(p), "DESC", yield); err != nil || !more {
			return err
		}
	}
	return err
}

// records calls yield for records in an order until it says false.
func records(ctx context.Context, db *sql.DB, from string, w where, order string, yield func(Record) bool) (more bool, err error) {
	return entries(ctx, db, from, w, order, func(e *entry) bool {
		if e.Open = from == live; e.Open {
			e.Seq = 0
		}
		return yield(e.Record)
	})
}

// search calls do for each part of a file in which there may be records that fit, and, if it is
// the newest file, for what goes on.
func (f file) search(ctx context.Context, q Query, newest bool, do func(db *sql.DB, from string, w where) (more bool, err error)) (err error) {
	db, err := f.readable()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	parts, err := parts(ctx, db, q)
	if err != nil {
		return fmt.Errorf("%s: %w", f.path, err)
	}
	for _, p := range parts {
		if more, err := do(db, "records", q.in(p)); err != nil || !more {
			return err
		}
	}
	if newest {
		_, err = do(db, live, q.where())
	}
	return err
}

// where is a condition on a record r and its origin o.
type where struct {
	terms []string
	args  []any
}

func (w *where) add(term string, args ...any) {
	w.terms = append(w.terms, term)
	w.args = append(w.args, args...)
}

func (w where) String() string {
	if len(w.terms) == 0 {
		return ""
	}
	return " WHERE (" + strings.Join(w.terms, ") AND (") + ")"
}

// or adds that one of the terms holds, each of which has one argument.
func (w *where) or(before, term, after string, values []string) {
	if len(values) == 0 {
		return
	}
	terms := make([]string, len(values))
	args := make([]any, len(values))
	for i, v := range values {
		terms[i], args[i] = term, Clean(v)
	}
	w.add(before+strings.Join(terms, " OR ")+after, args...)
}

func (q Query) where() (w where) {
	kinds := q.Kinds
	if len(kinds) == 0 {
		kinds = []Kind{Flow}
	}
	terms := make([]string, len(kinds))
	for i, k := range kinds {
		terms[i] = fmt.Sprint("r.kind = ", int64(k))
	}
	w.add(strings.Join(terms, " OR "))
	if !q.Since.IsZero() {
		w.add("r.begin >= ?", q.Since.UnixMilli())
	}
	if !q.Until.IsZero() {
		w.add("r.begin < ?", q.Until.UnixMilli())
	}
	if q.Denied {
		w.add("r.decision = 2")
	}
	if q.MinBytes > 0 {
		w.add("r.up + r.down >= ?", q.MinBytes)
	}
	if who := q.origins(); len(who.terms) > 0 {
		w.add("r.origin IN (SELECT id FROM origins"+who.String()+")", who.args...)
	}
	if to := q.words(); len(to.terms) > 0 {
		ids := "(SELECT id FROM words" + to.String() + ")"
		w.add("r.name IN "+ids+" OR r.address IN "+ids+" OR r.host IN "+ids, slices.Concat(to.args, to.args, to.args)...)
	}
	w.or("r.protocol IN (SELECT id FROM words WHERE ", "text = ? COLLATE NOCASE", ")", q.Protocols)
	w.or("r.rule IN (SELECT id FROM words WHERE ", "text = ? COLLATE NOCASE", ")", q.Rules)
	return w
}

// origins is the condition on origins.
func (q Query) origins() (w where) {
	w.or("", "user = ?", "", q.Users)
	w.or("", "instr(',' || groups || ',', ',' || ? || ',') > 0", "", q.Groups)
	return w
}

// words is the condition on the words that are targets.
func (q Query) words() (w where) {
	var terms []string
	for _, to := range q.To {
		network, err := netip.ParsePrefix(to)
		if a, err2 := netip.ParseAddr(to); err2 == nil {
			network, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		domain, wild := strings.CutPrefix(to, "*.")
		switch {
		case err == nil:
			first, last := bounds(network)
			terms, w.args = append(terms, "ip BETWEEN ? AND ?"), append(w.args, first, last)
		case wild:
			terms, w.args = append(terms, "text LIKE ? ESCAPE '|'"), append(w.args, "%."+likeEscaper.Replace(Clean(domain)))
		default:
			terms, w.args = append(terms, "text = ? COLLATE NOCASE"), append(w.args, Clean(to))
		}
	}
	if len(terms) > 0 {
		w.terms = []string{strings.Join(terms, " OR ")}
	}
	return w
}

var likeEscaper = strings.NewReplacer("|", "||", "%", "|%", "_", "|_")

// bounds gives the first and the last address of a network, as words have them.
func bounds(n netip.Prefix) (first, last []byte) {
	bits := n.Bits()
	if n.Addr().Is4() {
		bits += 96
	}
	a := n.Addr().As16()
	b := a
	for i := range a {
		host := byte(0xff)
		switch left := bits - 8*i; {
		case left >= 8:
			host = 0
		case left > 0:
			host >>= left
		}
		a[i] &^= host
		b[i] |= host
	}
	return a[:], b[:]
}
