//go:build linux

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const guestPort = "51820" // of the server, over UDP

// guest is a device without adit at the end of a road: it has wireguard-go, and
// what wg and ip make of the configuration that adit has printed.
//
//	roamer ── WireGuard over the link ── server ── 10.77.2.0/24 ── target
type guest struct {
	*road
	conf       string       // the configuration's file
	own        []netip.Addr // inside WireGuard, IPv4 first
	inner      []netip.Addr // the server's, the same way
	resolvConf string       // that names the server
}

// newGuest starts a server that takes guests, and brings up one of alice's.
func newGuest(t *testing.T) *guest {
	t.Helper()
	g := &guest{road: &road{serverDir: shared.path("guest-server"), address: roamer4}}
	c := usual(100).Config
	c.Delay = 5 * time.Millisecond
	g.link = layRoad(t, c)
	if missing(g.serverDir) {
		adit(t, serverNS, "server", "init", "--dir", g.serverDir, "--name", roadside4, "--allow", "private",
			"--listen", ":"+roadPort, "--wireguard", ":"+guestPort)
		adit(t, serverNS, "user", "add", "alice", "--dir", g.serverDir)
	}
	g.server = g.launch(t, serverNS, "the guests' server", "server", "run", "--dir", g.serverDir)
	g.invite(t)
	g.bringUp(t)
	return g
}

// invite has the running server told of a new guest.
func (g *guest) invite(t *testing.T) {
	t.Helper()
	text := adit(t, serverNS, "invite", "alice", "--wireguard", "--name", "phone", "--dir", g.serverDir)
	dir := t.TempDir()
	g.conf = filepath.Join(dir, "wg0.conf")
	if err := os.WriteFile(g.conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, a := range setting(t, text, "Address") {
		g.own = append(g.own, netip.MustParsePrefix(a).Addr())
	}
	var names strings.Builder
	for _, a := range setting(t, text, "DNS") {
		g.inner = append(g.inner, netip.MustParseAddr(a))
		fmt.Fprintln(&names, "nameserver", a)
	}
	g.resolvConf = filepath.Join(dir, "resolv.conf")
	if err := os.WriteFile(g.resolvConf, []byte(names.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	if len(g.own) != 2 || !g.own[0].Is4() || !g.own[1].Is6() || len(g.inner) != 2 {
		t.Fatalf("the configuration is\n%s", text)
	}
}

// setting gives the values of a line in a configuration of wg-quick.
func setting(t *testing.T, text, key string) []string {
	t.Helper()
	for line := range strings.Lines(text) {
		if name, values, _ := strings.Cut(strings.TrimSpace(line), " = "); name == key {
			return strings.Split(values, ", ")
		}
	}
	t.Fatalf("there is no %s in\n%s", key, text)
	return nil
}

// bringUp does what wg-quick would, but for the name server, which is seen by
// those alone that run says.
func (g *guest) bringUp(t *testing.T) {
	t.Helper()
	p, err := launch(roamerNS, shared.dir, "wireguard-go", "", "wireguard-go", "--foreground", "wg0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	until(t, "wireguard-go", func() bool {
		_, err := g.try(t, "wg", "show", "wg0")
		return err == nil
	})
	text, err := os.ReadFile(g.conf)
	if err != nil {
		t.Fatal(err)
	}
	stripped := g.conf + ".stripped"
	if err := os.WriteFile(stripped, []byte(g.run(t, "wg-quick", "strip", g.conf)), 0o600); err != nil {
		t.Fatal(err)
	}
	g.run(t, "wg", "setconf", "wg0", stripped)
	// The endpoint must not be looked for inside.
	commands := []string{"-n roamer route add " + roadside4 + "/32 dev wan0"}
	for _, a := range setting(t, string(text), "Address") {
		commands = append(commands, "-n roamer addr add "+a+" dev wg0")
	}
	commands = append(commands,
		"-n roamer link set wg0 mtu "+setting(t, string(text), "MTU")[0]+" up",
		"-n roamer route add 0.0.0.0/1 dev wg0",
		"-n roamer route add 128.0.0.0/1 dev wg0",
		"-n roamer route add ::/0 dev wg0")
	if err := ip(commands...); err != nil {
		t.Fatal(err)
	}
}

// run runs a program on the guest and returns what it wrote to its standard
// output.
func (g *guest) run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := g.try(t, name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// inside runs a program with the guest's own resolv.conf.
const inside = `mount --bind "$0" "$(realpath /etc/resolv.conf)" && exec "$@"`

func (g *guest) try(t *testing.T, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	args = append([]string{"--mount", "sh", "-c", inside, g.resolvConf, name}, args...)
	return roamerNS.output(command(ctx, t.TempDir(), "unshare", args...))
}

// fails runs a program that must fail, and tells how it did and how long it took.
func (g *guest) fails(t *testing.T, name string, args ...string) (code int, took time.Duration) {
	t.Helper()
	began := time.Now()
	out, err := g.try(t, name, args...)
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok {
		t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
	return exit.ExitCode(), time.Since(began)
}

// guestStatus is what the server tells of a guest.
type guestStatus struct {
	User    string `json:"user"`
	Device  string `json:"device"`
	Address string `json:"address"`
	Remote  string `json:"remote"`
	Flows   int    `json:"flows"`
	Opened  uint64 `json:"opened"`
	Up      int64  `json:"up"`
	Down    int64  `json:"down"`
}

// status gives what the server tells of the guest; the zero value if nothing.
func (g *guest) status(t *testing.T) guestStatus {
	t.Helper()
	var report struct {
		Server struct {
			Guests []guestStatus `json:"guests"`
		} `json:"server"`
	}
	if err := json.Unmarshal([]byte(adit(t, serverNS, "status", "--json", "--dir", g.serverDir)), &report); err != nil {
		t.Fatal(err)
	}
	for _, s := range report.Server.Guests {
		if s.Address == g.own[0].String() {
			return s
		}
	}
	return guestStatus{}
}

// revoke revokes the guest.
func (g *guest) revoke(t *testing.T) {
	t.Helper()
	for line := range strings.Lines(adit(t, serverNS, "device", "list", "--dir", g.serverDir)) {
		if fields := strings.Fields(line); fields[len(fields)-1] == g.own[0].String() {
			adit(t, serverNS, "device", "revoke", fields[0], "--dir", g.serverDir)
			return
		}
	}
	t.Fatal("the guest is not listed")
}
