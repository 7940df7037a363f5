package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/adit-net/adit/server/users"
)

func newUser(e env) *cobra.Command {
	return group("user", "Say who may come",
		"Say who may come. A running server follows within two seconds.",
		newUserAdd(), newUserList(e), newUserSet(), newUserPasswd(e),
		newUserChange("disable NAME", "Keep a user and all their devices out", func(ctx context.Context, s *users.Store, name string) error {
			return s.SetUserDisabled(ctx, name, true)
		}),
		newUserChange("enable NAME", "Let a disabled user in again", func(ctx context.Context, s *users.Store, name string) error {
			return s.SetUserDisabled(ctx, name, false)
		}),
		newUserChange("remove NAME", "Remove a user with all their devices and invites", func(ctx context.Context, s *users.Store, name string) error {
			return s.RemoveUser(ctx, name)
		}),
	)
}

func newUserAdd() *cobra.Command {
	var groups []string
	c := newUserChange("add NAME", "Add a user", func(ctx context.Context, s *users.Store, name string) error {
		return s.AddUser(ctx, name, groups...)
	})
	c.Flags().StringSliceVar(&groups, "group", nil, "put the user into a `group`; may be repeated")
	return c
}

// newUserChange is a command that does one thing to one user, and says nothing
// if that has worked.
func newUserChange(use, short string, do func(context.Context, *users.Store, string) error) *cobra.Command {
	d := dirFlag{kind: serverKind}
	c := &cobra.Command{
		Use:   use,
		Short: short,
		Args:  exactly("NAME"),
		RunE: func(c *cobra.Command, args []string) error {
			return withStore(c.Context(), &d, func(ctx context.Context, s *users.Store) error {
				return userHint(do(ctx, s, args[0]), args[0])
			})
		},
	}
	d.add(c)
	return recorded(c, &d)
}

func newUserList(e env) *cobra.Command {
	d := dirFlag{kind: serverKind}
	c := &cobra.Command{
		Use:   "list",
		Short: "List all users",
		Args:  exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			return withStore(c.Context(), &d, func(ctx context.Context, s *users.Store) error {
				all, err := s.Users(ctx)
				if err != nil {
					return err
				}
				logins, err := s.Logins(ctx)
				if err != nil {
					return err
				}
				rates, err := s.Rates(ctx)
				if err != nil {
					return err
				}
				w := tabwriter.NewWriter(e.stdout, 0, 0, 2, ' ', 0)
				fmt.Fprintln(w, "USER\tSTATE\tGROUPS\tGRACE\tBANDWIDTH\tLOGINS\tCREATED")
				for _, u := range all {
					state := "enabled"
					if u.Disabled {
						state = "disabled"
					}
					grace := defaultGrace
					if u.Grace != nil {
						grace = briefly(*u.Grace)
					}
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", u.Name, state, orDash(strings.Join(u.Groups, ",")), grace, ratesText(rates[u.Name]),
						orDash(strings.Join(loginsOf(logins[u.Name]), ",")), day(u.Created))
				}
				return w.Flush()
			})
		},
	}
	d.add(c)
	return c
}

// loginsOf names what a user can log in by beside its devices.
func loginsOf(l users.Logins) []string {
	if l.Password {
		return append([]string{"password"}, l.Principals...)
	}
	return l.Principals
}

// withStore runs do with the store of a server, which may be running.
func withStore(ctx context.Context, d *dirFlag, do func(context.Context, *users.Store) error) error {
	dir, err := d.open()
	if err != nil {
		return err
	}
	store, err := users.Open(ctx, filepath.Join(dir, storeFile))
	if err != nil {
		return err
	}
	return errors.Join(do(ctx, store), store.Close())
}

// userHint says what to do about an error that has to do with a user.
func userHint(err error, name string) error {
	switch {
	case errors.Is(err, users.ErrUserUnknown):
		return hint(fmt.Errorf("there is no user %q", name), "adit user add %s; adit user list shows who there is", name)
	case errors.Is(err, users.ErrPrincipalTaken):
		return hint(err, "adit user set NAME --remove-principal takes it away from that user")
	case errors.Is(err, users.ErrUserExists):
		return hint(fmt.Errorf("there is a user %q already, or one that differs by case alone", name), "adit user list shows who there is")
	case errors.Is(err, users.ErrUserDisabled):
		return hint(fmt.Errorf("the user %q is disabled", name), "adit user enable %s", name)
	}
	return err
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func day(t time.Time) string { return t.Local().Format(time.DateOnly) }
