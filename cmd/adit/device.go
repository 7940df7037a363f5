package main

import (
	"context"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/adit-net/adit/server/users"
)

func newDevice(e env) *cobra.Command {
	return group("device", "List and revoke the devices that may come", "",
		newDeviceList(e), newDeviceRevoke())
}

func newDeviceList(e env) *cobra.Command {
	d := dirFlag{kind: serverKind}
	var user string
	c := &cobra.Command{
		Use:   "list",
		Short: "List devices",
		Long:  "List devices. Those that run no adit have an address inside WireGuard.",
		Args:  exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			return withStore(c.Context(), &d, func(ctx context.Context, s *users.Store) error {
				all, err := s.Devices(ctx, user)
				if err != nil {
					return userHint(err, user)
				}
				w := tabwriter.NewWriter(e.stdout, 0, 0, 2, ' ', 0)
				fmt.Fprintln(w, "DEVICE\tUSER\tNAME\tSTATE\tJOINED\tLAST SEEN\tGUEST AT")
				for _, d := range all {
					state := "enrolled"
					if d.Revoked {
						state = "revoked"
					}
					guest := "-"
					if d.Guest() {
						guest = d.Address.String()
					}
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", d.ID(), d.User, d.Name, state, day(d.Created), ago(d.LastSeen), guest)
				}
				return w.Flush()
			})
		},
	}
	d.add(c)
	c.Flags().StringVar(&user, "user", "", "only this user's")
	return c
}

func newDeviceRevoke() *cobra.Command {
	d := dirFlag{kind: serverKind}
	c := &cobra.Command{
		Use:   "revoke ID|USER/NAME",
		Short: "Keep a device out for good",
		Long:  "Keep a device out for good. The first characters of its ID will do. A running\nserver ends its streams within two seconds.",
		Args:  exactly("DEVICE"),
		RunE: func(c *cobra.Command, args []string) error {
			return withStore(c.Context(), &d, func(ctx context.Context, s *users.Store) error {
				err := s.RevokeDevice(ctx, args[0])
				if errors.Is(err, users.ErrDeviceUnknown) {
					return hint(fmt.Errorf("there is no device %q", args[0]), "adit device list shows all of them")
				}
				return err
			})
		},
	}
	d.add(c)
	return recorded(c, &d)
}

// ago says how long ago something was, for people.
func ago(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	switch d := time.Since(t); {
	case d < time.Minute:
		return "just now"
	case d < time.Hour:
		return fmt.Sprintf("%d min ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h ago", int(d.Hours()))
	default:
		return fmt.Sprintf("%d days ago", int(d.Hours()/24))
	}
}
