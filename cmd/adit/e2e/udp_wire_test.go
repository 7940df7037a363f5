//go:build linux

package e2e

import (
	"bytes"
	"fmt"
	"math"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/adit-net/adit/cmd/adit/e2e/wan"
)

// What datagrams take on the wire in any case.
const (
	udpHeaders = 20 + 8            // of IPv4 and UDP
	tcpHeaders = 20 + 20 + 12      // of IPv4 and TCP, with timestamps
	tlsRecord  = 5 + 1 + 16        // header, type and tag of TLS 1.3
	socks5Head = 2 + 1 + 1 + 4 + 2 // for an IPv4 address; up to 262 for a name
)

// wireCost is how many bytes a datagram takes on the link beyond its payload, by the
// payload's size.
type wireCost [len(wireSizes)]float64

var wireSizes = [...]int{64, 512, 1200}

// below tells whether it is lower for every size.
func (c wireCost) below(other wireCost) bool {
	for i := range c {
		if c[i] >= other[i] {
			return false
		}
	}
	return true
}

// flat is a cost that is the same for every size.
func flat(bytes float64) (c wireCost) {
	for i := range c {
		c[i] = bytes
	}
	return c
}

// inWireGuard is the cost of datagrams that have so many bytes of headers inside WireGuard,
// which has messages of a multiple of 16 bytes, with a header and a tag of 16 bytes each.
func inWireGuard(headers int) (c wireCost) {
	for i, size := range wireSizes {
		inside := (headers + size + 15) / 16 * 16
		c[i] = float64(udpHeaders + 16 + inside + 16 - size)
	}
	return c
}

// TestDatagramsTakeFewerBytesThanThoseOfOthers counts what crosses the link. A program
// that waits for each answer is the worst case for TLS, whose records and segments take
// all that there is. Shadowsocks with AES-128, half the salt and no session then takes
// fewer, and is printed.
func TestDatagramsTakeFewerBytesThanThoseOfOthers(t *testing.T) {
	single, batches := make(map[string]wireCost), make(map[string]wireCost)
	count := func(t *testing.T, rounds int, name string, p *pinger) {
		t.Helper()
		var mean, meanOfBatches wireCost
		single[name], mean = p.costs(t, rounds, 10, 1)
		batches[name], meanOfBatches = p.costs(t, rounds, 2, 20)
		t.Logf("%-20s one at a time %5.1f, mean %5.1f; 20 at a time %5.1f, mean %5.1f", name, single[name], mean, batches[name], meanOfBatches)
	}
	t.Logf("bytes beyond payloads of %d", wireSizes)
	for _, carrier := range []string{byTLS, byWireGuard} {
		t.Run(carrier, func(t *testing.T) {
			r := newFailoverRoad(t, wan.Config{}, carrier)
			r.startClient(t)
			count(t, 30, carrier, r.newPinger(t, mirrorAtTarget(t)))
		})
	}
	t.Run("wireguard-go", func(t *testing.T) {
		newGuest(t)
		count(t, 10, "wireguard-go", &pinger{roamerNS.listenUDP(t, ":0"), mirrorAtTarget(t), nil})
	})
	for name, method := range map[string]string{"shadowsocks": "chacha20-ietf-poly1305", "shadowsocks, AES-128": "aes-128-gcm"} {
		t.Run(name, func(t *testing.T) {
			layRoad(t, wan.Config{})
			count(t, 10, name, associate(t, startShadowsocks(t, method), mirrorAtTarget(t)))
		})
	}
	if t.Failed() {
		return
	}
	for i, want := range inWireGuard(udpHeaders) {
		if got := single["wireguard-go"][i]; math.Abs(got-want) > 1 {
			t.Errorf("wireguard-go takes %.1f, want %.1f: nothing is counted right", got, want)
		}
	}
	// Inside WireGuard it is what its frame takes, and a number.
	for i, want := range inWireGuard(7 + 1) {
		if got := single[byWireGuard][i]; got > want+1 {
			t.Errorf("over WireGuard: %.1f, want %.1f", got, want)
		}
	}
	for peer, cost := range map[string]wireCost{
		"SOCKS 5 over TLS, a segment for each": flat(tcpHeaders + tlsRecord + socks5Head),
		"SOCKS 5 inside WireGuard":             inWireGuard(udpHeaders + socks5Head),
		"wireguard-go":                         single["wireguard-go"],
		"shadowsocks":                          single["shadowsocks"],
	} {
		for _, carrier := range []string{byTLS, byWireGuard} {
			if !single[carrier].below(cost) {
				t.Errorf("one at a time over %s: %.1f, by %s %.1f", carrier, single[carrier], peer, cost)
			}
		}
	}
	for peer, cost := range batches {
		if peer != byTLS && !batches[byTLS].below(cost) {
			t.Errorf("20 at a time over TLS: %.1f, by %s %.1f", batches[byTLS], peer, cost)
		}
	}
}

