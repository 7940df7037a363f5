package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/adit-net/adit/client"
	"github.com/adit-net/adit/crypto/keys"
	"github.com/adit-net/adit/server/users"
	"github.com/adit-net/adit/tunnel"
)

const joinHelp = `Enrol this device by an invite: make its keys, register the public half with the
server, and write client.toml. The private half never leaves this machine.

A command line can be read by other users of this machine while the command
runs. Where that matters, write - for the invite and give it on standard input.`

// maxInvite bounds what is read of an invite on standard input, in bytes.
const maxInvite = 4096

func newJoin(e env) *cobra.Command {
	d := dirFlag{kind: clientKind}
	var name string
	c := &cobra.Command{
		Use:     "join INVITE|-",
		Short:   "Enrol this device with a server by an invite",
		Long:    joinHelp,
		Example: "  adit join 'adit://vpn.example.org:443/?…'\n  adit join - < invite.txt",
		Args:    exactly("INVITE"),
		RunE: func(c *cobra.Command, args []string) error {
			dir, err := d.place()
			if err != nil {
				return err
			}
			if err := users.ValidName(name); err != nil {
				return hint(usageError{fmt.Errorf("--name: %w", err)}, "--name laptop")
			}
			invite, err := readInvite(e, args[0])
			if err != nil {
				return err
			}
			if err := joinServer(c.Context(), dir, invite, name); err != nil {
				return err
			}
			_, err = fmt.Fprintf(e.stdout, "joined %s as device %s of %s\nnext adit client run --dir %s\n", invite.Address, name, orDash(invite.Name), dir)
			return err
		},
	}
	d.add(c)
	c.Flags().StringVar(&name, "name", defaultDeviceName(), "what to call this device")
	return c
}

// defaultDeviceName is the machine's name, if it is fit for one.
func defaultDeviceName() string {
	host, err := os.Hostname()
	host, _, _ = strings.Cut(host, ".")
	if err != nil || users.ValidName(host) != nil {
		return "device"
	}
	return host
}

// readInvite reads an invite from the command line, or from standard input.
func readInvite(e env, arg string) (keys.Invite, error) {
	if arg == "-" {
		line, err := bufio.NewReader(io.LimitReader(e.stdin, maxInvite)).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return keys.Invite{}, fmt.Errorf("read invite: %w", err)
		}
		arg = line
	}
	invite, err := keys.ParseInvite(arg)
	return invite, hint(err, "copy the whole link, and put it in quotes: its & means something to shells")
}

// joinServer enrols this device, or leaves nothing behind.
func joinServer(ctx context.Context, dir string, invite keys.Invite, name string) error {
	f, err := newFresh(dir, clientKind)
	if err != nil {
		return err
	}
	if err := fillClient(ctx, f, invite, name); err != nil {
		return errors.Join(err, f.discard())
	}
	return nil
}

// fillClient writes everything before it enrols, as an invite can be used only once.
func fillClient(ctx context.Context, f *fresh, invite keys.Invite, name string) error {
	device, err := keys.NewDevice()
	if err != nil {
		return err
	}
	if err := device.Save(f.path(deviceKeyFile)); err != nil {
		return err
	}
	cfg := joinedConfig(invite)
	if err := writeNew(f.path(clientFile), clientText(cfg)); err != nil {
		return fmt.Errorf("write config: %w", err)
	}
	if err := loadConfig(f.dir, clientKind, &cfg); err != nil {
		return err
	}
	dial, err := dialServer(cfg.Server, cfg.IPsec.detector())
	if err != nil {
		return err
	}
	carrier, err := dial(ctx)
	if err != nil {
		return dialHint(fmt.Errorf("join: %w", err))
	}
	welcome, err := client.Enrol(ctx, carrier, device, tunnel.Join{
		WireGuard: device.WireGuardPublic(),
		Token:     invite.Token.Bytes(),
		Name:      name,
	})
	if err != nil {
		return dialHint(fmt.Errorf("join %s: %w", invite.Address, err))
	}
	newIPsecPlace(cfg.Server, f.path(ipsecPlaceFile)).hear(welcome)
	return tellWays(f.path(clientFile), &cfg, welcome)
}

// tellWays adds to a config how the server is reached otherwise, if it is: where by
// WireGuard, and by what key it is known over IPsec. The device is enrolled already, and
// TLS works: whatever goes wrong here must not cost it that.
func tellWays(path string, cfg *clientConfig, welcome tunnel.Welcome) error {
	host, _, err := net.SplitHostPort(cfg.Server.Address)
	if err != nil {
		return err
	}
	if welcome.WireGuardPort != 0 {
		cfg.Server.WireGuardKey = keys.WireGuardText(welcome.WireGuard)
		cfg.Server.WireGuardAddress = net.JoinHostPort(host, strconv.Itoa(int(welcome.WireGuardPort)))
	}
	if cfg.Server.CA && welcome.Key != (keys.Pin{}) {
		cfg.Server.IPsecPin = keys.Pin(welcome.Key).String()
	}
	if cfg.Server.WireGuardKey == "" && cfg.Server.IPsecPin == "" {
		return nil
	}
	fresh := path + ".new"
	if err := writeNew(fresh, clientText(*cfg)); err != nil {
		return nil
	}
	if err := os.Rename(fresh, path); err != nil {
		_ = os.Remove(fresh) // the old one stays
	}
	return nil
}

// joinedConfig is what an invite says about its server.
func joinedConfig(invite keys.Invite) clientConfig {
	cfg := defaultClientConfig()
	cfg.Server.Address, cfg.Server.Name = invite.Address, invite.ServerName
	if invite.Pin.IsZero() {
		cfg.Server.CA = true
	} else {
		cfg.Server.Pin = invite.Pin.String()
	}
	return cfg
}

// clientText is what client.toml says at first.
func clientText(cfg clientConfig) []byte {
	var b strings.Builder
	b.WriteString("# Every key with its default and a reason: testdata/config/client.toml in adit's source.\n\n[server]\n")
	fmt.Fprintf(&b, "address = %s\n", quoteTOML(cfg.Server.Address))
	if cfg.Server.Name != "" {
		fmt.Fprintf(&b, "name = %s\n", quoteTOML(cfg.Server.Name))
	}
	if cfg.Server.CA {
		b.WriteString("ca = true\n")
	} else {
		fmt.Fprintf(&b, "pin = %s\n", quoteTOML(cfg.Server.Pin))
	}
	if cfg.Server.WireGuardKey != "" {
		fmt.Fprintf(&b, "wireguard_key = %s\n", quoteTOML(cfg.Server.WireGuardKey))
		fmt.Fprintf(&b, "wireguard_address = %s\n", quoteTOML(cfg.Server.WireGuardAddress))
	}
	if cfg.Server.IPsecPin != "" {
		fmt.Fprintf(&b, "ipsec_pin = %s\n", quoteTOML(cfg.Server.IPsecPin))
	}
	return []byte(b.String())
}
