package audit

import (
	"context"
	"database/sql"
	"errors"
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