// startShadowsocks starts both ends of one and tells where its door is.
func startShadowsocks(t *testing.T, method string) (door string) {
	t.Helper()
	const port, host, doorPort = "8388", "127.0.0.1", "1081"
	both := []string{"-s", roadside4, "-p", port, "-k", "secret", "-m", method, "-u"}
	for _, c := range []struct {
		ns   namespace
		name string
		args []string
	}{
		{serverNS, "ss-server", both},
		{roamerNS, "ss-local", append(both, "-b", host, "-l", doorPort)},
	} {
		p, err := launch(c.ns, shared.dir, c.name, "", c.name, c.args...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.stop)
	}
	door = net.JoinHostPort(host, doorPort)
	until(t, "shadowsocks", func() bool { return serverNS.hears(t, net.JoinHostPort(roadside4, port)) && roamerNS.hears(t, door) })
	return door
}

// costs counts for datagrams that are sent so many at a time. What is asserted is the
// least of many short rounds, without packets of TCP that only acknowledge: how much
// more there is depends on how busy the machine is, and now and then somebody asks which
// sizes the path takes. With it, the mean is that of all.
func (p *pinger) costs(t *testing.T, rounds, times, atATime int) (least, mean wireCost) {
	t.Helper()
	datagrams := 2 * times * atATime // there and back
	for i, size := range wireSizes {
		least[i] = math.Inf(1)
		for range rounds {
			p.exchange(t, 1, 10, size) // for both ends to agree on numbers
			before := onLink(t)
			p.exchange(t, times, atATime, size)
			after := onLink(t)
			bytes := after.bytes - before.bytes - datagrams*size
			alone := max(0, after.packets-before.packets-datagrams)
			least[i] = min(least[i], float64(bytes-alone*tcpHeaders)/float64(datagrams))
			mean[i] += float64(bytes) / float64(datagrams*rounds)
		}
	}
	return least, mean
}

// exchange sends datagrams of a size, so many at a time, and waits until they are back.
func (p *pinger) exchange(t *testing.T, times, atATime, size int) {
	t.Helper()
	_ = p.SetDeadline(time.Now().Add(30 * time.Second))
	d := append(bytes.Clone(p.head), make([]byte, size)...)
	b := make([]byte, 4096)
	for range times {
		for range atATime {
			if _, err := p.WriteToUDPAddrPort(d, p.relay); err != nil {
				t.Fatal(err)
			}
		}
		for i := range atATime {
			if n, err := p.Read(b); err != nil || n != len(d) {
				t.Fatalf("datagram %d of %d: %d bytes, %v; want %d", i, atATime, n, err, len(d))
			}
		}
	}
}

// traffic is what has crossed the link, both ways.
type traffic struct{ bytes, packets int }

func onLink(t *testing.T) traffic {
	t.Helper()
	var table []byte
	err := roamerNS.do(func() (err error) { table, err = os.ReadFile("/proc/thread-self/net/dev"); return err })
	if err != nil {
		t.Fatal(err)
	}
	_, counts, _ := strings.Cut(string(table), "wan0:")
	var in, out traffic
	var other int
	if _, err := fmt.Sscan(counts, &in.bytes, &in.packets, &other, &other, &other, &other, &other, &other, &out.bytes, &out.packets); err != nil {
		t.Fatalf("%v in\n%s", err, table)
	}
	return traffic{in.bytes + out.bytes, in.packets + out.packets}
}
