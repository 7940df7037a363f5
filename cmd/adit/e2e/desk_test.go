//go:build linux

package e2e

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// desk is a machine by itself, at which somebody looks at a server: server, client and target are
// on it, and no way leads out.
type desk struct {
	ns     namespace
	home   string
	server string // its directory
}

// Where the parts of a desk are.
const (
	deskServer  = "127.0.0.1:8443"
	deskDoor    = "127.0.0.1:1080"
	deskTarget  = "127.0.0.1:8000"
	deskMetrics = "127.0.0.1:9464"
)

func newDesk(t *testing.T, name string) *desk {
	t.Helper()
	d := &desk{ns: namespace(name), home: t.TempDir()}
	d.server = filepath.Join(d.home, "server")
	if err := ip("netns add "+name, "-n "+name+" link set lo up"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ip("netns del " + name); err != nil {
			t.Error(err)
		}
	})
	d.serveTicks(t)
	d.adit(t, "server", "init", "--dir", d.server, "--listen", deskServer, "--name", "127.0.0.1", "--allow", "loopback")
	config := filepath.Join(d.server, "server.toml")
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, append(text, "[metrics]\nlisten = \""+deskMetrics+"\"\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	d.adit(t, "user", "add", "alice", "--dir", d.server)
	d.run(t, "the server", "ready", shared.binary, "server", "run", "--dir", d.server)
	client := filepath.Join(d.home, "client")
	d.adit(t, "join", "--dir", client, "--name", "laptop", strings.TrimSpace(d.adit(t, "invite", "alice", "--dir", d.server)))
	d.run(t, "the client", "ready", shared.binary, "client", "run", "--dir", client, "--door", deskDoor)
	return d
}

// serveTicks is the target: what it sends never ends.
func (d *desk) serveTicks(t *testing.T) {
	t.Helper()
	ln, err := d.ns.listen(deskTarget)
	if err != nil {
		t.Fatal(err)
	}
	web := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 4096)); err != nil {
				return
			}
			_ = http.NewResponseController(w).Flush() // the next write fails, too
			select {
			case <-time.After(20 * time.Millisecond):
			case <-r.Context().Done():
			}
		}
	})}
	ended := make(chan struct{})
	go func(ln net.Listener) { defer close(ended); _ = web.Serve(ln) }(ln)
	t.Cleanup(func() { web.Close(); <-ended })
}

// adit runs a command of adit's, and gives what it has printed.
func (d *desk) adit(t *testing.T, args ...string) string {
	t.Helper()
	return d.output(t, shared.binary, args...)
}

func (d *desk) output(t *testing.T, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := d.ns.output(command(ctx, d.home, name, args...))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// run starts a program that runs until the test ends.
func (d *desk) run(t *testing.T, title, ready, name string, args ...string) *program {
	t.Helper()
	p, err := launch(d.ns, d.home, title, ready, name, args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.stop()
		if t.Failed() {
			t.Logf("%s printed:\n%s", title, tail(p.log.text))
		}
	})
	if ready == "" {
		return p
	}
	if err := p.waitReady(); err != nil {
		t.Fatal(err)
	}
	return p
}

// download begins one that never ends.
func (d *desk) download(t *testing.T) *program {
	t.Helper()
	return d.run(t, "curl", "", "curl", "-sSN", "-o", "/dev/null", "--socks5-hostname", deskDoor, "http://"+deskTarget+"/")
}

// refused tries what may not be.
func (d *desk) refused(t *testing.T, target string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := d.ns.output(command(ctx, d.home, "curl", "-sS", "--socks5-hostname", deskDoor, "http://"+target+"/")); err == nil {
		t.Fatal(fmt.Errorf("%s could be reached", target))
	}
}
