//go:build linux

package e2e

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// The peers' machines, a gateway with a packet filter whose interface wg0 leads to them, and
// what is beyond it.
const (
	peersNS  namespace = "peers"
	gateNS   namespace = "gate"
	beyondNS namespace = "beyond"
)

const filtered = `
[[rule]]
name = "no mail"
ports = ["25"]
then = "deny"
[[rule]]
name = "alice's web"
users = ["alice"]
networks = ["10.84.0.0/24", "fd84::/64", "!10.84.0.3"]
ports = ["20-80"]
commands = ["connect"]
then = "allow"
[[rule]]
name = "in office hours"
ports = ["80"]
hours = ["00:00-24:00"]
then = "allow"
[[rule]]
name = "bob, slowly"
users = ["bob"]
commands = ["associate", "ping"]
ceiling_up = "8 kbit/s"
then = "allow"
`

// layFilter makes the namespaces, and a gateway that forwards everything.
func layFilter(t *testing.T) {
	t.Helper()
	t.Cleanup(func() { _ = ip("netns del peers", "netns del gate", "netns del beyond") }) // as far as they are there
	commands := []string{
		"netns add peers", "netns add gate", "netns add beyond",
		"link add p0 netns peers type veth peer name wg0 netns gate",
		"link add b0 netns beyond type veth peer name g0 netns gate",
		"-n gate addr add 10.83.0.1/24 dev wg0", "-n gate addr add 10.84.0.1/24 dev g0",
		"-n beyond addr add 10.84.0.2/24 dev b0", "-n beyond addr add 10.84.0.3/24 dev b0",
	}
	for _, host := range []string{"2", "3", "9"} {
		commands = append(commands, "-n peers addr add 10.83.0."+host+"/24 dev p0")
	}
	for _, link := range []string{"peers link set lo", "peers link set p0", "gate link set lo", "gate link set wg0", "gate link set g0", "beyond link set lo", "beyond link set b0"} {
		commands = append(commands, "-n "+link+" up")
	}
	commands = append(commands, "-n peers route add 10.84.0.0/24 via 10.83.0.1", "-n beyond route add 10.83.0.0/24 via 10.84.0.1")
	if err := ip(commands...); err != nil {
		t.Fatal(err)
	}
	if err := ip("netns exec gate sysctl -qw net.ipv4.ip_forward=1"); err != nil {
		t.Fatal(err)
	}
}

// TestNFTablesEnforcesWhatAPacketShows loads what adit prints for a policy, and sends packets.
func TestNFTablesEnforcesWhatAPacketShows(t *testing.T) {
	layFilter(t)
	dir := filepath.Join(t.TempDir(), "server")
	adit := func(args ...string) string {
		out, err := shared.adit(serverNS, append(args, "--dir", dir)...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	adit("server", "init", "--listen", "127.0.0.1:18443", "--name", "127.0.0.1", "--wireguard", ":51999")
	for _, user := range []string{"alice", "bob"} { // who get the first two addresses
		adit("user", "add", user)
		adit("invite", user, "--wireguard")
	}
	if err := os.WriteFile(filepath.Join(dir, "policy.toml"), []byte(filtered), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{"10.84.0.2:25", "10.84.0.2:22", "10.84.0.2:80", "10.84.0.2:81", "10.84.0.3:80"} {
		greets(t, address)
	}
	udp, sent := counts(t, "10.84.0.2:53")
	if !reaches(t, "10.83.0.9", "10.84.0.2:80", 10*time.Second) {
		t.Fatal("without a filter nothing gets through")
	}
	old, err := peersDial(t, "10.83.0.9", "tcp", "10.84.0.2:22", 10*time.Second) // is nothing that the rules have allowed
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	script := write(t, "adit.nft", adit("policy", "export", "nftables"))
	for _, args := range []string{"nft -c -f ", "nft -f ", "nft -f "} {
		if err := ip("netns exec gate " + args + script); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		from, to string
		want     bool
	}{
		{"10.83.0.2", "10.84.0.2:80", true},
		{"10.83.0.2", "10.84.0.2:22", true},
		{"10.83.0.2", "10.84.0.2:25", false},
		{"10.83.0.2", "10.84.0.2:81", false},
		{"10.83.0.2", "10.84.0.3:80", false},
		{"10.83.0.3", "10.84.0.2:80", false}, // nobody knows the hour
		{"10.83.0.9", "10.84.0.2:80", false}, // a stranger
		{"10.83.0.2", "10.83.0.1:80", false}, // the gateway itself
	} {
		limit := time.Second
		if c.want {
			limit = 10 * time.Second
		}
		if got := reaches(t, c.from, c.to, limit); got != c.want {
			t.Errorf("%s reaches %s: %v", c.from, c.to, got)
		}
	}
	_ = old.SetDeadline(time.Now().Add(time.Second))
	if _, err := old.Read(make([]byte, 1)); err != nil {
		t.Error("the target's greeting came before the filter, and is not there:", err)
	}
	_, _ = old.Write([]byte("x"))
	if _, err := old.Read(make([]byte, 100)); err == nil {
		t.Error("what was open before goes on")
	}

	// A ceiling of 1,000 bytes a second lets a burst of 64 KiB pass.
	c, err := peersDial(t, "10.83.0.3", "udp", udp, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 500 {
		_, _ = c.Write(make([]byte, 1000))
	}
	until(t, "the first datagrams", func() bool { return sent() >= 30 })
	if n := sent(); n > 200 {
		t.Errorf("of 500 datagrams %d got through", n)
	}
}

// greets answers each connection with one byte, and each byte with another.
func greets(t *testing.T, address string) {
	t.Helper()
	ln, err := beyondNS.listen(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				b := []byte{'!'}
				for err := error(nil); err == nil; _, err = c.Read(b) {
					_, _ = c.Write(b)
				}
			}()
		}
	}()
}

// counts counts the datagrams that come.
func counts(t *testing.T, address string) (at string, sent func() int) {
	t.Helper()
	var c net.PacketConn
	err := beyondNS.do(func() (err error) { c, err = net.ListenPacket("udp", address); return err })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	n := 0
	return address, func() int {
		_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		for b := make([]byte, 2000); ; n++ {
			if _, _, err := c.ReadFrom(b); err != nil {
				return n
			}
		}
	}
}

func peersDial(t *testing.T, from, network, to string, limit time.Duration) (c net.Conn, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	var d net.Dialer
	d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	if network == "udp" {
		d.LocalAddr = &net.UDPAddr{IP: net.ParseIP(from)}
	}
	err = peersNS.do(func() error { c, err = d.DialContext(ctx, network, to); return err })
	return c, err
}

// reaches tells whether a peer gets an answer.
func reaches(t *testing.T, from, to string, limit time.Duration) bool {
	t.Helper()
	c, err := peersDial(t, from, "tcp", to, limit)
	if err != nil {
		return false
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(limit))
	_, err = c.Read(make([]byte, 1))
	return err == nil
}
