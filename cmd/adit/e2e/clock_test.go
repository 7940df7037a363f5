//go:build linux

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// buildWithClock compiles an adit whose WireGuard goes by a clock that is an
// hour ahead.
func buildWithClock(t *testing.T) string {
	t.Helper()
	dir, library := t.TempDir(), "golang.zx2c4.com/wireguard"
	source, root := goList(t, "-m", "-f", "{{.Dir}}", library), goList(t, "-m", "-f", "{{.Dir}}")
	changed := filepath.Join(dir, "wireguard")
	if err := os.CopyFS(changed, os.DirFS(source)); err != nil {
		t.Fatal(err)
	}
	edit(t, filepath.Join(changed, "tai64n", "tai64n.go"), filepath.Join(changed, "tai64n", "tai64n.go"),
		"stamp(time.Now())", "stamp(time.Now().Add(time.Hour))")
	module := filepath.Join(dir, "go.mod")
	edit(t, filepath.Join(root, "go.mod"), module, "\nrequire (", "\nreplace "+library+" => "+changed+"\n\nrequire (")
	edit(t, filepath.Join(root, "go.sum"), filepath.Join(dir, "go.sum"), "", "")
	binary := filepath.Join(dir, "adit")
	if err := build(binary, "-modfile", module); err != nil {
		t.Fatal(err)
	}
	return binary
}

func goList(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("go", append([]string{"list"}, args...)...).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// edit copies a file and changes the first place in it that says old.
func edit(t *testing.T, from, to, old, now string) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), old) {
		t.Fatalf("%s does not say %q", from, old)
	}
	_ = os.Remove(to) // it may be a copy that nobody may write to
	if err := os.WriteFile(to, []byte(strings.Replace(string(text), old, now, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestClientWhoseClockWasSetBackComesByTLSAndSaysWhy runs a client that is an
// hour ahead, and then one that is not. The server takes the second one's handshakes for old ones.
func TestClientWhoseClockWasSetBackComesByTLSAndSaysWhy(t *testing.T) {
	road := newFailoverRoad(t, usual(50).Config, byWireGuard, byTLS)
	ahead := road.launchOther(t, buildWithClock(t), roamerNS, "the client whose clock is ahead",
		"client", "run", "--dir", road.clientDir, "--door", roadDoor)
	until(t, "a session over WireGuard", func() bool {
		_, carrier := carriersIn(ahead.log)
		return carrier == byWireGuard
	})
	ahead.stop()

	const why = "this machine's clock has been set back by 59m"
	road.startClient(t)
	if c := road.carrier(); c != byTLS {
		t.Fatalf("the carrier is %s, want %s", c, byTLS)
	}
	if err := road.request(); err != nil {
		t.Error(err)
	}
	changeNetwork(t) // so that the client looks again
	until(t, "that the status says what is wrong", func() bool {
		return strings.Contains(road.clientStatus(t).Passed, why)
	})
	if log := road.client.log.String(); !strings.Contains(log, why) {
		t.Errorf("the log does not say %q", why)
	}
}
