package audit

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"
)

// migrations take a file from one version to the next, in the order of their names.
// What has been released is never edited.
//
//go:embed migrations/*.sql
var migrations embed.FS

func newestVersion() int {
	names, _ := fs.Glob(migrations, "migrations/*.sql") // the pattern is a good one
	return len(names)
}

// tooNew is what is wrong with a file of a version that this program does not know.
func tooNew(version int) error {
	return fmt.Errorf("it has version %d, and this adit knows none after %d: use a newer adit", version, newestVersion())
}

// migrate brings a file up to the newest version that steps has. Of two processes that do
// so at once, the second finds it done.
func migrate(ctx context.Context, conn *sql.Conn, steps fs.FS) (err error) {
	names, err := fs.Glob(steps, "migrations/*.sql")
	if err != nil {
		return err
	}
	return immediate(ctx, conn, func() error {
		var version int
		if err := conn.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
			return err
		}
		switch {
		case version == len(names):
			return nil
		case version < 0 || version > len(names):
			// What the file itself says may be older than its log.
			return tooNew(version)
		}
		for _, name := range names[version:] {
			text, err := fs.ReadFile(steps, name)
			if err != nil {
				return err
			}
			if _, err := conn.ExecContext(ctx, string(text)); err != nil {
				return fmt.Errorf("migrate with %s: %w", name, err)
			}
		}
		_, err := conn.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", len(names)))
		return err
	})
}

// immediate runs do in a transaction that no other process is in, too. Not a [sql.Tx]: that
// would prepare each statement anew.
func immediate(ctx context.Context, conn *sql.Conn, do func() error) error {
	if _, err := conn.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
		return err
	}
	err := do()
	if err == nil {
		_, err = conn.ExecContext(ctx, "COMMIT")
	}
	if err != nil {
		// SQLite may have done so itself, and then this fails.
		_, _ = conn.ExecContext(ctx, "ROLLBACK")
	}
	return err
}
