package users

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"
)

// migrations take a store from one version to the next, in the order of their
// names. What has been released is never edited.
//
//go:embed migrations/*.sql
var migrations embed.FS

// migrate brings the store up to this program's version. Of two processes that
// do so at once, the second finds it done.
func (s *Store) migrate(ctx context.Context) error {
	names, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		return err
	}
	newest := len(names)
	return s.change(ctx, func(tx *sql.Tx) error {
		var version int
		if err := tx.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
			return err
		}
		switch {
		case version == newest:
			return nil
		case version < 0 || version > newest:
			return fmt.Errorf("%s has version %d, and this adit knows none after %d: use a newer adit", s.path, version, newest)
		}
		for _, name := range names[version:] {
			text, err := migrations.ReadFile(name)
			if err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, string(text)); err != nil {
				return fmt.Errorf("migrate %s with %s: %w", s.path, name, err)
			}
		}
		_, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", newest))
		return err
	})
}
