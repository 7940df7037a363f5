package audit

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
)

// statement is one that is carried out again and again. Package sql would look at each value
// of each row once more, which costs half as much as the row itself.
type statement struct {
	conn *sql.Conn
	stmt driver.Stmt
	args []driver.NamedValue
}

var errDriver = errors.New("the driver prepares no statements")

func prepare(ctx context.Context, conn *sql.Conn, text string) (*statement, error) {
	s := &statement{conn: conn}
	err := conn.Raw(func(c any) (err error) {
		preparer, ok := c.(driver.ConnPrepareContext)
		if !ok {
			return errDriver
		}
		s.stmt, err = preparer.PrepareContext(ctx, text)
		return err
	})
	return s, err
}

// exec carries it out with values that are int64, string, []byte or nil.
func (s *statement) exec(ctx context.Context, values ...any) error {
	if s.args == nil {
		s.args = make([]driver.NamedValue, len(values))
	}
	for i, v := range values {
		s.args[i] = driver.NamedValue{Ordinal: i + 1, Value: v}
	}
	return s.conn.Raw(func(any) error {
		stmt, ok := s.stmt.(driver.StmtExecContext)
		if !ok {
			return errDriver
		}
		_, err := stmt.ExecContext(ctx, s.args)
		return err
	})
}

func (s *statement) close() error {
	return s.conn.Raw(func(any) error { return s.stmt.Close() })
}
