//go:build linux

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/adit-net/adit/cmd/adit/e2e/wan"
	"github.com/adit-net/adit/crypto/keys"
	"github.com/adit-net/adit/crypto/wglink"
)

// Names of carriers, as config and status spell them.
const (
	byTLS       = "tls"
	byWireGuard = "wireguard"
)

// blocks is what a network must block so that a carrier falls silent.
var blocks = map[string]wan.Protocol{byTLS: wan.TCP, byWireGuard: wan.UDP}

const failoverPort = "51820" // of the server, over UDP

// newFailoverRoad is newRoad with a server that takes both carriers and a client
// that prefers them in this order. The client does not run yet.
func newFailoverRoad(t *testing.T, c wan.Config, carriers ...string) *road {
	t.Helper()
	r := &road{serverDir: shared.path("failover-server"), clientDir: shared.path(strings.Join(carriers, "-")), address: roamer4}
	r.link = layRoad(t, c)
	if missing(r.serverDir) {
		adit(t, serverNS, "server", "init", "--dir", r.serverDir, "--name", roadside4, "--allow", "private",
			"--listen", ":"+roadPort, "--wireguard", ":"+failoverPort)
		adit(t, serverNS, "user", "add", "alice", "--dir", r.serverDir)
	}
	r.server = r.launch(t, serverNS, "the road's server", "server", "run", "--dir", r.serverDir)
	if missing(r.clientDir) {
		r.join(t, r.clientDir)
		r.prefer(t, carriers)
	}
	return r
}

// prefer sets the carriers of a client that has joined.
func (r *road) prefer(t *testing.T, carriers []string) {
	t.Helper()
	file := filepath.Join(r.clientDir, "client.toml")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var config strings.Builder
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "carriers") {
			config.WriteString(line)
		}
		if line == "[server]\n" {
			fmt.Fprintf(&config, "carriers = [\"%s\"]\n", strings.Join(carriers, `", "`))
		}
	}
	if err := os.WriteFile(file, []byte(config.String()), 0o600); err != nil {
		t.Fatal(err)
	}
}

// startClient starts the client and waits until it has a session.
func (r *road) startClient(t *testing.T) {
	t.Helper()
	r.client = r.launch(t, roamerNS, "the roamer's client", "client", "run", "--dir", r.clientDir, "--door", roadDoor)
	until(t, "a session", func() bool { return r.carrier() != "" })
}

// carrier is what the client's log says that it has got last.
func (r *road) carrier() string {
	_, last := carriersIn(r.client.log)
	return last
}

// carriersIn tells how many carriers a client has had, and which one last.
func carriersIn(log *programLog) (n int, last string) {
	for line := range strings.Lines(log.String()) {
		if !strings.Contains(line, "msg=connected") && !strings.Contains(line, "msg=resumed") {
			continue
		}
		if _, rest, ok := strings.Cut(line, " carrier="); ok {
			n++
			last = strings.Fields(rest)[0]
		}
	}
	return n, last
}

// waitToMove waits until bytes arrive both ways.
func (l *load) waitToMove(t *testing.T) {
	t.Helper()
	up, down := l.up.total(), l.down.total()
	until(t, "that bytes arrive both ways", func() bool { return l.up.total() > up && l.down.total() > down })
}

// identity is what the server knows of its one session that no change of
// carriers may change.
type identity struct {
	ID       string `json:"id"`
	User     string `json:"user"`
	Device   string `json:"device"`
	DeviceID string `json:"device_id"`
}

// clientStatus is what the client tells of its carrier.
type clientStatus struct {
	Connected  bool   `json:"connected"`
	Passed     string `json:"passed"`
	Resumes    int    `json:"resumes"`
	Protection struct {
		Carrier string `json:"carrier"`
	} `json:"protection"`
}

func (r *road) clientStatus(t *testing.T) clientStatus {
	t.Helper()
	var report struct {
		Client clientStatus `json:"client"`
	}
	if err := json.Unmarshal([]byte(adit(t, roamerNS, "status", "--json", "--dir", r.clientDir)), &report); err != nil {
		t.Fatal(err)
	}
	return report.Client
}

// changeNetwork gives the roamer one more address, which nothing uses.
func changeNetwork(t *testing.T) {
	t.Helper()
	if err := ip("-n roamer addr add 10.77.9.1/32 dev wan0"); err != nil {
		t.Fatal(err)
	}
}

