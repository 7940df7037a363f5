//go:build linux

package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Exit codes of curl.
const (
	curlConnect = 7
	curlTimeout = 28
)

// TestGuestReachesEverythingThatItsProgramsAskFor has programs that know of no
// proxy use what WireGuard gives them.
func TestGuestReachesEverythingThatItsProgramsAskFor(t *testing.T) {
	g := newGuest(t)
	t.Run("curl", g.testCurl)
	t.Run("dig", g.testDig)
	t.Run("ping", g.testPing)
	t.Run("iperf3", g.testIperf)
	t.Run("refusals", g.testRefusals)
	t.Run("door", g.testDoor)
	t.Run("log and status", g.testRecord)
}

func (g *guest) testCurl(t *testing.T) {
	for _, host := range []string{target4, target6, targetName, targetName4, targetName6} {
		for _, scheme := range []string{"http", "https"} {
			url := scheme + "://" + urlHost(host) + "/"
			checkGreeting(t, g.run(t, "curl", "-sS", "--fail", "--cacert", shared.site.caFile, url))
		}
	}
	data := randomText(2 << 20)
	file := filepath.Join(t.TempDir(), "data")
	if err := os.WriteFile(file, []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{target4, target6} {
		echo := g.run(t, "curl", "-sS", "--fail", "-H", "Expect:", "--data-binary", "@"+file, "http://"+urlHost(host)+"/echo")
		if echo != data {
			t.Errorf("%d bytes came back from %s, not the %d that were sent, or others", len(echo), host, len(data))
		}
	}
}

func (g *guest) testDig(t *testing.T) {
	for _, server := range g.inner {
		for _, how := range []string{"+notcp", "+tcp"} {
			for _, test := range []struct{ kind, name, want string }{
				{"A", targetName, target4},
				{"AAAA", targetName, target6},
				{"A", targetName6, ""},
			} {
				got := g.run(t, "dig", "@"+server.String(), how, "+short", "+tries=1", test.kind, test.name)
				if strings.TrimSpace(got) != test.want {
					t.Errorf("dig @%s %s %s %s gives %q, want %s", server, how, test.kind, test.name, got, test.want)
				}
			}
			if got := g.run(t, "dig", "@"+server.String(), how, "+tries=1", "nobody.adit.test"); !strings.Contains(got, "status: NXDOMAIN") {
				t.Errorf("of a name that does not exist it says\n%s", got)
			}
		}
	}
}

func (g *guest) testPing(t *testing.T) {
	for _, to := range []string{target4, target6, g.inner[0].String(), g.inner[1].String()} {
		if out := g.run(t, "ping", "-n", "-c", "3", "-i", "0.2", "-W", "2", to); !strings.Contains(out, " 0% packet loss") {
			t.Errorf("ping %s:\n%s", to, out)
		}
	}
	if code, _ := g.fails(t, "ping", "-n", "-c", "1", "-W", "1", "10.77.2.99"); code != 1 {
		t.Errorf("ping of nobody ends with %d", code)
	}
}

func (g *guest) testIperf(t *testing.T) {
	for _, to := range []string{target4, target6} {
		for _, how := range []string{"", "--reverse", "--udp --bitrate 10M --length 1200", "--udp --bitrate 10M --length 1200 --reverse"} {
			// A server for each: between two tests one closes its listener, and resets who has come already.
			server, err := launch(targetNS, shared.dir, "iperf3", "Server listening", "iperf3", "--server", "--one-off", "--forceflush")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(server.kill)
			if err := server.waitReady(); err != nil {
				t.Fatal(err)
			}
			args := append([]string{"--client", to, "--time", "1", "--format", "m"}, strings.Fields(how)...)
			out := g.run(t, "iperf3", args...)
			server.stop()
			var result string
			for line := range strings.Lines(out) {
				if strings.Contains(line, "receiver") {
					result = strings.TrimSpace(line)
				}
			}
			t.Logf("iperf3 %s %s: %s", to, how, result)
			if result == "" || strings.Contains(result, " 0.00 Mbits/sec") || strings.Contains(result, "(100%)") {
				t.Errorf("iperf3 %s says\n%s", how, out)
			}
		}
	}
}

// A refusal is heard at once, and is no time-out.
func (g *guest) testRefusals(t *testing.T) {
	const atOnce = 3 * time.Second
	for what, url := range map[string]string{
		"a closed port":               "http://" + net.JoinHostPort(target4, "9"),
		"a closed port over IPv6":     "http://" + net.JoinHostPort(target6, "9"),
		"a forbidden target":          "http://169.254.169.254/",
		"a forbidden target in IPv6":  "http://[fd00:ec2::254]/",
		"the server's own port":       "https://" + net.JoinHostPort(exit4, roadPort),
		"a carrier's port inside":     "https://" + g.inner[0].String(),
		"a carrier's port in IPv6":    "https://" + urlHost(g.inner[1].String()),
		"another guest's address":     "http://10.83.77.77/",
		"a guest's own address there": "http://" + g.own[0].Next().String(),
	} {
		if code, took := g.fails(t, "curl", "-sS", "--max-time", "10", url); code != curlConnect || took > atOnce {
			t.Errorf("%s: curl ends with %d after %v, want %d within %v", what, code, took, curlConnect, atOnce)
		}
	}
}

func (g *guest) testDoor(t *testing.T) {
	for _, inner := range g.inner {
		door := net.JoinHostPort(inner.String(), "1080")
		for _, proxy := range []string{"socks5h://" + door, "socks4a://" + door, "http://" + door} {
			for _, host := range []string{targetName, target6} {
				if proxy == "socks4a://"+door && host == target6 {
					continue // it has no IPv6 addresses
				}
				checkGreeting(t, g.run(t, "curl", "-sS", "--fail", "--proxy", proxy, "--noproxy", "", "http://"+urlHost(host)+"/"))
			}
		}
	}
}

// testRecord looks for what the others have left on record, in the log and in the status.
func (g *guest) testRecord(t *testing.T) {
	until(t, "the records of 20 flows", func() bool { return g.flows(t, "user = 'alice' AND device = 'phone'") >= 20 })
	if n := g.flows(t, "user <> 'alice' OR device <> 'phone'"); n > 0 {
		t.Errorf("%d flows are not the guest's", n)
	}
	log := g.server.log.String()
	if strings.Contains(log, target4) || strings.Contains(log, targetName) {
		t.Error("the log names targets")
	}
	if want := `msg="guest has come" user=alice device=phone remote=` + roamer4; !strings.Contains(log, want) {
		t.Errorf("the log does not say %s", want)
	}
	st := g.status(t)
	remote, err := netip.ParseAddrPort(st.Remote)
	if err != nil || remote.Addr().String() != roamer4 || st.User != "alice" || st.Device != "phone" || st.Opened < 20 || st.Up < 4<<20 || st.Down < 4<<20 {
		t.Errorf("the status is %+v", st)
	}
	if text := adit(t, serverNS, "status", "--dir", g.serverDir); !strings.Contains(text, g.own[0].String()) {
		t.Errorf("the status does not list the guest:\n%s", text)
	}
}

// flows counts those on record of which something is true.
func (g *guest) flows(t *testing.T, is string) (n int) {
	t.Helper()
	text := adit(t, serverNS, "audit", "--dir", g.serverDir, "--sql", "SELECT count(*) FROM flows WHERE "+is, "--format", "csv")
	if _, err := fmt.Sscanf(text, "count(*)\n%d", &n); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return n
}

func TestGuestMayUseItsOwnInnerAddressesAlone(t *testing.T) {
	g := newGuest(t)
	is := fmt.Sprintf("command = 'connect' AND begin >= %d", time.Now().UnixMilli())
	checkGreeting(t, g.run(t, "curl", "-sS", "http://"+target4+"/"))
	for _, spoofed := range []string{"10.83.0.77", "10.83.0.1", "10.77.2.1", "192.0.2.1"} {
		if err := ip("-n roamer addr add " + spoofed + "/32 dev wg0"); err != nil {
			t.Fatal(err)
		}
		if code, _ := g.fails(t, "curl", "-sS", "--max-time", "1", "--interface", spoofed, "http://"+target4+"/"); code != curlTimeout {
			t.Errorf("curl from %s ends with %d", spoofed, code)
		}
	}
	if code, _ := g.fails(t, "ping", "-n", "-c", "1", "-W", "1", "-I", "10.83.0.77", target4); code != 1 {
		t.Errorf("ping from 10.83.0.77 ends with %d", code)
	}
	until(t, "the record of the flow", func() bool { return g.flows(t, is) > 0 })
	if n := g.flows(t, is); n != 1 {
		t.Errorf("%d flows are on record, want 1", n)
	}
}

func TestGuestKeepsItsConnectionsWhenItMoves(t *testing.T) {
	g := newGuest(t)
	l := startLoad(t, atTarget(t), g.dial, loadConfig{streams: 8, ahead: 256 << 10})
	l.waitToMove(t)
	for i := range 3 {
		time.Sleep(500 * time.Millisecond)
		moved := time.Now()
		address := fmt.Sprintf("10.77.3.%d", 20+i)
		if err := g.move(address); err != nil {
			t.Fatal(err)
		}
		// As a phone's app does: wireguard-go itself insists for 15 s on the address
		// that it had.
		g.run(t, "wg", "set", "wg0", "listen-port", strconv.Itoa(40000+i))
		l.waitToMove(t)
		t.Logf("it moves to %s: a stall of %v", address, l.longest(moved, time.Now()).Round(time.Millisecond))
		until(t, "that the server knows", func() bool { return strings.HasPrefix(g.status(t).Remote, address+":") })
	}
	if st := g.status(t); st.Flows != 8 {
		t.Errorf("the status is %+v, want 8 flows", st)
	}
	if err := l.finish(time.Minute); err != nil {
		t.Error(err)
	}
	l.checkWhole(t)
}

func TestRevokedGuestIsOutWithinTwoSeconds(t *testing.T) {
	g := newGuest(t)
	l := startLoad(t, atTarget(t), g.dial, loadConfig{streams: 8, ahead: 64 << 10})
	l.waitToMove(t)
	g.revoke(t)
	revoked := time.Now()
	if err := l.wait(10 * time.Second); err != nil {
		t.Error(err)
	}
	for i, s := range l.streams {
		if took := later(s.up.got.ended, s.down.sent.ended).Sub(revoked); took > 2*time.Second {
			t.Errorf("stream %d still moves bytes after %v", i, took)
		}
		if app, target := s.resets(); !app || !target {
			t.Errorf("stream %d: the guest has seen a reset: %v, the target: %v", i, app, target)
		}
	}
	time.Sleep(time.Until(revoked.Add(2 * time.Second)))
	if st := g.status(t); st != (guestStatus{}) {
		t.Errorf("it is still here: %+v", st)
	}
	if code, _ := g.fails(t, "ping", "-n", "-c", "1", "-W", "1", g.inner[0].String()); code != 1 {
		t.Errorf("the server answers its ping: %d", code)
	}
	if code, _ := g.fails(t, "curl", "-sS", "--max-time", "1", "http://"+target4+"/"); code != curlTimeout {
		t.Errorf("curl ends with %d", code)
	}
}
