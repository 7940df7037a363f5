package audit

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"net/netip"
	"time"
)

const (
	recordColumns = 24
	originColumns = 17
)

// entry is a record on its way to the file.
type entry struct {
	Record
	run     string
	number  int64 // the Record's ID, within the run
	opening int64 // its place in opened; 0: it has none
}

// batch is what goes to the file together.
type batch struct {
	opened   []*entry
	progress []entry // of what has an opening
	records  []*entry
}

func (b *batch) empty() bool { return len(b.opened)+len(b.progress)+len(b.records) == 0 }

// turn is one transaction.
type turn struct {
	*day
	ctx  context.Context
	now  time.Time
	seal *sealing
	outcome
	hours map[hourKey]*hourSum
	pauses

	// Of the record before: neighbours are often alike, and then there is nothing to look up.
	row          [recordColumns]any
	said         [recordWords]known[string]
	user, groups known[string]
	from         known[originKey]
	hour         hourKey
	sum          *hourSum // of hour
}

// known is what has an id, which is not 0.
type known[K comparable] struct {
	key K
	id  int64
}

// outcome is what has come of a turn.
type outcome struct {
	sealed   seal
	openings []int64 // where in opened the batch's are, in its order
}

var errShrunk = errors.New("seals are missing that were in the file: somebody has put an older one in its place")

func (t *turn) run(b *batch) error {
	before, err := lastSeal(t.ctx, t.conn)
	if err != nil {
		return err
	}
	var closed int
	if err := t.conn.QueryRowContext(t.ctx, "SELECT count(*) FROM closed").Scan(&closed); err != nil {
		return err
	}
	switch {
	case t.lost.sealed.N > 0 && before.Head == t.lost.sealed.Head:
		t.sealed, t.openings = t.lost.sealed, t.lost.openings // it was committed after all
		return nil
	case closed > 0:
		return errClosed
	case before.N < t.last.N:
		return errShrunk
	}
	t.seal, t.hours = newSealing(before), make(map[hourKey]*hourSum)
	for _, e := range b.opened {
		t.giveWay()
		if err := t.open(e); err != nil {
			return err
		}
	}
	for i := range b.progress {
		t.giveWay()
		if err := t.note(b.progress[i].opening, &b.progress[i]); err != nil {
			return err
		}
	}
	for _, e := range b.records {
		t.giveWay()
		if err := t.record(e); err != nil {
			return err
		}
	}
	if err := t.addHours(); err != nil {
		return err
	}
	t.sealed = t.seal.close(t.now.UnixMilli())
	if err := addSeal(t.ctx, t.conn, t.sealed); err != nil {
		return err
	}
	t.giveWay() // the disk comes next
	return nil
}

// next is the id of the next row of a table.
func (t *turn) next(table int) int64 { return t.seal.last[table] + 1 }

// add adds a row to a table that is sealed.
func (t *turn) add(table int, insert *statement, row []any) error {
	t.seal.add(table, row)
	return insert.exec(t.ctx, row...)
}

func (t *turn) open(e *entry) error {
	if err := t.fill(t.next(tableOpened), e); err != nil {
		return err
	}
	if err := t.add(tableOpened, t.addOpened, t.row[:]); err != nil {
		return err
	}
	opening := t.seal.last[tableOpened]
	t.openings = append(t.openings, opening)
	return t.note(opening, e)
}

// note says how far something has come.
func (t *turn) note(opening int64, e *entry) error {
	return t.setProgress.exec(t.ctx, opening, e.run, e.Duration.Milliseconds(), e.Up, e.Down, e.Sent, e.Received, int64(e.Resumes))
}

func (t *turn) record(e *entry) error {
	if err := t.fill(t.next(tableRecords), e); err != nil {
		return err
	}
	if err := t.add(tableRecords, t.addRecord, t.row[:]); err != nil {
		return err
	}
	if e.Kind == Flow {
		if err := t.count(e); err != nil {
			return err
		}
	}
	if err := t.fillBlock(); err != nil || e.opening == 0 {
		return err
	}
	return t.dropProgress.exec(t.ctx, e.opening)
}

