package main

import (
	"bytes"
	"encoding/base64"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/adit-net/adit/crypto/keys"
	"github.com/adit-net/adit/crypto/wglink"
	"github.com/adit-net/adit/server/users"
	"github.com/adit-net/adit/tunnel/socks"
)

// newGuestDir makes a server's directory with a user, alice.
func newGuestDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "server")
	cfg := defaultServerConfig()
	cfg.Name, cfg.WireGuard.Listen = "vpn.example.org", ":51820"
	if _, err := initServer(t.Context(), dir, cfg); err != nil {
		t.Fatal(err)
	}
	store, err := users.Open(t.Context(), filepath.Join(dir, storeFile))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	if err := store.AddUser(t.Context(), "alice"); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestPrivateKeyOfAGuestIsPrintedOnceAndKeptNowhere(t *testing.T) {
	dir := newGuestDir(t)
	in, err := enrolGuest(t.Context(), dir, guestOrder{user: "alice", name: "phone"})
	if err != nil {
		t.Fatal(err)
	}
	private := in.private.Reveal()
	text := base64.StdEncoding.EncodeToString(private[:])
	if n := strings.Count(in.config(), text); n != 1 {
		t.Errorf("the configuration has it %d times:\n%s", n, in.config())
	}
	public := in.private.Public()
	found := false
	err = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if bytes.Contains(b, private[:]) || bytes.Contains(b, []byte(text)) {
			t.Errorf("%s has it", path)
		}
		found = found || bytes.Contains(b, public[:])
		return err
	})
	if err != nil || !found {
		t.Errorf("the public key is nowhere, or: %v", err)
	}
}

func TestConfigurationFitsOnATerminalAsAQRCode(t *testing.T) {
	in, err := enrolGuest(t.Context(), newGuestDir(t), guestOrder{user: "alice", name: "phone"})
	if err != nil {
		t.Fatal(err)
	}
	in.endpoint = strings.Repeat("long.", 10) + "example.org:51820"
	code, err := qrText(in.config(), 80)
	if err != nil || code == "" {
		t.Errorf("it does not, or: %v", err)
	}
}

