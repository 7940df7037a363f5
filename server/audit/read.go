package audit

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// readable opens a file for reading. Nothing that is done with it changes the file.
func (f file) readable() (*sql.DB, error) {
	if _, err := f.inspect(); err != nil {
		return nil, err
	}
	return sql.Open("sqlite", dsn(f.path, "mode=ro&_query_only=1&_busy_timeout=5000&_pragma=cache_size(-65536)"))
}

func (f file) lastSeal(ctx context.Context) (seal, error) {
	db, err := f.readable()
	if err != nil {
		return seal{}, err
	}
	last, err := lastSeal(ctx, db)
	return last, errors.Join(err, db.Close())
}

// live are rows like those of records for what goes on.
const live = `(SELECT o.seq, o.kind, o.origin, o.id, o.begin, p.duration, o.source_port, o.command, o.name, o.address, o.port, o.protocol,
	o.host, o.decision, o.rule, p.up, p.down, p.sent, p.received, o.connect, o.first_byte, p.resumes, o.ended, o.what
	FROM opened o JOIN progress p ON p.opening = o.seq)`

// recordFields are what scanRecord reads, and recordJoins where it is.
const (
	recordFields = `r.seq, r.kind, o.run, r.id, o.exit, o.session, o.user, o.device, o.groups, o.source, o.door, o.dialect, o.method,
	o.carrier, o.version, o.key_exchange, o.cipher, o.ipsec, o.gss, r.source_port, r.begin, r.duration,
	wc.text, wn.text, wa.text, r.port, wp.text, wh.text, r.decision, wr.text,
	r.up, r.down, r.sent, r.received, r.connect, r.first_byte, r.resumes, we.text, ww.text`
	recordJoins = ` r JOIN origins o ON o.id = r.origin
	JOIN words wc ON wc.id = r.command JOIN words wn ON wn.id = r.name JOIN words wa ON wa.id = r.address
	JOIN words wp ON wp.id = r.protocol JOIN words wh ON wh.id = r.host JOIN words wr ON wr.id = r.rule
	JOIN words we ON we.id = r.ended JOIN words ww ON ww.id = r.what`
)

func scanRecord(rows *sql.Rows, more ...any) (e entry, err error) {
	var source, address string
	var begin, duration, connect, first int64
	err = rows.Scan(append([]any{
		&e.Seq, &e.Kind, &e.run, &e.number, &e.Exit, &e.Session, &e.User, &e.Device, &e.Groups, &source, &e.Door, &e.Dialect, &e.Method,
		&e.Carrier, &e.Version, &e.KeyExchange, &e.Cipher, &e.IPsec, &e.GSS, &e.SourcePort, &begin, &duration,
		&e.Command, &e.Name, &address, &e.Port, &e.Protocol, &e.Host, &e.Decision, &e.Rule,
		&e.Up, &e.Down, &e.Sent, &e.Received, &connect, &first, &e.Resumes, &e.End, &e.What,
	}, more...)...)
	if err != nil {
		return entry{}, fmt.Errorf("read record: %w", err)
	}
	// What is no address is shown as none.
	e.Source, _ = netip.ParseAddr(source)
	e.Address, _ = netip.ParseAddr(address)
	e.ID = recordID(e.run, e.number)
	e.Begin = time.UnixMilli(begin).UTC()
	e.Duration = time.Duration(duration) * time.Millisecond
	e.Connect = time.Duration(connect) * time.Microsecond
	e.FirstByte = time.Duration(first) * time.Microsecond
	return e, nil
}