// fill makes the row of a record.
func (t *turn) fill(id int64, e *entry) error {
	origin, err := t.origin(e)
	if err != nil {
		return err
	}
	var words [recordWords]int64
	for i, text := range [...]string{e.Command, e.Name, "", e.Protocol, e.Host, e.Rule, e.End, e.What} {
		if i == 2 {
			words[i], err = t.address(e.Address)
		} else {
			words[i], err = t.wordAfter(&t.said[i], text)
		}
		if err != nil {
			return err
		}
	}
	for i, n := range [recordColumns]int64{
		id, int64(e.Kind), origin, e.number, e.Begin.UnixMilli(), e.Duration.Milliseconds(), int64(e.SourcePort),
		words[0], words[1], words[2], int64(e.Port), words[3], words[4], int64(e.Decision), words[5],
		e.Up, e.Down, e.Sent, e.Received, e.Connect.Microseconds(), e.FirstByte.Microseconds(), int64(e.Resumes), words[6], words[7],
	} {
		if before, ok := t.row[i].(int64); !ok || n != before {
			t.row[i] = n // which takes memory
		}
	}
	return nil
}

// wordAfter is word where the text is likely to be the one before.
func (t *turn) wordAfter(before *known[string], text string) (int64, error) {
	if before.id != 0 && before.key == text {
		return before.id, nil
	}
	id, err := t.word(text)
	if err == nil {
		*before = known[string]{text, id}
	}
	return id, err
}

// word gives the id of a text, which is a new one if the text is.
func (t *turn) word(text string) (int64, error) {
	if id, ok := t.words.get(text); ok {
		return id, nil
	}
	if err := t.add(tableWords, t.addWord, []any{t.next(tableWords), Clean(text), nil}); err != nil {
		return 0, err
	}
	t.words.put(text, t.seal.last[tableWords])
	return t.seal.last[tableWords], nil
}

// address is word for an address. The zero one is no text.
func (t *turn) address(a netip.Addr) (int64, error) {
	if !a.IsValid() {
		return t.word("")
	}
	if id, ok := t.addresses.get(a); ok {
		return id, nil
	}
	ip := a.As16()
	if err := t.add(tableWords, t.addWord, []any{t.next(tableWords), Clean(a.String()), ip[:]}); err != nil {
		return 0, err
	}
	t.addresses.put(a, t.seal.last[tableWords])
	return t.seal.last[tableWords], nil
}

// origin gives the id of a record's origin.
func (t *turn) origin(e *entry) (int64, error) {
	if before := &t.from; before.id != 0 && before.key.run == e.run && before.key.Origin == e.Origin {
		return before.id, nil
	}
	key := originKey{e.run, e.Origin}
	if id, ok := t.origins.get(key); ok {
		t.from = known[originKey]{key, id}
		return id, nil
	}
	row := []any{t.next(tableOrigins), e.run}
	for _, text := range [...]string{
		e.Exit, e.Session, e.User, e.Device, e.Groups, addrText(e.Source), e.Door, e.Dialect, e.Method,
		e.Carrier, e.Version, e.KeyExchange, e.Cipher, e.IPsec, e.GSS,
	} {
		row = append(row, Clean(text))
	}
	if err := t.add(tableOrigins, t.addOrigin, row); err != nil {
		return 0, err
	}
	t.origins.put(key, t.seal.last[tableOrigins])
	return t.seal.last[tableOrigins], nil
}

func addrText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// hourKey names a row of hours, and hourSum is what is added to it.
type (
	hourKey struct{ hour, user, groups, protocol, rule, decision int64 }
	hourSum struct{ flows, up, down, sent, received, duration int64 }
)

const addHourQuery = `INSERT INTO hours VALUES (?,?,?,?,?,?,?,?,?,?,?,?)
	ON CONFLICT (hour, user, groups, protocol, rule, decision) DO UPDATE SET flows = flows + excluded.flows,
	up = up + excluded.up, down = down + excluded.down, sent = sent + excluded.sent,
	received = received + excluded.received, duration = duration + excluded.duration`

