//go:build linux

package e2e

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestCarriersFitIntoIPsecAndRestOnIt loads through the same ESP with nothing of adit's, with TLS,
// with WireGuard and with a carrier that rests on ESP, over links of several sizes. No packet may
// be cut in pieces. How fast they are, and what adit takes for it, is printed, and is proved
// where nothing else runs. There the link is no faster than a small machine: ESP in user space
// keeps two processors busy otherwise, and what adit takes of them it has not.
func TestCarriersFitIntoIPsecAndRestOnIt(t *testing.T) {
	sizes, amount, turns := []int{1500, 1280}, int64(16<<20), 1
	if *full {
		sizes, amount, turns = []int{1500, 1400, 1280}, 192<<20, 3
	}
	for _, mtu := range sizes {
		t.Run(strconv.Itoa(mtu), func(t *testing.T) {
			l := layIPsec(t)
			if err := ip(fmt.Sprintf("-n office link set o0 mtu %d", mtu), fmt.Sprintf("-n hub link set h0 mtu %d", mtu)); err != nil {
				t.Fatal(err)
			}
			page := l.serveAtHub()
			l.up()
			const at = hubInner + ":8444"
			dir := l.startHub(hubInner, "", fmt.Sprintf("[wireguard]\nlisten = \":51820\"\n\n[ipsec]\nlisten = %q", at))
			server := l.programs[len(l.programs)-1]
			client := l.join(dir, fmt.Sprintf("ipsec_address = %q\ncarriers = [\"tls\"]", at))
			before := l.fragments()
			l.load(t, 1<<20, "http://"+page+"/endless")
			if pieces := l.fragments() - before; (pieces > 0) != (mtu < 1460) { // ESP's interface takes 1400 bytes
				t.Errorf("without adit %d packets were cut in pieces", pieces)
			}
			_, price := l.compare(t, server, client, page, amount, turns)
			if !*full {
				return
			}
			cheaper := func(link string, price map[string]time.Duration) {
				if price["ipsec"] >= price[byTLS] {
					t.Errorf("%s: to rest on IPsec takes %v, to encrypt again %v", link, price["ipsec"], price[byTLS])
				}
			}
			cheaper("a fast link", price)
			l.narrow(100)
			share, price := l.compare(t, server, client, page, 48<<20, turns)
			cheaper("100 Mbit/s", price)
			for over, s := range share {
				if s < 0.9 {
					t.Errorf("over %s there are %.0f %% of what there is without adit", over, 100*s)
				}
			}
		})
	}
}

// compare loads so much without adit and by each carrier, some times in turns. It gives how fast each
// carrier was, as a share of what it is without adit, and how much processor time both ends
// of adit took for it. Both are medians: what else runs meanwhile may take its part in a turn. No packet
// may be cut in pieces.
func (l *ipsecLab) compare(t *testing.T, server *program, client, page string, amount int64, turns int) (share map[string]float64, price map[string]time.Duration) {
	t.Helper()
	var bare []float64
	speeds, prices := map[string][]float64{}, map[string][]time.Duration{}
	last := byTLS
	for range turns {
		bare = append(bare, l.load(t, amount, "http://"+page+"/endless"))
		for _, over := range []string{byWireGuard, "ipsec", byTLS} { // which the config has at last, as at first
			l.edit(client+"/client.toml", fmt.Sprintf("carriers = [%q]", last), fmt.Sprintf("carriers = [%q]", over))
			last = over
			c := l.run(officeNS, "client", "run", "--dir", client, "--door", "127.0.0.1:1080")
			before := l.fragments()
			took := c.processorTime(t) + server.processorTime(t)
			speeds[over] = append(speeds[over], l.load(t, amount, "-x", "socks5h://127.0.0.1:1080", "http://"+page+"/endless"))
			prices[over] = append(prices[over], perGiB(c.processorTime(t)+server.processorTime(t)-took, amount))
			if cut := l.fragments() - before; cut > 0 {
				t.Errorf("over %s, %d packets were cut in pieces", over, cut)
			}
			c.stop()
		}
	}
	share, price = map[string]float64{}, map[string]time.Duration{}
	for over := range speeds {
		share[over] = median(speeds[over]) / median(bare)
		price[over] = median(prices[over])
		t.Logf("over %s: %.0f of %.0f Mbit/s, %v of processor time per GiB %v", over, median(speeds[over]), median(bare), price[over], prices[over])
	}
	return share, price
}

