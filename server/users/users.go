package users

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"
)

// maxGroups bounds how many groups one user is in.
const maxGroups = 64

// MaxGrace bounds how long sessions may outlive their last carrier. Each keeps
// memory and a place among the sessions for as long.
const MaxGrace = 24 * time.Hour

// What a caller may want to tell apart about users.
var (
	ErrUserUnknown  = errors.New("there is no such user: add it first")
	ErrUserExists   = errors.New("there is such a user already, or one that differs by case alone")
	ErrUserDisabled = errors.New("the user is disabled: enable it first")
)

// User is somebody who may come, with any number of devices.
type User struct {
	Name     string
	Groups   []string // sorted
	Disabled bool
	Created  time.Time

	// Grace is how long the user's sessions outlive their last carrier: 0 is not at
	// all, and nil is as long as the server lets everybody's.
	Grace *time.Duration
}

// AddUser adds a user. Groups need no making: each exists as long as somebody
// is in it.
func (s *Store) AddUser(ctx context.Context, name string, groups ...string) error {
	err := errors.Join(validNames("user", name), validNames("group", groups...))
	if err == nil {
		err = s.change(ctx, func(tx *sql.Tx) error { return s.addUser(ctx, tx, name, groups) })
	}
	if err != nil {
		return fmt.Errorf("add user: %w", err)
	}
	return nil
}

func (s *Store) addUser(ctx context.Context, tx *sql.Tx, name string, groups []string) error {
	if err := s.room(ctx, tx, "users"); err != nil {
		return err
	}
	n, err := affected(tx.ExecContext(ctx,
		"INSERT INTO users (name, created) VALUES (?, ?) ON CONFLICT DO NOTHING", name, millis(s.now())))
	if err != nil {
		return err
	}
	if n == 0 {
		return fmt.Errorf("%s: %w", name, ErrUserExists)
	}
	for _, group := range groups {
		if _, err := tx.ExecContext(ctx, "INSERT OR IGNORE INTO user_groups VALUES (?, ?)", name, group); err != nil {
			return err
		}
	}
	return fewGroups(ctx, tx, name)
}

// fewGroups tells whether a user is in no more groups than it may be.
func fewGroups(ctx context.Context, tx *sql.Tx, user string) error {
	var n int
	if err := tx.QueryRowContext(ctx, "SELECT count(*) FROM user_groups WHERE user = ?", user).Scan(&n); err != nil {
		return err
	}
	if n > maxGroups {
		return fmt.Errorf("user %s would be in %d groups, more than %d", user, n, maxGroups)
	}
	return nil
}

// userColumns are what scanUser reads. No name has a space in it.
const userColumns = `u.name, u.created, u.disabled, u.grace,
	(SELECT group_concat(g.name, ' ' ORDER BY g.name) FROM user_groups g WHERE g.user = u.name)`

// userRow is a row of userColumns.
type userRow struct {
	user    User
	created int64
	grace   sql.Null[int64]
	groups  sql.NullString
}

func (r *userRow) fields() []any {
	return []any{&r.user.Name, &r.created, &r.user.Disabled, &r.grace, &r.groups}
}

func (r *userRow) get() User {
	u := r.user
	u.Created, u.Groups = instant(r.created), strings.Fields(r.groups.String)
	if r.grace.Valid {
		u.Grace = new(time.Duration(r.grace.V) * time.Millisecond)
	}
	return u
}

// Users gives all users by name.
func (s *Store) Users(ctx context.Context) ([]User, error) {
	users, err := s.users(ctx, "true")
	if err != nil {
		return nil, fmt.Errorf("list users: %w", err)
	}
	return users, nil
}

func (s *Store) users(ctx context.Context, where string, args ...any) ([]User, error) {
	return collect(ctx, s.reads, "SELECT "+userColumns+" FROM users u WHERE "+where+" ORDER BY u.name",
		func(rows *sql.Rows) (User, error) {
			var row userRow
			err := rows.Scan(row.fields()...)
			return row.get(), err
		}, args...)
}

// User gives a user. Whether he is disabled is for the caller to judge. An
// unknown one is [ErrUserUnknown].
func (s *Store) User(ctx context.Context, name string) (User, error) {
	all, err := s.users(ctx, "u.name = ?", name)
	if err == nil && len(all) == 0 {
		err = ErrUserUnknown
	}
	if err != nil {
		return User{}, fmt.Errorf("look up user %q: %w", name, err)
	}
	return all[0], nil
}

// SetUserDisabled keeps a user and all its devices out, or lets them in again.
func (s *Store) SetUserDisabled(ctx context.Context, name string, disabled bool) error {
	return s.setUser(ctx, name, "disabled", disabled)
}

// SetUserGrace says how long a user's sessions outlive their last carrier: from 0,
// which is not at all, to [MaxGrace], kept to the millisecond. nil leaves it to
// the server again.
func (s *Store) SetUserGrace(ctx context.Context, name string, grace *time.Duration) error {
	if grace == nil {
		return s.setUser(ctx, name, "grace", nil)
	}
	if *grace < 0 || *grace > MaxGrace {
		return fmt.Errorf("change user: a grace of %v is not between 0 and %v", *grace, MaxGrace)
	}
	return s.setUser(ctx, name, "grace", grace.Milliseconds())
}

// setUser sets one column of a user.
func (s *Store) setUser(ctx context.Context, name, column string, value any) error {
	n, err := affected(s.writes.ExecContext(ctx, "UPDATE users SET "+column+" = ? WHERE name = ?", value, name))
	if err == nil && n == 0 {
		err = fmt.Errorf("%q: %w", name, ErrUserUnknown)
	}
	if err != nil {
		return fmt.Errorf("change user: %w", err)
	}
	return nil
}

// RemoveUser removes a user with its devices and invites.
func (s *Store) RemoveUser(ctx context.Context, name string) error {
	n, err := affected(s.writes.ExecContext(ctx, "DELETE FROM users WHERE name = ?", name))
	if err == nil && n == 0 {
		err = fmt.Errorf("%q: %w", name, ErrUserUnknown)
	}
	if err != nil {
		return fmt.Errorf("remove user: %w", err)
	}
	return nil
}

// enabled tells whether there is a user, and whether he may come.
func enabled(ctx context.Context, tx *sql.Tx, user string) error {
	var disabled bool
	err := tx.QueryRowContext(ctx, "SELECT disabled FROM users WHERE name = ?", user).Scan(&disabled)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return ErrUserUnknown
	case err != nil:
		return err
	case disabled:
		return ErrUserDisabled
	}
	return nil
}

// affected counts the rows that a statement has changed.
func affected(r sql.Result, err error) (int64, error) {
	if err != nil {
		return 0, err
	}
	return r.RowsAffected()
}

// collect reads all rows of a query.
func collect[T any](ctx context.Context, db *sql.DB, query string, scan func(*sql.Rows) (T, error), args ...any) ([]T, error) {
	rows, err := db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close() // Err has the error
	var all []T
	for rows.Next() {
		one, err := scan(rows)
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, rows.Err()
}
