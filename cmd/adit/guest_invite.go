package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/adit-net/adit/crypto/keys"
	"github.com/adit-net/adit/server/users"
)

// guestOrder says whom to enrol as a guest.
type guestOrder struct {
	user, name string
	publicKey  string // as people write it; empty: make a key
}

// invitation is what a guest's WireGuard has to know.
type invitation struct {
	private   keys.WireGuardKey // zero: the guest has made its own
	addresses []netip.Addr
	dns       []netip.Addr
	mtu       int
	server    [32]byte
	endpoint  string
}

// inviteGuest enrols a guest and prints what it needs. This is the only place
// where a key that was made for it can be seen.
func inviteGuest(ctx context.Context, e env, dir string, order guestOrder) error {
	in, err := enrolGuest(ctx, dir, order)
	if err != nil {
		return err
	}
	text := in.config()
	switch {
	case e.columns == 0:
		_, err := io.WriteString(e.stdout, text)
		return err
	case in.private.IsZero():
		_, err := fmt.Fprintf(e.stdout, "%s\nThis lets %s of %s in. Enter it in the app beside the key that it has made.\n", text, order.name, order.user)
		return err
	}
	code, err := qrText(text, e.columns)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(e.stdout, `%s
%s
This lets %s of %s in. Scan it in the WireGuard app, or save it for wg-quick. It has a
private key that is shown this once, so treat it as you would treat a password.
`, code, text, order.name, order.user)
	return err
}

// enrolGuest enrols a guest with the server in a directory.
func enrolGuest(ctx context.Context, dir string, order guestOrder) (in invitation, err error) {
	cfg := defaultServerConfig()
	if err := loadConfig(dir, serverKind, &cfg); err != nil {
		return in, err
	}
	if in.endpoint, err = guestEndpoint(&cfg, filepath.Join(dir, serverFile)); err != nil {
		return in, err
	}
	identity, err := keys.LoadServer(filepath.Join(dir, serverKeyFile))
	if err != nil {
		return in, err
	}
	key, err := identity.WireGuard()
	if err != nil {
		return in, err
	}
	network, err := newGuestNetwork(cfg.WireGuard, key.Public())
	if err != nil {
		return in, err
	}
	in.server, in.mtu, in.dns = key.Public(), cfg.WireGuard.MTU, network.server()
	public, err := in.chooseKey(order.publicKey)
	if err != nil {
		return in, err
	}
	store, err := users.Open(ctx, filepath.Join(dir, storeFile))
	if err != nil {
		return in, err
	}
	device, err := store.AddGuest(ctx, order.user, order.name, public, network.ip4)
	if err == nil {
		in.addresses = network.of(device)
	}
	return in, errors.Join(guestHint(err, order.user, network), store.Close())
}

// chooseKey gives the guest's public key, which is what somebody wrote, or comes of
// a private key that is made now.
func (in *invitation) chooseKey(written string) (public [32]byte, err error) {
	if written == "" {
		in.private, err = keys.NewWireGuardKey()
		return in.private.Public(), err
	}
	public, err = keys.ParseWireGuardPublic(written)
	switch {
	case err != nil || public == [32]byte{}:
		return public, hint(usageError{errors.New("--public-key: that is no WireGuard key")}, "it has 44 characters, as the app shows it under Public key")
	case public == in.server:
		return public, hint(usageError{errors.New("--public-key: that is the server's own key")}, "give the one that the app shows for the tunnel itself")
	}
	return public, nil
}

// guestEndpoint gives the HOST:PORT that guests reach the server by.
func guestEndpoint(cfg *serverConfig, file string) (string, error) {
	if cfg.WireGuard.Listen == "" {
		return "", hint(errors.New("the server takes no WireGuard"), "write listen = \":51820\" under [wireguard] in %s, and restart the server", file)
	}
	reach, ok := cfg.reach()
	if !ok {
		return "", hint(errors.New("server.toml does not say where devices reach this server"), `write name = "HOST:PORT" in %s`, file)
	}
	host, _, err := net.SplitHostPort(reach)
	if err != nil {
		return "", err
	}
	_, port, err := net.SplitHostPort(cfg.WireGuard.Listen)
	if err != nil {
		return "", err
	}
	if n, _ := strconv.Atoi(port); n == 0 {
		return "", hint(errors.New("the server's WireGuard port is another one at each start"), "write listen = \":51820\" under [wireguard] in %s, and restart the server", file)
	}
	return net.JoinHostPort(host, port), nil
}

// config gives what wg-quick and the WireGuard apps read.
func (in invitation) config() string {
	prefixes := make([]string, len(in.addresses))
	for i, a := range in.addresses {
		prefixes[i] = netip.PrefixFrom(a, a.BitLen()).String()
	}
	names := make([]string, len(in.dns))
	for i, a := range in.dns {
		names[i] = a.String()
	}
	key := "# PrivateKey: the app has it\n"
	if !in.private.IsZero() {
		private := in.private.Reveal()
		key = "PrivateKey = " + base64.StdEncoding.EncodeToString(private[:]) + "\n"
	}
	return "[Interface]\n" + key + fmt.Sprintf(`Address = %s
DNS = %s
MTU = %d

[Peer]
PublicKey = %s
Endpoint = %s
AllowedIPs = 0.0.0.0/0, ::/0
PersistentKeepalive = 25
`, strings.Join(prefixes, ", "), strings.Join(names, ", "), in.mtu, keys.WireGuardText(in.server), in.endpoint)
}

// guestHint says what to do about an error of enrolling a guest.
func guestHint(err error, user string, n guestNetwork) error {
	switch {
	case errors.Is(err, users.ErrDeviceKnown):
		return hint(errors.New("that key is enrolled already"), "let the app make another one; adit device list shows who is enrolled")
	case errors.Is(err, users.ErrNetworkFull):
		return hint(fmt.Errorf("%s has no address left for a guest", n.ip4), "give [wireguard] a larger network in %s, and restart the server", serverFile)
	}
	return userHint(err, user)
}
