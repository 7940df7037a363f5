package users

import (
	"database/sql"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/adit-net/adit/crypto/keys"
)

func TestCreateMakesAPrivateFileThatOpens(t *testing.T) {
	// SQLite reads the name as a URI, in which these mean something.
	path := filepath.Join(t.TempDir(), "a b?c#d%41&mode=memory.db")
	s, err := Create(t.Context(), path)
	must(t, err)
	must(t, s.AddUser(t.Context(), "anna"))
	for _, name := range append(siblings(path), path) {
		info, err := os.Stat(name)
		if errors.Is(err, fs.ErrNotExist) && name == path+"-journal" {
			continue
		}
		must(t, err)
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %04o", name, info.Mode().Perm())
		}
	}
	must(t, s.Close())

	s, err = Open(t.Context(), path)
	must(t, err)
	defer s.Close()
	users, err := s.Users(t.Context())
	if err != nil || len(users) != 1 || users[0].Name != "anna" {
		t.Errorf("users are %v, %v", users, err)
	}
}

func TestCreateReplacesNothing(t *testing.T) {
	for _, left := range []string{"adit.db", "adit.db-wal", "adit.db-shm", "adit.db-journal"} {
		dir := t.TempDir()
		must(t, os.WriteFile(filepath.Join(dir, left), []byte("precious"), 0o600))
		_, err := Create(t.Context(), filepath.Join(dir, "adit.db"))
		if !errors.Is(err, fs.ErrExist) {
			t.Errorf("with %s there: %v", left, err)
		}
		if b, _ := os.ReadFile(filepath.Join(dir, left)); string(b) != "precious" {
			t.Errorf("%s is now %q", left, b)
		}
	}
}

func TestOpenRefusesWhatIsNoSoundStore(t *testing.T) {
	cases := []struct {
		name  string
		spoil func(t *testing.T, path string)
		want  string
	}{
		{"missing", func(t *testing.T, path string) { must(t, os.Remove(path)) }, "create one first"},
		{"empty", func(t *testing.T, path string) { must(t, os.Truncate(path, 0)) }, "is empty"},
		{"cut short in its header", func(t *testing.T, path string) { must(t, os.Truncate(path, 99)) }, "is cut short"},
		{"cut short later", func(t *testing.T, path string) { must(t, os.Truncate(path, 3*4096)) }, "restore it from a backup"},
		{"text", func(t *testing.T, path string) {
			must(t, os.WriteFile(path, []byte(strings.Repeat("x", 5000)), 0o600))
		}, "no store at all"},
		{"another program's", func(t *testing.T, path string) { execute(t, path, "PRAGMA application_id = 1") }, "another program's"},
		{"overwritten", overwrite, "restore it from a backup"},
		{"newer", func(t *testing.T, path string) { execute(t, path, "PRAGMA user_version = 1000") }, "version 1000"},
		{"of a negative version", func(t *testing.T, path string) { execute(t, path, "PRAGMA user_version = -1") }, "version -1"},
		{"readable by the group", func(t *testing.T, path string) { must(t, os.Chmod(path, 0o640)) }, "chmod 600"},
		{"read-only", func(t *testing.T, path string) { must(t, os.Chmod(path, 0o400)) }, "chmod 600"},
		{"in a public directory", func(t *testing.T, path string) { must(t, os.Chmod(filepath.Dir(path), 0o777)) }, "chmod 700"},
		{"a symbolic link", func(t *testing.T, path string) {
			must(t, os.Rename(path, path+".real"))
			must(t, os.Symlink(path+".real", path))
		}, "symbolic link"},
		{"with a symbolic link for a log", func(t *testing.T, path string) {
			must(t, os.Symlink(path, path+"-wal"))
		}, "symbolic link"},
		{"a directory", func(t *testing.T, path string) {
			must(t, os.Remove(path))
			must(t, os.Mkdir(path, 0o700))
		}, "not a regular file"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "adit.db")
			s, err := Create(t.Context(), path)
			must(t, err)
			must(t, s.Close())
			c.spoil(t, path)
			before, _ := os.ReadFile(path)

			s, err = Open(t.Context(), path)
			if err == nil {
				s.Close()
				t.Fatal("opened")
			}
			if !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error is %q, want one line with %q", err, c.want)
			}
			if after, _ := os.ReadFile(path); string(after) != string(before) {
				t.Error("the refused file was changed")
			}
		})
	}
}

