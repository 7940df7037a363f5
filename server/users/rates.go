package users

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// MaxRate bounds a user's rates, in bits per second.
const MaxRate = 1_000_000_000_000

// MaxWeight bounds a user's weight.
const MaxWeight = 1000

// Rates are what one user has of the bandwidth, in bits per second: a guarantee and a
// ceiling for each direction, of which 0 is none, and a weight, which says what part of
// that nobody is guaranteed, beside others' 1. What is nil is as the server has it for
// everybody.
type Rates struct {
	RateUp, RateDown       *int64
	CeilingUp, CeilingDown *int64
	Weight                 *int64
}

func (r *Rates) fields() []any {
	return []any{&r.RateUp, &r.RateDown, &r.CeilingUp, &r.CeilingDown, &r.Weight}
}

// Rates gives those of all users who have any of their own.
func (s *Store) Rates(ctx context.Context) (map[string]Rates, error) {
	type row struct {
		user  string
		rates Rates
	}
	rows, err := collect(ctx, s.reads, "SELECT user, rate_up, rate_down, ceiling_up, ceiling_down, weight FROM rates",
		func(rows *sql.Rows) (r row, err error) {
			err = rows.Scan(append([]any{&r.user}, r.rates.fields()...)...)
			return r, err
		})
	if err != nil {
		return nil, fmt.Errorf("list rates: %w", err)
	}
	all := make(map[string]Rates, len(rows))
	for _, r := range rows {
		all[r.user] = r.rates
	}
	return all, nil
}

// ChangeRates has change set a user's rates, of which it gets those that there are.
func (s *Store) ChangeRates(ctx context.Context, name string, change func(r *Rates)) error {
	err := s.change(ctx, func(tx *sql.Tx) error {
		if err := known(ctx, tx, name); err != nil {
			return err
		}
		var r Rates
		err := tx.QueryRowContext(ctx, "SELECT rate_up, rate_down, ceiling_up, ceiling_down, weight FROM rates WHERE user = ?", name).Scan(r.fields()...)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		change(&r)
		for _, n := range []*int64{r.RateUp, r.RateDown, r.CeilingUp, r.CeilingDown} {
			if n != nil && (*n < 0 || *n > MaxRate) {
				return fmt.Errorf("%d bit/s is not between 0 and %d", *n, int64(MaxRate))
			}
		}
		if n := r.Weight; n != nil && (*n < 1 || *n > MaxWeight) {
			return fmt.Errorf("the weight %d is not between 1 and %d", *n, MaxWeight)
		}
		if r == (Rates{}) {
			_, err = tx.ExecContext(ctx, "DELETE FROM rates WHERE user = ?", name)
			return err
		}
		_, err = tx.ExecContext(ctx, "INSERT OR REPLACE INTO rates VALUES (?, ?, ?, ?, ?, ?)",
			name, r.RateUp, r.RateDown, r.CeilingUp, r.CeilingDown, r.Weight)
		return err
	})
	if err != nil {
		return fmt.Errorf("change rates of %q: %w", name, err)
	}
	return nil
}
