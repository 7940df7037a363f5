package audit

import (
	"context"
	"database/sql"
	"encoding/binary"
	"encoding/json"
)

// part is a run of records in a file, or some of them.
type part struct {
	first, last int64
	some        []int64 // in order; nil: all from first to last
}

// maxSome bounds how many records are picked out by one question to the file.
const maxSome = 1 << 14

// in is the condition on the records of a part.
func (q Query) in(p part) where {
	w := q.where()
	if p.some == nil {
		w.add("r.seq BETWEEN ? AND ?", p.first, p.last)
		return w
	}
	list, _ := json.Marshal(p.some) // numbers always can
	w.add("r.seq IN (SELECT value FROM json_each(?))", string(list))
	return w
}

// parts gives where in a file there may be records that fit, in order.
func parts(ctx context.Context, db *sql.DB, q Query) (all []part, err error) {
	var first, last sql.Null[int64]
	if err := db.QueryRowContext(ctx, "SELECT (SELECT min(seq) FROM records), (SELECT max(seq) FROM records)").Scan(&first, &last); err != nil {
		return nil, err
	}
	if !last.Valid {
		return nil, nil
	}
	known, err := q.blocks(ctx, db)
	if err != nil {
		return nil, err
	}
	for n := first.V >> blockBits; n <= last.V>>blockBits; n++ {
		some, ok := known[n]
		switch end := len(all) - 1; {
		case ok && len(some) == 0:
		case ok && end >= 0 && all[end].some != nil && len(all[end].some)+len(some) <= maxSome:
			all[end].some = append(all[end].some, some...)
		case ok:
			all = append(all, part{some: some})
		case end >= 0 && all[end].some == nil && all[end].last == n<<blockBits-1:
			all[end].last += 1 << blockBits
		default:
			all = append(all, part{first: n << blockBits, last: (n+1)<<blockBits - 1})
		}
	}
	return all, nil
}

// blocks gives for each block in which not most records may fit those that may.
func (q Query) blocks(ctx context.Context, db *sql.DB) (known map[int64][]int64, err error) {
	origins, err := idsOf(ctx, db, "origins", q.origins())
	if err != nil {
		return nil, err
	}
	words, err := idsOf(ctx, db, "words", q.words())
	if err != nil || origins == nil && words == nil && q.Since.IsZero() && q.Until.IsZero() {
		return nil, err
	}
	rows, err := db.QueryContext(ctx, "SELECT "+blockColumns+" FROM blocks")
	if err != nil {
		return nil, err
	}
	defer rows.Close() // Err has the error
	known = make(map[int64][]int64)
	for rows.Next() {
		var b block
		if err := b.scan(rows); err != nil {
			return nil, err
		}
		if !q.Since.IsZero() && b.latest < q.Since.UnixMilli() || !q.Until.IsZero() && b.earliest >= q.Until.UnixMilli() {
			known[b.n] = nil
		} else if some, most := b.pick(origins, words); !most {
			known[b.n] = some
		}
	}
	return known, rows.Err()
}

// pick gives the records with one of the origins and one of the words, of which nil are
// any, and tells whether these are most of the block's.
func (b *block) pick(origins, words map[int64]bool) (some []int64, most bool) {
	fit := make([]bool, 1<<blockBits)
	match(fit, b.origins, origins)
	if words != nil {
		to := make([]bool, len(fit))
		for _, column := range b.targets {
			match(to, column, words)
		}
		for i := range fit {
			fit[i] = fit[i] && to[i]
		}
	}
	for i, fits := range fit {
		if fits {
			some = append(some, b.first+int64(i))
		}
	}
	return some, len(some) > len(fit)/2
}

// match notes which ids in a column are among those wanted, where nil are any.
func match(fit []bool, column []byte, wanted map[int64]bool) {
	var last uint64
	var is bool
	for i := range fit {
		id, n := binary.Uvarint(column)
		if n <= 0 {
			return
		}
		if id != last || i == 0 { // neighbours are often alike
			last, is = id, wanted == nil || wanted[int64(id)]
		}
		fit[i] = fit[i] || is
		column = column[n:]
	}
}

// idsOf gives the rows of a table for which a condition holds, or nil if there is none.
func idsOf(ctx context.Context, db *sql.DB, table string, w where) (map[int64]bool, error) {
	if len(w.terms) == 0 {
		return nil, nil
	}
	rows, err := db.QueryContext(ctx, "SELECT id FROM "+table+w.String(), w.args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close() // Err has the error
	ids := make(map[int64]bool)
	for rows.Next() {
		var id int64
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		ids[id] = true
	}
	return ids, rows.Err()
}
