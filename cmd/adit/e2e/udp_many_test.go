//go:build linux

package e2e

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/adit-net/adit/cmd/adit/e2e/wan"
)

const (
	peersOfEach = 10

	// What each may add to what a program has resident, in bytes, and how many times as
	// much with the race detector.
	associationMemory = 64 << 10
	peerMemory        = 2 << 10
	ofRaces           = 10
)

// crowd is a target of very many addresses, that sends back from each what comes there.
type crowd struct {
	port     uint16
	strange  atomic.Int64 // datagrams that nobody's app has sent
	occupied sync.WaitGroup
}

var byStranger = []byte("a stranger's")

// newCrowd gathers one in 10.78.0.0/16, behind the target's address.
func newCrowd(t *testing.T) *crowd {
	t.Helper()
	err := ip(
		"-n target route add local 10.78.0.0/16 dev lo",
		"-n server route add 10.78.0.0/16 via "+target4)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ip("-n server route del 10.78.0.0/16", "-n target route del local 10.78.0.0/16 dev lo"); err != nil {
			t.Error(err)
		}
	})
	c := targetNS.listenUDP(t, ":0")
	_ = c.SetReadBuffer(4 << 20)
	conn := ipv4.NewPacketConn(c)
	if err := conn.SetControlMessage(ipv4.FlagDst, true); err != nil {
		t.Fatal(err)
	}
	r := &crowd{port: c.LocalAddr().(*net.UDPAddr).AddrPort().Port()}
	r.occupied.Go(func() { r.serve(conn) })
	t.Cleanup(func() { c.Close(); r.occupied.Wait() })
	return r
}

func (r *crowd) serve(conn *ipv4.PacketConn) {
	for b := make([]byte, 2000); ; {
		n, cm, from, err := conn.ReadFrom(b)
		if err != nil {
			return
		}
		if bytes.Equal(b[:n], byStranger) {
			r.strange.Add(1)
		}
		_, _ = conn.WriteTo(b[:n], &ipv4.ControlMessage{Src: cm.Dst}, from)
	}
}

// peer is the address of one of them.
func (r *crowd) peer(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 78, byte(i >> 8), byte(i)}), r.port)
}

// openMany opens associations at the roamer's door, and a port for each.
func (r *road) openMany(t *testing.T, n int) (apps []*pinger) {
	t.Helper()
	conns, err := r.dial(roadDoor, n)
	t.Cleanup(func() {
		for _, c := range conns {
			c.Close()
		}
		for _, a := range apps {
			a.Close()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	err = roamerNS.do(func() error {
		for _, c := range conns {
			relay, err := askForRelay(c)
			if err != nil {
				return err
			}
			_ = c.SetDeadline(time.Time{})
			port, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
			if err != nil {
				return err
			}
			apps = append(apps, &pinger{UDPConn: port, relay: relay})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return apps
}

// meet exchanges a datagram with each of some peers.
func (p *pinger) meet(peers ...netip.AddrPort) error {
	_ = p.SetDeadline(time.Now().Add(20 * time.Second))
	sent := make(map[string]bool)
	for _, peer := range peers {
		d := append(socks5Header(peer), "an app's"...)
		if _, err := p.WriteToUDPAddrPort(d, p.relay); err != nil {
			return err
		}
		sent[string(d)] = true
	}
	for b := make([]byte, 2000); len(sent) > 0; {
		n, err := p.Read(b)
		if err != nil {
			return fmt.Errorf("wait for %d of %d answers: %w", len(sent), len(peers), err)
		}
		if !sent[string(b[:n])] {
			return fmt.Errorf("% x comes, which was not sent", b[:n])
		}
		delete(sent, string(b[:n]))
	}
	return nil
}

// each does something for every app, for some at a time.
func each(t *testing.T, apps []*pinger, do func(i int, app *pinger) error) {
	t.Helper()
	var g errgroup.Group
	g.SetLimit(10)
	for i, app := range apps {
		g.Go(func() error { return do(i, app) })
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
}

// goroutines ends a program and counts what it has had.
func (p *program) goroutines() int {
	_ = p.cmd.Process.Signal(unix.SIGQUIT)
	<-p.ended
	p.log.mu.Lock()
	defer p.log.mu.Unlock()
	n := strings.Count(string(p.log.text), "\ngoroutine ")
	p.log.text = nil // it says nothing else
	return n
}

// TestManyAssociationsAndPeersTakeLittle has programs send from many ports to ten peers
// each, and a stranger on their machine send to every port that takes their datagrams.
func TestManyAssociationsAndPeersTakeLittle(t *testing.T) {
	many := sized(250, 1000) // which is as many streams as a session may have
	r := newFailoverRoad(t, wan.Config{}, byTLS)
	r.startClient(t)
	crowd := newCrowd(t)
	apps := r.openMany(t, 1)
	if err := apps[0].meet(crowd.peer(0)); err != nil {
		t.Fatal(err)
	}
	first := r.memory(t)
	apps = append(apps, r.openMany(t, many-1)...)
	each(t, apps, func(i int, app *pinger) error { return app.meet(crowd.peer(i)) })
	second := r.memory(t)
	each(t, apps, func(i int, app *pinger) error {
		var peers []netip.AddrPort
		for j := range peersOfEach {
			peers = append(peers, crowd.peer(i+j*many))
		}
		return app.meet(peers...)
	})
	third := r.memory(t)

	stranger := roamerNS.listenUDP(t, "127.0.0.1:0")
	each(t, apps, func(i int, app *pinger) error {
		d := append(socks5Header(crowd.peer(i)), byStranger...)
		if _, err := stranger.WriteToUDPAddrPort(d, app.relay); err != nil {
			return err
		}
		return app.meet(crowd.peer(i)) // it comes behind the stranger's
	})
	if n := crowd.strange.Load(); n != 0 {
		t.Errorf("%d of the stranger's datagrams were relayed", n)
	}

	times := int64(1)
	if raced() {
		times = ofRaces
	}
	for i, p := range []*program{r.server, r.client} {
		association := (second[i] - first[i]) / int64(many)
		peer := (third[i] - second[i]) / int64(many*(peersOfEach-1))
		n := p.goroutines()
		t.Logf("%s: %.1f MiB at first, %d bytes for an association, %d for one more peer, %d goroutines in the end",
			p.log.title, mib(first[i]), association, peer, n)
		if association > associationMemory*times || peer > peerMemory*times {
			t.Errorf("want %d bytes for an association and %d for a peer at most", associationMemory*times, peerMemory*times)
		}
		if n < many || n > 5*many {
			t.Errorf("want 5 goroutines for an association at most, and none for its %d peers", peersOfEach)
		}
	}
}