// TestSessionMovesBetweenTLSAndWireGuardWithoutLosingAByte blocks what the
// session's carrier needs, again and again.
func TestSessionMovesBetweenTLSAndWireGuardWithoutLosingAByte(t *testing.T) {
	failovers := sized(4, 50)
	road := newFailoverRoad(t, usual(100).Config, byTLS, byWireGuard)
	road.startClient(t)
	l := startLoad(t, atTarget(t), road.throughDoor, loadConfig{streams: 32, least: sized[int64](256<<10, 16<<20), ahead: 256 << 10})
	l.waitToMove(t)
	before := road.session(t).identity
	var stalls []time.Duration
	for i := range failovers {
		time.Sleep(sized(500*time.Millisecond, 2*time.Second)) // for the carrier to get up to speed
		from, to := byTLS, byWireGuard
		if i%2 == 1 {
			from, to = to, from
		}
		if c := road.carrier(); c != from {
			t.Fatalf("the carrier is %s, want %s", c, from)
		}
		began := time.Now()
		road.link.Block(blocks[from])
		until(t, "a change to "+to, func() bool { return road.carrier() == to })
		l.waitToMove(t)
		stall := l.longest(began, time.Now())
		stalls = append(stalls, stall)
		t.Logf("%s is blocked: %s stands still for %v", from, to, stall.Round(time.Millisecond))
		if *full && stall > 3*time.Second {
			t.Error("want 3 s at most")
		}
		if now := road.session(t).identity; now != before {
			t.Errorf("the session is %+v, was %+v", now, before)
		}
		road.link.Block(wan.Nothing)
	}
	if err := l.finish(time.Minute); err != nil {
		t.Error(err)
	}
	l.checkWhole(t)
	road.checkOneSession(t, before, failovers)
	t.Logf("%d failovers: p50 %v, longest %v; %d MiB up and %d MiB down", failovers, quantile(stalls, 0.5).Round(time.Millisecond),
		quantile(stalls, 1).Round(time.Millisecond), l.up.total()>>20, l.down.total()>>20)
}

// checkOneSession looks for the one session in the server's log.
func (r *road) checkOneSession(t *testing.T, want identity, resumed int) {
	t.Helper()
	begun, again := 0, 0
	for line := range strings.Lines(r.server.log.String()) {
		switch {
		case strings.Contains(line, `msg="session begun"`):
			begun++
		case strings.Contains(line, "msg=resumed"):
			again++
		default:
			continue
		}
		for _, part := range []string{"session=" + want.ID, "user=" + want.User, "device=" + want.Device} {
			if !strings.Contains(line, " "+part+" ") {
				t.Errorf("the server's log says %q without %s", line, part)
			}
		}
	}
	if begun != 1 || again < resumed {
		t.Errorf("%d sessions have begun and %d carriers taken over, want 1 and at least %d", begun, again, resumed)
	}
}

func TestClientComesUpAlthoughOneCarrierIsBlocked(t *testing.T) {
	for _, test := range []struct{ blocked, other, reason string }{
		{byWireGuard, byTLS, "no answer to a WireGuard handshake"},
		{byTLS, byWireGuard, "i/o timeout"},
	} {
		t.Run(test.blocked, func(t *testing.T) {
			road := newFailoverRoad(t, usual(50).Config, test.blocked, test.other)
			road.link.Block(blocks[test.blocked])
			began := time.Now()
			road.startClient(t)
			t.Logf("there is a session after %v", time.Since(began).Round(time.Millisecond))
			if err := road.request(); err != nil {
				t.Error(err)
			}
			road.checkPassed(t, test.other, "no better one answered in time")
			if test.blocked == byTLS && !*full {
				return // it takes 10 s to give up
			}
			changeNetwork(t) // so that the client looks again
			until(t, "that the status says what is wrong", func() bool {
				return strings.Contains(road.clientStatus(t).Passed, test.reason)
			})
			road.checkPassed(t, test.other, test.reason)
		})
	}
}

// checkPassed wants the client's status to name the carrier in use, and why it
// is none better.
func (r *road) checkPassed(t *testing.T, carrier, why string) {
	t.Helper()
	st := r.clientStatus(t)
	if !st.Connected || st.Protection.Carrier != carrier || !strings.Contains(st.Passed, why) {
		t.Errorf("status %+v, want carrier %s because of %q", st, carrier, why)
	}
	want := carrier + ", as nothing better works: " + st.Passed
	if text := adit(t, roamerNS, "status", "--dir", r.clientDir); !strings.Contains(text, want) {
		t.Errorf("status says\n%swithout %q", text, want)
	}
}

