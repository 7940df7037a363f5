//go:build linux

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"testing"
	"time"
)

// The machine behind the client's sends all that it has to say there.
//
//	lan ── 10.77.6.0/24 ── client
const lanNS namespace = "lan"

const gateway4 = "10.77.6.1"

// redsocks takes connections that the kernel has turned its way, and datagrams for one
// target.
const redsocks = `base { log_debug = off; log_info = on; log = stderr; daemon = off; redirector = iptables; }
redsocks { local_ip = ` + gateway4 + `; local_port = 12345; ip = %[1]s; port = %[2]s; type = %[3]s; }
redudp { local_ip = ` + gateway4 + `; local_port = 12346; ip = %[1]s; port = %[2]s; dest_ip = %[4]s; dest_port = %[5]d; udp_timeout = 30; }
`

const turnToRedsocks = `table ip gateway {
	chain in {
		type nat hook prerouting priority dstnat;
		iifname "c1" ip protocol tcp redirect to :12345
		iifname "c1" ip protocol udp redirect to :12346
	}
}
`

// TestRedsocksTakesAWholeNetworkThrough has a machine whose programs know of no proxy
// reach the target by a gateway that does.
func TestRedsocksTakesAWholeNetworkThrough(t *testing.T) {
	layLAN(t)
	mirror := mirrorAtTarget(t)
	host, port, _ := net.SplitHostPort(door4)
	for _, kind := range []string{"socks4", "socks5"} {
		t.Run(kind, func(t *testing.T) {
			config := write(t, "redsocks.conf", fmt.Sprintf(redsocks, host, port, kind, mirror.Addr(), mirror.Port()))
			p, err := launch(clientNS, t.TempDir(), "redsocks", "", "redsocks", "-c", config, "-p", filepath.Join(t.TempDir(), "pid"))
			if err != nil {
				t.Fatal(err)
			}
			defer p.stop()
			until(t, "redsocks", func() bool { return clientNS.hears(t, gateway4+":12346") })
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			page, err := lanNS.output(command(ctx, t.TempDir(), "curl", "-sS", "--fail", "http://"+target4+"/"))
			if err != nil {
				t.Fatalf("%v; redsocks says\n%s", err, p.log)
			}
			checkGreeting(t, page)
			if kind == "socks5" {
				seeItself(t, lanNS.listenUDP(t, ":0"), mirror)
			}
		})
	}
}

// layLAN connects a machine to the client's, which is its way to everywhere.
func layLAN(t *testing.T) {
	t.Helper()
	err := ip(
		"netns add lan",
		"link add c1 netns client type veth peer name l0 netns lan",
		"-n client addr add "+gateway4+"/24 dev c1",
		"-n client link set c1 up",
		"-n lan addr add 10.77.6.2/24 dev l0",
		"-n lan link set lo up",
		"-n lan link set l0 up",
		"-n lan route add default via "+gateway4)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ip("netns del lan"); err != nil {
			t.Error(err)
		}
	})
	if err := ip("netns exec client nft -f " + write(t, "rules", turnToRedsocks)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ip("netns exec client nft delete table ip gateway"); err != nil {
			t.Error(err)
		}
	})
}

// seeItself sends datagrams to a mirror and wants them back.
func seeItself(t *testing.T, c *net.UDPConn, mirror netip.AddrPort) {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	b := make([]byte, 2000)
	for i := range 20 {
		sent := []byte(randomText(1 + 60*i))
		if _, err := c.WriteToUDPAddrPort(sent, mirror); err != nil {
			t.Fatal(err)
		}
		n, from, err := c.ReadFromUDPAddrPort(b)
		if err != nil || from != mirror || !bytes.Equal(b[:n], sent) {
			t.Fatalf("%d bytes came back from %s, %v; want %d from %s", n, from, err, len(sent), mirror)
		}
	}
}