func perGiB(took time.Duration, amount int64) time.Duration {
	return time.Duration(float64(took) * (1 << 30) / float64(amount)).Round(time.Millisecond)
}

func median[T cmp.Ordered](all []T) T { return slices.Sorted(slices.Values(all))[len(all)/2] }

// narrow makes the link from the hub to the office one of so many Mbit/s.
func (l *ipsecLab) narrow(mbits int) {
	l.t.Helper()
	rate := fmt.Sprintf("%dmbit", mbits)
	if _, err := hubNS.output(command(l.t.Context(), l.dir, "tc", "qdisc", "add", "dev", "h0", "root", "tbf", "rate", rate, "burst", "64kb", "latency", "50ms")); err != nil {
		l.t.Fatal(err)
	}
}

// Somebody in between drops what is large, and says nothing. No carrier stays stuck there.
func TestCarriersComeThroughWhereLargePacketsVanish(t *testing.T) {
	l := layIPsec(t)
	page := l.serveAtHub()
	l.up()
	dir := l.startHub(hubInner, "", "[wireguard]\nlisten = \":51820\"")
	client := l.join(dir, "carriers = [\"wireguard\"]")
	for ns, dev := range map[namespace]string{officeNS: "o0", hubNS: "h0"} {
		rules := "add table ip hole; add chain ip hole in { type filter hook prerouting priority -300; }; add rule ip hole in iifname " + dev + " meta length > 1300 drop"
		if _, err := ns.output(command(t.Context(), l.dir, "nft", rules)); err != nil {
			t.Fatal(err)
		}
	}
	for _, over := range []string{byWireGuard, byTLS} {
		l.edit(client+"/client.toml", fmt.Sprintf("carriers = [%q]", byWireGuard), fmt.Sprintf("carriers = [%q]", over))
		c := l.run(officeNS, "client", "run", "--dir", client, "--door", "127.0.0.1:1080")
		t.Logf("over %s: %.0f Mbit/s", over, l.load(t, 4<<20, "-x", "socks5h://127.0.0.1:1080", "http://"+page+"/endless"))
		c.stop()
	}
}

// load has curl load so much at the office, and gives how fast that was, in Mbit/s.
func (l *ipsecLab) load(t *testing.T, amount int64, args ...string) float64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := command(ctx, t.TempDir(), "curl", append([]string{"-sS", "--noproxy", ""}, args...)...)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = officeNS.do(cmd.Start)
	}
	if err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	n, err := io.CopyN(io.Discard, out, amount)
	took := time.Since(begun)
	cancel()
	_ = cmd.Wait() // it was cut off
	if err != nil {
		t.Fatalf("after %d bytes: %v", n, err)
	}
	return float64(8*n) / took.Seconds() / 1e6
}

// fragments is how many packets the kernel has made pieces of, at both places.
func (l *ipsecLab) fragments() int {
	return l.counted(officeNS, "Ip:", "FragCreates") + l.counted(hubNS, "Ip:", "FragCreates")
}

// counted is what the kernel has counted at a place.
func (l *ipsecLab) counted(ns namespace, table, name string) int {
	l.t.Helper()
	text, err := ns.output(command(l.t.Context(), l.dir, "cat", "/proc/net/snmp"))
	if err != nil {
		l.t.Fatal(err)
	}
	at := -1
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		switch {
		case fields[0] != table:
		case at < 0:
			at = slices.Index(fields, name)
		default:
			n, err := strconv.Atoi(fields[at])
			if err != nil {
				l.t.Fatal(err)
			}
			return n
		}
	}
	l.t.Fatalf("the kernel does not count %s", name)
	return 0
}

// edit replaces something in a file.
func (l *ipsecLab) edit(file, old, new string) {
	l.t.Helper()
	text, err := os.ReadFile(file)
	if err == nil {
		err = os.WriteFile(file, []byte(strings.Replace(string(text), old, new, 1)), 0o600)
	}
	if err != nil {
		l.t.Fatal(err)
	}
}

// processorTime is what the program has taken so far.
func (p *program) processorTime(t *testing.T) time.Duration {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	// See proc_pid_stat(5); the name, in parentheses, may hold anything.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	const tick = time.Second / 100
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * tick
}