func TestBetterCarrierIsTakenBeforeTheOtherIsLeft(t *testing.T) {
	for _, test := range []struct{ better, other string }{
		{byTLS, byWireGuard},
		{byWireGuard, byTLS},
	} {
		t.Run(test.better, func(t *testing.T) {
			road := newFailoverRoad(t, usual(100).Config, test.better, test.other)
			road.link.Block(blocks[test.better])
			road.startClient(t)
			if c := road.carrier(); c != test.other {
				t.Fatalf("the carrier is %s, want %s", c, test.other)
			}
			l := startLoad(t, atTarget(t), road.throughDoor, loadConfig{streams: 32, ahead: 64 << 10})
			l.waitToMove(t)
			time.Sleep(500 * time.Millisecond)
			road.link.Block(wan.Nothing)
			began := time.Now()
			changeNetwork(t)
			until(t, "a change to "+test.better, func() bool { return road.carrier() == test.better })
			t.Logf("it is taken after %v", time.Since(began).Round(time.Millisecond))
			l.waitToMove(t)
			time.Sleep(500 * time.Millisecond) // it may come after the change
			stall := l.longest(began, time.Now())
			t.Logf("a stall of %v", stall.Round(time.Millisecond))
			if limit := sized(2*time.Second, time.Second); stall > limit {
				t.Errorf("want %v at most", limit)
			}
			if st := road.clientStatus(t); st.Resumes != 1 || st.Passed != "" {
				t.Errorf("status %+v", st)
			}
			if text := road.client.log.String(); strings.Contains(text, "msg=detached") {
				t.Error("it was without a carrier in between")
			}
			if err := l.finish(time.Minute); err != nil {
				t.Error(err)
			}
			l.checkWhole(t)
		})
	}
}

func TestRevokedDeviceIsShutOutOfWireGuardToo(t *testing.T) {
	road := newFailoverRoad(t, usual(50).Config, byWireGuard)
	defer os.RemoveAll(road.clientDir) // no other test has any use for it
	if err := road.dialWireGuard(t); err != nil {
		t.Fatal(err)
	}
	road.startClient(t)
	if c := road.carrier(); c != byWireGuard {
		t.Fatalf("the carrier is %s", c)
	}
	l := startLoad(t, atTarget(t), road.throughDoor, loadConfig{streams: 8, ahead: 64 << 10})
	l.waitToMove(t)
	id := road.session(t).identity
	adit(t, serverNS, "device", "revoke", id.DeviceID, "--dir", road.serverDir)
	revoked := time.Now()
	if err := l.wait(10 * time.Second); err != nil {
		t.Error(err)
	}
	for i, s := range l.streams {
		if took := later(s.up.got.ended, s.down.sent.ended).Sub(revoked); took > 2*time.Second {
			t.Errorf("stream %d still moves bytes after %v", i, took)
		}
	}
	select {
	case <-road.client.ended:
	case <-time.After(time.Until(revoked.Add(2 * time.Second))):
		t.Error("the client has not been told, or does not believe it")
	}
	time.Sleep(time.Until(revoked.Add(2 * time.Second)))
	if err := road.dialWireGuard(t); !errors.Is(err, wglink.ErrNoAnswer) {
		t.Errorf("a revoked device gets %v, want silence", err)
	}
	road.prefer(t, []string{byTLS})
	_, err := shared.adit(roamerNS, "client", "run", "--dir", road.clientDir, "--door", roadDoor)
	if err == nil || !strings.Contains(err.Error(), "this device has been revoked") {
		t.Errorf("over TLS it gets %v", err)
	}
}

// dialWireGuard tries to reach the server with the client's key.
func (r *road) dialWireGuard(t *testing.T) error {
	t.Helper()
	device, err := keys.LoadDevice(filepath.Join(r.clientDir, "device.key"))
	if err != nil {
		t.Fatal(err)
	}
	server, err := keys.LoadServer(filepath.Join(r.serverDir, "server.key"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := server.WireGuard()
	if err != nil {
		t.Fatal(err)
	}
	d := &wglink.Dialer{
		Endpoint:         roadside4 + ":" + failoverPort,
		ServerKey:        key.Public(),
		Key:              device.WireGuard(),
		HandshakeTimeout: 1500 * time.Millisecond,
	}
	return roamerNS.do(func() error {
		c, err := d.Dial(context.Background())
		if err != nil {
			return err
		}
		return c.Close()
	})
}
