package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/adit-net/adit/crypto/keys"
	"github.com/adit-net/adit/server/users"
)

const inviteHelp = `Make an invite: a link that enrols one device of a user, once. On a terminal it
comes with a QR code; on a pipe it comes alone. Whoever has the link can enrol,
so send it as you would send a password.

With --wireguard it lets in a device that runs no adit: it prints a configuration
for wg-quick or, as a QR code, for the WireGuard app of a phone. The key in it is
made for this one print and kept nowhere. An app that makes its own key shows
the public half, and --public-key takes that.`

func newInvite(e env) *cobra.Command {
	d := dirFlag{kind: serverKind}
	var (
		order inviteOrder
		guest guestOrder
		plain bool // WireGuard
	)
	c := &cobra.Command{
		Use:     "invite NAME",
		Short:   "Make a link that enrols one device of a user",
		Long:    inviteHelp,
		Example: "  adit invite alice\n  adit invite alice --ttl 1h | ssh laptop adit join -\n  adit invite alice --wireguard --name phone",
		Args:    exactly("NAME"),
		PreRunE: func(c *cobra.Command, _ []string) error { return checkInviteFlags(c, plain) },
		RunE: func(c *cobra.Command, args []string) error {
			dir, err := d.open()
			if err != nil {
				return err
			}
			order.user, guest.user = args[0], args[0]
			if plain {
				return inviteGuest(c.Context(), e, dir, guest)
			}
			uri, err := makeInvite(c.Context(), dir, order)
			if err != nil {
				return err
			}
			return printInvite(e, uri, order)
		},
	}
	d.add(c)
	c.Flags().DurationVar(&order.ttl, "ttl", 24*time.Hour, "how long the invite is good for")
	c.Flags().StringSliceVar(&order.groups, "group", nil, "put the user into a `group` when the device joins; may be repeated")
	c.Flags().BoolVar(&plain, "wireguard", false, "let in a device that has WireGuard and runs no adit")
	c.Flags().StringVar(&guest.name, "name", "phone", "what to call that device")
	c.Flags().StringVar(&guest.publicKey, "public-key", "", "the `key` that it has made, in base64")
	return recorded(c, &d)
}

// checkInviteFlags refuses flags that would do nothing.
func checkInviteFlags(c *cobra.Command, plain bool) error {
	idle, because := []string{"name", "public-key"}, "goes with --wireguard alone"
	if plain {
		idle, because = []string{"ttl", "group"}, "does not go with --wireguard, which enrols the device at once"
	}
	for _, name := range idle {
		if c.Flags().Changed(name) {
			return hint(usageError{fmt.Errorf("--%s %s", name, because)}, "see %s --help", c.CommandPath())
		}
	}
	return nil
}

type inviteOrder struct {
	user   string
	ttl    time.Duration
	groups []string
}

// makeInvite gives the URI of a new invite to the server in a directory.
func makeInvite(ctx context.Context, dir string, order inviteOrder) (string, error) {
	if order.ttl <= 0 {
		return "", hint(usageError{fmt.Errorf("--ttl: %s is no time at all", order.ttl)}, "--ttl 24h")
	}
	cfg := defaultServerConfig()
	if err := loadConfig(dir, serverKind, &cfg); err != nil {
		return "", err
	}
	address, ok := cfg.reach()
	if !ok {
		return "", hint(errors.New("server.toml does not say where devices reach this server"), `write name = "HOST:PORT" in %s`, filepath.Join(dir, serverFile))
	}
	key, err := keys.LoadServer(filepath.Join(dir, serverKeyFile))
	if err != nil {
		return "", err
	}
	invite := keys.Invite{Address: address, Pin: key.Pin(), Token: keys.NewToken(), Name: order.user}
	if cfg.TLS.Cert != "" {
		invite.Pin = keys.Pin{} // a public CA vouches for the server
	}
	uri, err := invite.URI()
	if err != nil {
		return "", err
	}
	store, err := users.Open(ctx, filepath.Join(dir, storeFile))
	if err != nil {
		return "", err
	}
	err = store.Invite(ctx, order.user, invite.Token, time.Now().Add(order.ttl), order.groups...)
	return uri, errors.Join(userHint(err, order.user), store.Close())
}

func printInvite(e env, uri string, order inviteOrder) error {
	if e.columns == 0 {
		_, err := fmt.Fprintln(e.stdout, uri)
		return err
	}
	code, err := qrText(uri, e.columns)
	if err != nil {
		return err
	}
	_, err = io.WriteString(e.stdout, code+fmt.Sprintf(`
This invite is for %s. It enrols one device, once, until %s:

  adit join '%s'
`, order.user, time.Now().Add(order.ttl).Format("2006-01-02 15:04"), uri))
	return err
}
