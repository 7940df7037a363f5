//go:build linux

package e2e

import (
	"bytes"
	"fmt"
	"regexp"
	"strconv"
	"testing"
	"time"
)

// Datagrams go beside the bytes of a carrier that rests on IPsec, in packets of their own; among
// the bytes while such packets do not get through; and never in clear.
func TestDatagramsGoBesideACarrierThatRestsOnIPsec(t *testing.T) {
	l := layIPsec(t)
	page := l.serveAtHub()
	l.up()
	const at = hubInner + ":8444"
	dir := l.startHubWith(func(dir string) { l.demand(dir, page, "10s") }, hubInner, "", fmt.Sprintf("[ipsec]\nlisten = %q", at))
	client := l.join(dir, fmt.Sprintf("carriers = [\"ipsec\"]\nipsec_address = %q", at))
	clear := hubNS.watchClear(t, "h0")
	l.nft("add table ip seen", "add chain ip seen in { type filter hook input priority 0; }", "add rule ip seen in udp dport 8444 counter")
	l.run(officeNS, "client", "run", "--dir", client, "--door", "127.0.0.1:1080")
	p := officeNS.associate(t, "127.0.0.1:1080", hubNS.answer(t, hubInner+":0", same))

	const most = 1200
	beside := l.besideCarriers()
	until(t, "that datagrams go beside the bytes", func() bool { return p.comesBack(most) && l.besideCarriers() > beside+20 })
	p.mostComeBack(t, 100, most)
	pieces := l.fragments()
	p.mostComeBack(t, 10, 1400) // which is too long for a packet inside
	if n := l.fragments() - pieces; n > 0 {
		t.Errorf("%d packets were cut in pieces", n)
	}
	ruled := l.download(t, "127.0.0.1:1080", page) // by a rule that requires IPsec
	ruled.passes(t, 1<<20)
	ruled.finish(t)

	l.nft("add rule ip seen in udp dport 8444 drop")
	until(t, "that datagrams go among the bytes", func() bool {
		for range 20 {
			if !p.comesBack(most) {
				return false
			}
		}
		return true
	})
	l.nft("flush chain ip seen in", "add rule ip seen in udp dport 8444 counter")
	until(t, "that they go beside them again", func() bool { p.comesBack(most); return l.besideCarriers() > 5 })

	l.down()
	p.comesBack(most) // or not: there is nothing that could take it
	l.reachInClear()
	l.up()
	until(t, "that datagrams come through again", func() bool { return p.comesBack(most) })
	if n := clear[8444].Load(); n > 0 {
		t.Errorf("%d packets were in clear", n)
	}
}

// nft runs commands of the program nft at the hub.
func (l *ipsecLab) nft(commands ...string) {
	l.t.Helper()
	for _, c := range commands {
		if _, err := hubNS.output(command(l.t.Context(), l.dir, "nft", c)); err != nil {
			l.t.Fatal(err)
		}
	}
}

var packetsSeen = regexp.MustCompile("counter packets ([0-9]+)")

// besideCarriers is how many packets of UDP have come in where carriers do.
func (l *ipsecLab) besideCarriers() int {
	l.t.Helper()
	text, err := hubNS.output(command(l.t.Context(), l.dir, "nft", "list chain ip seen in"))
	if err != nil {
		l.t.Fatal(err)
	}
	n := 0
	if m := packetsSeen.FindStringSubmatch(text); m != nil {
		n, _ = strconv.Atoi(m[1])
	}
	return n
}

// comesBack tells whether a datagram of a size comes back.
func (p *pinger) comesBack(size int) bool {
	d := append(bytes.Clone(p.head), bytes.Repeat([]byte{byte(time.Now().UnixNano())}, size)...)
	_, _ = p.WriteToUDPAddrPort(d, p.relay)
	_ = p.SetReadDeadline(time.Now().Add(time.Second / 2))
	for b := make([]byte, len(d)); ; {
		n, err := p.Read(b)
		if err != nil {
			return false
		}
		if bytes.Equal(b[:n], d) {
			return true
		}
	}
}

// mostComeBack sends so many datagrams, one after the other. A few may get lost: ESP in user
// space drops what it has no time for.
func (p *pinger) mostComeBack(t *testing.T, n, size int) {
	t.Helper()
	lost := 0
	for range n {
		if !p.comesBack(size) {
			lost++
		}
	}
	if lost > n/10 {
		t.Errorf("%d of %d datagrams of %d bytes have not come back", lost, n, size)
	}
}
