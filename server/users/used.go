package users

import (
	"context"
	"database/sql"
	"fmt"
)

// Used is what a user has used by a rule in a day.
type Used struct {
	User, Rule string
	Day        int // YYYYMMDD
	Bytes      int64
}

// AddUsed adds to what has been used, all of it or nothing, and forgets what is of months
// before those of all. What is of users who have been removed is dropped.
func (s *Store) AddUsed(ctx context.Context, all []Used) error {
	err := s.change(ctx, func(tx *sql.Tx) error {
		oldest := 0
		for _, u := range all {
			if month := u.Day - u.Day%100; oldest == 0 || month < oldest {
				oldest = month
			}
			_, err := tx.ExecContext(ctx, `INSERT INTO used SELECT name, ?, ?, ? FROM users WHERE name = ?
				ON CONFLICT DO UPDATE SET bytes = bytes + excluded.bytes`, u.Rule, u.Day, u.Bytes, u.User)
			if err != nil {
				return err
			}
		}
		_, err := tx.ExecContext(ctx, "DELETE FROM used WHERE day < ?", oldest)
		return err
	})
	if err != nil {
		return fmt.Errorf("add what has been used: %w", err)
	}
	return nil
}

// UsedSince gives what has been used on a day, which is YYYYMMDD, and later.
func (s *Store) UsedSince(ctx context.Context, day int) ([]Used, error) {
	all, err := collect(ctx, s.reads, "SELECT user, rule, day, bytes FROM used WHERE day >= ? ORDER BY user, rule, day",
		func(rows *sql.Rows) (u Used, err error) {
			err = rows.Scan(&u.User, &u.Rule, &u.Day, &u.Bytes)
			return u, err
		}, day)
	if err != nil {
		return nil, fmt.Errorf("list what has been used: %w", err)
	}
	return all, nil
}
