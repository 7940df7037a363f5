package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/adit-net/adit/crypto/keys"
	"github.com/adit-net/adit/server/users"
)

const serverInitHelp = `Make a directory with all that a server needs: its key, its store of users, and
server.toml. Devices will know this server by its key, so keep a backup.`

func newServerInit(e env) *cobra.Command {
	d := dirFlag{kind: serverKind}
	cfg := defaultServerConfig()
	c := &cobra.Command{
		Use:     "init --name HOST",
		Short:   "Make a server's keys, store and config in a directory",
		Long:    serverInitHelp,
		Example: "  adit server init --name vpn.example.org\n  adit server init --name 192.0.2.1 --listen 192.0.2.1:8443 --allow private",
		Args:    exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			if cfg.Name == "" {
				return hint(usageError{errors.New("--name is missing")}, "it is the host name or address that devices reach this server by")
			}
			if err := checkInitFlags(&cfg); err != nil {
				return err
			}
			dir, err := d.place()
			if err != nil {
				return err
			}
			pin, err := initServer(c.Context(), dir, cfg)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(e.stdout, "made a server in %s\npin  %s\nnext adit user add NAME, adit invite NAME, adit server run (each with --dir %s)\n", dir, pin, dir)
			return err
		},
	}
	d.add(c)
	c.Flags().StringSliceVar(&cfg.Listen, "listen", cfg.Listen, "`address` to listen on; may be repeated")
	c.Flags().StringVar(&cfg.Name, "name", "", "`host` name or address that devices reach the server by")
	c.Flags().StringVar(&cfg.WireGuard.Listen, "wireguard", "", "UDP `address` for carriers over WireGuard, as :51820; none by default")
	c.Flags().StringSliceVar(&cfg.Allow, "allow", nil, "targets to allow beside public ones: loopback, private")
	return c
}

// checkInitFlags says which flag is wrong, as the config file does not exist yet.
func checkInitFlags(cfg *serverConfig) (err error) {
	cfg.validate(func(key, what, todo string) {
		if err == nil {
			err = hint(usageError{fmt.Errorf("--%s: %s", strings.TrimSuffix(key, ".listen"), what)}, "%s", todo)
		}
	})
	return err
}

// initServer makes a server, or leaves nothing behind.
func initServer(ctx context.Context, dir string, cfg serverConfig) (keys.Pin, error) {
	f, err := newFresh(dir, serverKind)
	if err != nil {
		return keys.Pin{}, err
	}
	pin, err := fillServer(ctx, f, cfg)
	if err != nil {
		return keys.Pin{}, errors.Join(fmt.Errorf("make server: %w", err), f.discard())
	}
	return pin, nil
}

func fillServer(ctx context.Context, f *fresh, cfg serverConfig) (keys.Pin, error) {
	key, err := keys.NewServer()
	if err != nil {
		return keys.Pin{}, err
	}
	if err := key.Save(f.path(serverKeyFile)); err != nil {
		return keys.Pin{}, err
	}
	store, err := users.Create(ctx, f.path(storeFile))
	if err != nil {
		return keys.Pin{}, err
	}
	if err := store.Close(); err != nil {
		return keys.Pin{}, err
	}
	// The config goes last: where it is, there is a server.
	return key.Pin(), writeNew(f.path(serverFile), serverText(cfg))
}

// serverText is what server.toml says at first.
func serverText(cfg serverConfig) []byte {
	var b strings.Builder
	b.WriteString("# Every key with its default and a reason: testdata/config/server.toml in adit's source.\n\n")
	fmt.Fprintf(&b, "listen = %s\n", quoteList(cfg.Listen))
	fmt.Fprintf(&b, "name = %s\n", quoteTOML(cfg.Name))
	fmt.Fprintf(&b, "allow = %s\n", quoteList(cfg.Allow))
	b.WriteString("\n# How long open connections wait for a device that has lost its way here, and\n")
	b.WriteString("# then go on at the next byte.\n")
	fmt.Fprintf(&b, "grace = %s\n", quoteTOML(briefly(cfg.Grace.Duration)))
	if cfg.WireGuard.Listen != "" {
		fmt.Fprintf(&b, "\n[wireguard]\nlisten = %s\n", quoteTOML(cfg.WireGuard.Listen))
	}
	return []byte(b.String())
}

// quoteList spells a list of strings for a config file.
func quoteList(list []string) string {
	quoted := make([]string, len(list))
	for i, s := range list {
		quoted[i] = quoteTOML(s)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}
