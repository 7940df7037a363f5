package audit

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// How many records are read before their texts are: few at first, for those who want only these.
// All texts of the most are less than half of what a cache holds.
const (
	firstRun = 64
	mostRun  = 1024
)

// numbers is a record as it is in the file, in the order of recordFields.
type numbers [recordColumns]int64

const recordFields = `r.seq, r.kind, r.origin, r.id, r.begin, r.duration, r.source_port, r.command, r.name, r.address, r.port, r.protocol,
	r.host, r.decision, r.rule, r.up, r.down, r.sent, r.received, r.connect, r.first_byte, r.resumes, r.ended, r.what`

// originColumn is where a record names its origin.
const originColumn = 2

// recordWords is how many words a record names, and wordColumns where.
const recordWords = 8

func wordColumns() [recordWords]int { return [...]int{7, 8, 9, 11, 12, 14, 22, 23} }

// entries calls yield for records in an order until it says false. The entry is another one's
// when yield has returned.
func entries(ctx context.Context, db *sql.DB, from string, w where, order string, yield func(*entry) bool) (more bool, err error) {
	rows, err := db.QueryContext(ctx, "SELECT "+recordFields+" FROM "+from+" r"+w.String()+" ORDER BY r.seq "+order, w.args...)
	if err != nil {
		return false, err
	}
	defer rows.Close() // Err has the error
	t := texts{db: db}
	run := make([]numbers, 0, firstRun)
	for {
		if run, err = scanRun(rows, run); err != nil || len(run) == 0 {
			return err == nil, err
		}
		if err := t.learn(ctx, run); err != nil {
			return false, err
		}
		for i := range run {
			e, err := t.entry(&run[i])
			if err != nil || !yield(&e) {
				return false, err
			}
		}
		if cap(run) < mostRun {
			run = make([]numbers, 0, 2*cap(run))
		}
	}
}

// scanRun reads as many records as a run may have, or fewer if there are no more.
func scanRun(rows *sql.Rows, run []numbers) ([]numbers, error) {
	run = run[:0]
	var values, cells [recordColumns]any // what is no pointer to a value as it is costs twice as much
	for i := range values {
		cells[i] = &values[i]
	}
	for len(run) < cap(run) && rows.Next() {
		if err := rows.Scan(cells[:]...); err != nil {
			return nil, fmt.Errorf("read record: %w", err)
		}
		var n numbers
		for i, v := range values {
			var ok bool
			if n[i], ok = v.(int64); !ok {
				return nil, fmt.Errorf("read record %d: column %d is no number", n[0], i)
			}
		}
		run = append(run, n)
	}
	return run, rows.Err()
}

// texts are what the numbers of a file stand for. A join would look for each text of each row
// anew, which costs more than all the rest, and most are those of a row before.
type texts struct {
	db      *sql.DB
	words   cache[int64, string]
	origins cache[int64, *originKey]
	last    [recordWords]struct { // of the record before: neighbours are often alike
		id   int64
		text string
	}
}

// learn reads the texts of a run that are not known yet.
func (t *texts) learn(ctx context.Context, run []numbers) error {
	var words, origins []int64
	for i := range run {
		for _, c := range wordColumns() {
			id := run[i][c]
			if i > 0 && id == run[i-1][c] {
				continue
			}
			if _, ok := t.words.get(id); !ok {
				words = append(words, id)
			}
		}
		id := run[i][originColumn]
		if _, ok := t.origins.get(id); !ok {
			origins = append(origins, id)
		}
	}
	err := t.read(ctx, "id, text FROM words", words, func(rows *sql.Rows) error {
		var id int64
		var text string
		err := rows.Scan(&id, &text)
		t.words.put(id, text)
		return err
	})
	if err != nil {
		return err
	}
	return t.read(ctx, "id, run, exit, session, user, device, groups, source, door, dialect, method, carrier, version, key_exchange, cipher, ipsec, gss FROM origins",
		origins, func(rows *sql.Rows) error {
			var id int64
			var source string
			o := new(originKey)
			err := rows.Scan(&id, &o.run, &o.Exit, &o.Session, &o.User, &o.Device, &o.Groups, &source, &o.Door, &o.Dialect, &o.Method,
				&o.Carrier, &o.Version, &o.KeyExchange, &o.Cipher, &o.IPsec, &o.GSS)
			o.Source, _ = netip.ParseAddr(source) // what is no address is shown as none
			t.origins.put(id, o)
			return err
		})
}

// read calls scan for the rows with some ids.
func (t *texts) read(ctx context.Context, what string, ids []int64, scan func(*sql.Rows) error) error {
	if len(ids) == 0 {
		return nil
	}
	slices.Sort(ids)
	list, _ := json.Marshal(slices.Compact(ids)) // numbers always can
	rows, err := t.db.QueryContext(ctx, "SELECT "+what+" WHERE id IN (SELECT value FROM json_each(?))", string(list))
	if err != nil {
		return err
	}
	defer rows.Close() // Err has the error
	for rows.Next() {
		if err := scan(rows); err != nil {
			return fmt.Errorf("read texts: %w", err)
		}
	}
	return rows.Err()
}

// entry gives a record of the run that was learned last.
func (t *texts) entry(n *numbers) (entry, error) {
	var words [recordWords]string
	for i, c := range wordColumns() {
		last := &t.last[i]
		if last.id != n[c] {
			text, ok := t.words.get(n[c])
			if !ok {
				return entry{}, fmt.Errorf("record %d has a word %d, which the file has not", n[0], n[c])
			}
			last.id, last.text = n[c], text
		}
		words[i] = last.text
	}
	o, ok := t.origins.get(n[originColumn])
	if !ok {
		return entry{}, fmt.Errorf("record %d has an origin %d, which the file has not", n[0], n[originColumn])
	}
	e := entry{run: o.run, number: n[3]}
	e.Seq, e.Kind, e.Origin, e.ID = n[0], Kind(n[1]), o.Origin, recordID(o.run, n[3])
	e.Begin = time.UnixMilli(n[4]).UTC()
	e.Duration = time.Duration(n[5]) * time.Millisecond
	e.SourcePort, e.Port = uint16(n[6]), uint16(n[10])
	e.Command, e.Name, e.Protocol, e.Host, e.Rule, e.End, e.What = words[0], words[1], words[3], words[4], words[5], words[6], words[7]
	e.Address, _ = netip.ParseAddr(words[2])
	e.Decision = Decision(n[13])
	e.Up, e.Down, e.Sent, e.Received = n[15], n[16], n[17], n[18]
	e.Connect = time.Duration(n[19]) * time.Microsecond
	e.FirstByte = time.Duration(n[20]) * time.Microsecond
	e.Resumes = int(n[21])
	return e, nil
}