func TestAddressesOfGuestsAreInTheNetworkOfTheirServer(t *testing.T) {
	network, err := newGuestNetwork(wireGuardConfig{Network: "10.83.0.0/16"}, [32]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	other, err := newGuestNetwork(wireGuardConfig{Network: "10.83.0.0/16"}, [32]byte{2})
	if err != nil {
		t.Fatal(err)
	}
	if network.ip6 == other.ip6 || !network.ip6.Addr().IsPrivate() || network.ip6.Bits() != 64 || network.ip6 != network.ip6.Masked() {
		t.Errorf("the IPv6 networks of two servers are %s and %s", network.ip6, other.ip6)
	}
	seen := network.server()
	for _, text := range []string{"10.83.0.2", "10.83.0.3", "10.83.1.2", "10.83.255.254"} {
		for _, a := range network.of(users.Device{Address: netip.MustParseAddr(text)}) {
			if slices.Contains(seen, a) || !network.ip4.Contains(a) && !network.ip6.Contains(a) {
				t.Errorf("a guest has %s, others %v", a, seen)
			}
			seen = append(seen, a)
		}
	}
	if seen[0] != netip.MustParseAddr("10.83.0.1") || seen[1] != network.ip6.Addr().Next() || seen[2] != netip.MustParseAddr("10.83.0.2") {
		t.Errorf("addresses are %v", seen)
	}
}

func TestAddressesOfGuestsAreThoseOfTheProtocol(t *testing.T) {
	text, err := os.ReadFile("../../tunnel/PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	network, err := newGuestNetwork(wireGuardConfig{Network: defaultNetwork}, [32]byte(bytes.Repeat([]byte{0x11}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	all := network.of(users.Device{Address: netip.MustParseAddr("10.83.0.2")})
	if line := "| the guest 10.83.0.2, over IPv6 | `" + all[1].String() + "` |"; !strings.Contains(string(text), line) {
		t.Errorf("the text does not say %s", line)
	}
}

func TestGuestsOfDisabledUsersAreShutOutAndDevicesAreNot(t *testing.T) {
	dir := newGuestDir(t)
	ctx := t.Context()
	store, err := users.Open(ctx, filepath.Join(dir, storeFile))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	network := netip.MustParsePrefix(defaultNetwork)
	phone, err := store.AddGuest(ctx, "alice", "phone", [32]byte{1}, network)
	if err != nil {
		t.Fatal(err)
	}
	lost, err := store.AddGuest(ctx, "alice", "lost", [32]byte{2}, network)
	if err != nil {
		t.Fatal(err)
	}
	laptop := users.Device{Key: make([]byte, 32), WireGuard: [32]byte{3}, Name: "laptop"}
	token := keys.NewToken()
	if err := store.Invite(ctx, "alice", token, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Join(ctx, token.Bytes(), laptop); err != nil {
		t.Fatal(err)
	}
	if err := store.RevokeDevice(ctx, lost.ID().String()); err != nil {
		t.Fatal(err)
	}
	p := &serverProcess{store: store, log: newJournal(io.Discard, defaultLogConfig())}
	for _, test := range []struct {
		disabled bool
		want     [][32]byte
	}{
		{false, [][32]byte{phone.WireGuard, laptop.WireGuard}},
		{true, [][32]byte{laptop.WireGuard}},
	} {
		if err := store.SetUserDisabled(ctx, "alice", test.disabled); err != nil {
			t.Fatal(err)
		}
		got, known := p.enrolled(ctx)
		if !known || len(got) != len(test.want) {
			t.Errorf("while the user is disabled (%v) %d devices may come, want %d", test.disabled, len(got), len(test.want))
		}
		for _, key := range test.want {
			if got[key].Name == "" {
				t.Errorf("while the user is disabled (%v) a device is missing", test.disabled)
			}
		}
	}
}

func TestStoreWithoutAnAnswerLetsNobodyIn(t *testing.T) {
	store, err := users.Open(t.Context(), filepath.Join(newGuestDir(t), storeFile))
	if err != nil {
		t.Fatal(err)
	}
	store.Close()
	p := &serverProcess{store: store, log: newJournal(io.Discard, defaultLogConfig())}
	if may, known := p.enrolled(t.Context()); known || len(may) > 0 {
		t.Errorf("of a store that is closed it is known (%v) that %d may come", known, len(may))
	}
}

func TestDeviceThatMayNotComeIsAnsweredForAWhile(t *testing.T) {
	now := time.Now()
	p := peers{in: make(map[[32]byte]users.Device), parts: make(map[[32]byte]time.Time)}
	may := map[[32]byte]users.Device{{1}: {}, {2}: {}}
	for _, step := range []struct {
		after time.Duration
		may   map[[32]byte]users.Device
		in    int
		next  time.Duration
	}{
		{0, may, 2, time.Hour},
		{0, nil, 2, parting},
		{parting - 1, nil, 2, 1},
		{0, may, 2, time.Hour}, // the store answers again
		{time.Minute, nil, 2, parting},
		{parting, nil, 0, time.Hour},
		{0, may, 2, time.Hour},
	} {
		now = now.Add(step.after)
		if next := p.update(now, step.may); next != step.next || len(p.in) != step.in {
			t.Errorf("%+v: %d are in, and it looks again after %v", step, len(p.in), next)
		}
	}
}

func TestGuestsHearWhyInWordsOfIP(t *testing.T) {
	for code, want := range map[socks.Code]wglink.Reason{
		socks.ConnectionRefused:   wglink.Refused,
		socks.NotAllowed:          wglink.NotAllowed,
		socks.NetworkUnreachable:  wglink.NetworkUnreachable,
		socks.HostUnreachable:     wglink.HostUnreachable,
		socks.TTLExpired:          wglink.HostUnreachable,
		socks.AddressNotSupported: wglink.NetworkUnreachable,
		socks.TimedOut:            0,
		socks.GeneralFailure:      0,
	} {
		if got := reasonOf(code, 0); got != want {
			t.Errorf("%v becomes %v, want %v", code, got, want)
		}
	}
	if got := reasonOf(socks.TimedOut, wglink.HostUnreachable); got != wglink.HostUnreachable {
		t.Errorf("what is not known becomes %v", got)
	}
}
