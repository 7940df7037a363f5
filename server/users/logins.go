package users

import (
	"context"
	"database/sql"
	"fmt"
)

// Logins are what a user can log in by beside its devices.
type Logins struct {
	Password   bool
	Principals []string // sorted
}

// Logins gives what each user can log in by. Who has nothing is left out.
func (s *Store) Logins(ctx context.Context) (map[string]Logins, error) {
	const query = "SELECT user, NULL AS principal FROM passwords UNION ALL SELECT user, name FROM principals ORDER BY user, principal"
	type row struct {
		user      string
		principal sql.NullString // or the password
	}
	rows, err := collect(ctx, s.reads, query, func(rows *sql.Rows) (r row, err error) {
		err = rows.Scan(&r.user, &r.principal)
		return r, err
	})
	if err != nil {
		return nil, fmt.Errorf("list logins: %w", err)
	}
	all := make(map[string]Logins)
	for _, r := range rows {
		l := all[r.user]
		if r.principal.Valid {
			l.Principals = append(l.Principals, r.principal.String)
		} else {
			l.Password = true
		}
		all[r.user] = l
	}
	return all, nil
}
