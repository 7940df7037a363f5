//go:build linux

package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// demanding are rules that require IPsec for what is at one port.
const demanding = `
[[rule]]
name = "inside"
ports = [%q]
require_ipsec = true
patience = %q
then = "allow"

[[rule]]
name = "other"
then = "allow"
`

// demand writes rules for a page into a server's directory.
func (l *ipsecLab) demand(dir, page, patience string) {
	l.t.Helper()
	_, port, err := net.SplitHostPort(page)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "policy.toml"), fmt.Appendf(nil, demanding, port, patience), 0o600)
	}
	if err != nil {
		l.t.Fatal(err)
	}
}

// standing waits until so many flows of the hub have come to stand still.
func (l *ipsecLab) standing(n int) {
	l.t.Helper()
	until(l.t, "that flows stand still", func() bool { return strings.Count(l.programs[0].log.String(), "flow stands still") >= n })
}

// fails waits until a download does.
func (d *download) fails(t *testing.T, what string) {
	t.Helper()
	select {
	case err := <-d.done:
		if err == nil {
			t.Errorf("%s ends as if it were whole", what)
		}
	case <-time.After(time.Minute):
		t.Errorf("%s does not end", what)
	}
}

// A partner's program at a door, by a rule and by what the door itself requires. The partner's
// gateway sends nothing in clear, which would be answered by a reset.
func TestAppsAtADoorWaitForIPsecAndNotForEver(t *testing.T) {
	l := layIPsec(t)
	page, other := l.serveAtHub(), l.serveAtHub()
	l.up()
	const byRule, byDoor = hubInner + ":1080", hubInner + ":1081"
	dir := l.startHubWith(func(dir string) { l.demand(dir, page, "10s") }, hubInner, "", fmt.Sprintf(`
[[door]]
listen = %q
tls = false
plain = "protected"
methods = ["network"]
networks = { "10.77.0.0/16" = "acme" }

[[door]]
listen = %q
tls = false
require_ipsec = true
methods = ["network"]
networks = { "10.77.0.0/16" = "acme" }

[ipsec]
patience = "10s"`, byRule, byDoor))
	for _, c := range []string{"add table ip gate", "add chain ip gate out { type filter hook output priority 0; }",
		"add rule ip gate out oifname o0 tcp dport { 1080, 1081 } drop"} {
		if _, err := officeNS.output(command(t.Context(), l.dir, "nft", c)); err != nil {
			t.Fatal(err)
		}
	}
	var leaked [2]atomic.Int64
	hubNS.watchWire(t, "h0", func(p packet) {
		if i := int(p.from) - 1080; i == 0 || i == 1 {
			leaked[i].Add(int64(p.payload))
		}
	})
	ruled := l.download(t, byRule, page, "--interface", officeInner)
	doored := l.download(t, byDoor, other, "--interface", officeInner)
	both := func(do func(*testing.T, *download)) { do(t, ruled); do(t, doored) }
	passes := func(t *testing.T, d *download) { t.Helper(); d.passes(t, 8<<20) }
	both(passes)

	l.down()
	l.standing(1)
	l.reachInClear()
	l.up()
	both(passes)

	l.down()
	type record struct{ End, What, Rule string }
	var got []record
	within(t, time.Minute, "the end of both", func() bool {
		got = nil
		for line := range strings.Lines(adit(t, hubNS, "audit", "--dir", dir, "--format", "json")) {
			var r struct {
				record
				Open bool
			}
			if err := json.Unmarshal([]byte(line), &r); err != nil {
				t.Fatal(err)
			}
			if !r.Open {
				got = append(got, r.record)
			}
		}
		return len(got) == 2
	})
	for _, r := range got {
		if byRule := r.Rule == "inside"; byRule != strings.Contains(r.What, "stood still for ") || byRule != (r.End == "not protected") {
			t.Errorf("record %+v", r)
		}
	}
	for i := range leaked {
		if n := leaked[i].Load(); n > 0 {
			t.Errorf("%d bytes of what went through door %d were in clear", n, i)
		}
	}
}

// A client in the same place has TLS in IPsec, and nothing that holds it there but the rule.
func TestFlowsOfASessionWaitForIPsecAsTheirRuleSays(t *testing.T) {
	l := layIPsec(t)
	page, other := l.serveAtHub(), l.serveAtHub()
	l.up()
	dir := l.startHubWith(func(dir string) { l.demand(dir, page, "10m") }, hubInner, "", "")
	client := l.join(dir, "carriers = [\"tls\"]")
	var leaked [1 << 16]atomic.Int64 // by the client's port
	hubNS.watchWire(t, "h0", func(p packet) {
		if p.from == 8443 {
			leaked[p.to].Add(int64(p.payload))
		}
	})
	l.run(officeNS, "client", "run", "--dir", client, "--door", "127.0.0.1:1080")
	d := l.download(t, "127.0.0.1:1080", page)
	d.passes(t, 16<<20)
	l.down()
	l.standing(1)
	until(t, "a carrier that is refused", func() bool { return strings.Contains(l.programs[0].log.String(), "session refused") })
	l.up()
	d.passes(t, 16<<20)
	for port := range leaked {
		// Whoever is refused has a handshake and an answer before that.
		if n := leaked[port].Load(); n > 16<<10 {
			t.Errorf("%d bytes to port %d were in clear", n, port)
		}
	}

	l.down()
	l.standing(2)
	l.demand(dir, page, "1s")
	adit(t, hubNS, "policy", "apply", "--dir", dir)
	d.fails(t, "the download")
	free := l.download(t, "127.0.0.1:1080", other)
	free.passes(t, 1<<20)
	free.finish(t)
}