// execute runs a statement in somebody's database.
func execute(t *testing.T, path, statement string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	must(t, err)
	_, err = db.ExecContext(t.Context(), statement)
	must(t, errors.Join(err, db.Close()))
}

// overwrite puts other bytes in the middle of a file.
func overwrite(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteAt([]byte(strings.Repeat("\xa5", 4096)), 2*4096)
	must(t, errors.Join(err, f.Close()))
}

func TestOpenMigratesAnOlderStoreOnce(t *testing.T) {
	s := newStore(t)
	// Version 0 is a store in which the first migration has not run yet.
	for _, table := range []string{"used", "rates", "passwords", "principals", "invite_groups", "invites", "devices", "user_groups", "users", "revision"} {
		_, err := s.writes.ExecContext(t.Context(), "DROP TABLE "+table)
		must(t, err)
	}
	_, err := s.writes.ExecContext(t.Context(), "PRAGMA user_version = 0")
	must(t, err)

	must(t, reopen(t, s).AddUser(t.Context(), "anna"))
	if users, err := reopen(t, s).Users(t.Context()); err != nil || len(users) != 1 {
		t.Errorf("users are %v, %v", users, err)
	}
}

func TestOpenKeepsEverythingOfAStoreOfVersion1(t *testing.T) {
	path := filepath.Join(t.TempDir(), "adit.db")
	schema, err := migrations.ReadFile("migrations/0001.sql")
	must(t, err)
	must(t, os.WriteFile(path, nil, 0o600))
	execute(t, path, "PRAGMA journal_mode = WAL; BEGIN;"+string(schema)+`
		INSERT INTO users VALUES ('anna', 1000, 0), ('bert', 2000, 1);
		INSERT INTO user_groups VALUES ('anna', 'field'), ('anna', 'staff');
		INSERT INTO devices VALUES (zeroblob(32), 'aaaa', NULL, 'anna', 'laptop', 3000, 4000, 0);
		INSERT INTO invites VALUES (zeroblob(32), 'bert', 5000, 0);
		PRAGMA user_version = 1; COMMIT;`)

	s, err := Open(t.Context(), path)
	must(t, err)
	defer s.Close()
	must(t, s.SetUserGrace(t.Context(), "bert", new(time.Hour)))
	users, err := reopen(t, s).Users(t.Context())
	must(t, err)
	if want := []User{
		{Name: "anna", Created: time.UnixMilli(1000).UTC(), Groups: []string{"field", "staff"}},
		{Name: "bert", Created: time.UnixMilli(2000).UTC(), Groups: []string{}, Disabled: true, Grace: new(time.Hour)},
	}; !reflect.DeepEqual(users, want) {
		t.Errorf("users are %+v, want %+v", users, want)
	}
	device, user, err := s.Lookup(t.Context(), make([]byte, 32))
	if err != nil || device.Name != "laptop" || device.LastSeen != time.UnixMilli(4000).UTC() || user.Grace != nil {
		t.Errorf("the device is %+v of %+v, %v", device, user, err)
	}
	var invites int
	must(t, s.reads.QueryRowContext(t.Context(), "SELECT count(*) FROM invites").Scan(&invites))
	if invites != 1 {
		t.Errorf("there are %d invites", invites)
	}
}

func TestTablesAreBounded(t *testing.T) {
	s := newStore(t)
	must(t, s.AddUser(t.Context(), "anna"))
	first, second := invited(t, s, "anna"), invited(t, s, "anna")
	_, err := s.Join(t.Context(), first, newDevice("one"))
	must(t, err)

	s.maxRows = 1
	for what, err := range map[string]error{
		"users":   s.AddUser(t.Context(), "bert"),
		"devices": refusal(s.Join(t.Context(), second, newDevice("two"))),
		"invites": s.Invite(t.Context(), "anna", keys.NewToken(), s.now().Add(1e9)),
	} {
		if err == nil || !strings.Contains(err.Error(), "as many as it may") {
			t.Errorf("one more in %s: %v", what, err)
		}
	}
	s.maxRows = 2
	if _, err := s.Join(t.Context(), second, newDevice("two")); err != nil {
		t.Errorf("the invite should have outlived the refusal: %v", err)
	}
}