// count adds a flow to its hour.
func (t *turn) count(e *entry) error {
	user, err := t.wordAfter(&t.user, e.User)
	if err != nil {
		return err
	}
	groups, err := t.wordAfter(&t.groups, e.Groups)
	if err != nil {
		return err
	}
	// t.row has the other words.
	key := hourKey{hourOf(e.Begin.UnixMilli()), user, groups, t.row[11].(int64), t.row[14].(int64), int64(e.Decision)}
	if t.sum == nil || t.hour != key {
		if t.hours[key] == nil {
			t.hours[key] = new(hourSum)
		}
		t.hour, t.sum = key, t.hours[key]
	}
	sum := t.sum
	sum.flows++
	sum.up += e.Up
	sum.down += e.Down
	sum.sent += e.Sent
	sum.received += e.Received
	sum.duration += e.Duration.Milliseconds()
	return nil
}

const hourMillis = int64(time.Hour / time.Millisecond)

// hourOf gives the hour that a millisecond is in, before 1970, too.
func hourOf(ms int64) int64 {
	h := ms / hourMillis
	if ms%hourMillis < 0 {
		h--
	}
	return h
}

func (t *turn) addHours() error {
	for k, s := range t.hours {
		t.giveWay()
		if err := t.addHour.exec(t.ctx, k.hour, k.user, k.groups, k.protocol, k.rule, k.decision,
			s.flows, s.up, s.down, s.sent, s.received, s.duration); err != nil {
			return err
		}
	}
	return nil
}

// blockBits says how many records are in a block: 4096.
const blockBits = 12

// fillBlock adds the record that was added last to its block, and adds the block's row when it
// is full.
func (t *turn) fillBlock() error {
	seq := t.seal.last[tableRecords]
	f := &t.filling
	if n := seq >> blockBits; n != f.n || seq < f.next {
		*f = filling{block: block{n: n}, next: n << blockBits}
	}
	if f.next < seq { // others may have written there, or this process before it was started anew
		if err := f.read(t.ctx, t.conn, f.next, seq-1, t.giveWay); err != nil {
			return err
		}
	}
	// t.row has the words.
	f.add(seq, t.row[4].(int64), t.row[2].(int64), [3]int64{t.row[8].(int64), t.row[9].(int64), t.row[12].(int64)})
	f.next = seq + 1
	if f.next>>blockBits == f.n {
		return nil
	}
	return t.addBlock.exec(t.ctx, f.cells()...)
}

// block is a row of blocks.
type block struct {
	n, first, earliest, latest int64
	origins                    []byte
	targets                    [3][]byte // names, addresses and hosts
}

// filling is a block that is not full, and the seq that it goes on with: it has all before that.
type filling struct {
	block
	next int64
}

// add adds the next record.
func (b *block) add(seq, begin, origin int64, targets [3]int64) {
	if b.first == 0 {
		b.first, b.earliest, b.latest = seq, begin, begin
	}
	b.earliest, b.latest = min(b.earliest, begin), max(b.latest, begin)
	b.origins = binary.AppendUvarint(b.origins, uint64(origin))
	for i, id := range targets {
		b.targets[i] = binary.AppendUvarint(b.targets[i], uint64(id))
	}
}

const blockColumns = "n, first, earliest, latest, origins, names, addresses, hosts"

func (b *block) cells() []any {
	return []any{b.n, b.first, b.earliest, b.latest, b.origins, b.targets[0], b.targets[1], b.targets[2]}
}

// scan reads blockColumns.
func (b *block) scan(rows *sql.Rows) error {
	return rows.Scan(&b.n, &b.first, &b.earliest, &b.latest, &b.origins, &b.targets[0], &b.targets[1], &b.targets[2])
}

// read adds the records from one to another, of which there may be none, and calls pause
// between them.
func (b *block) read(ctx context.Context, q queryer, from, to int64, pause func()) error {
	rows, err := q.QueryContext(ctx, "SELECT seq, begin, origin, name, address, host FROM records WHERE seq BETWEEN ? AND ? ORDER BY seq", from, to)
	if err != nil {
		return err
	}
	defer rows.Close() // Err has the error
	for rows.Next() {
		var seq, begin, origin int64
		var targets [3]int64
		if err := rows.Scan(&seq, &begin, &origin, &targets[0], &targets[1], &targets[2]); err != nil {
			return err
		}
		b.add(seq, begin, origin, targets)
		pause()
	}
	return rows.Err()
}
