//go:build linux

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/adit-net/adit/cmd/adit/e2e/wan"
)

const roamerNS namespace = "roamer"

// Addresses on the road. The roamer's can change.
const (
	roamer4   = "10.77.3.1"
	roadside4 = "10.77.3.254"
	roadPort  = "8444" // of the server there
	roadDoor  = "127.0.0.1:1080"
)

// road is a client with a way of its own, over a link that can fail, to a
// server of its own. One test at a time has it.
//
//	roamer ── link ── server ── 10.77.2.0/24 ── target
type road struct {
	link           *wan.Link
	server, client *program
	serverDir      string
	clientDir      string
	address        string // the roamer's
}

// roadConfig says what a road is like.
type roadConfig struct {
	wan.Config
	grace time.Duration // that the server grants; 0 means its default
}

// usual is the network that figures are stated for: 50 ms there and back, and a
// queue for as long. The rate is in Mbit/s.
func usual(rate int) roadConfig {
	return roadConfig{Config: wan.Config{Rate: rate * 1e6, Delay: 25 * time.Millisecond, Queue: rate * 1e6 / 8 / 20}}
}

// newRoad starts link, server and client. They end with the test.
func newRoad(t *testing.T, c roadConfig) *road {
	t.Helper()
	r := newEmptyRoad(t, c)
	r.join(t, r.clientDir)
	r.client = r.launch(t, roamerNS, "the roamer's client", "client", "run", "--dir", r.clientDir, "--door", roadDoor)
	return r
}

// newEmptyRoad starts link and server.
func newEmptyRoad(t *testing.T, c roadConfig) *road {
	t.Helper()
	r := &road{serverDir: shared.path("road-server"), clientDir: shared.path("road-client"), address: roamer4}
	r.link = layRoad(t, c.Config)
	r.makeServer(t, c)
	r.server = r.launch(t, serverNS, "the road's server", "server", "run", "--dir", r.serverDir)
	return r
}

// layRoad makes the roamer's namespace and the link to the server's.
func layRoad(t *testing.T, c wan.Config) *wan.Link {
	t.Helper()
	if err := ip("netns add "+string(roamerNS), "-n roamer link set lo up"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ip("netns del " + string(roamerNS)); err != nil {
			t.Error(err)
		}
	})
	var ends [2]*os.File
	for i, ns := range []namespace{roamerNS, serverNS} {
		tun, err := openTUN(ns, "wan0")
		if err != nil {
			t.Fatal(err)
		}
		ends[i] = tun
	}
	link := wan.New(ends[0], ends[1], c)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- link.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error("the link:", err)
		}
	})
	err := ip(
		"-n server addr add "+roadside4+"/24 dev wan0",
		"-n server link set wan0 up",
		// Alone, so that it can come and go without others.
		"-n roamer addr add "+roamer4+"/32 dev wan0",
		"-n roamer link set wan0 up",
		"-n roamer route add default dev wan0 src "+roamer4)
	if err != nil {
		t.Fatal(err)
	}
	return link
}

// openTUN makes a device of which each read and write is one IP packet.
func openTUN(ns namespace, name string) (*os.File, error) {
	var fd int
	err := ns.do(func() (err error) {
		if fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0); err != nil {
			return err
		}
		ifr, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		return unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	})
	if err != nil {
		return nil, fmt.Errorf("open TUN device in namespace %s: %w", ns, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// makeServer makes the server's directory, once, and its config.
func (r *road) makeServer(t *testing.T, c roadConfig) {
	t.Helper()
	if missing(r.serverDir) {
		adit(t, serverNS, "server", "init", "--dir", r.serverDir, "--name", roadside4)
		adit(t, serverNS, "user", "add", "alice", "--dir", r.serverDir)
	}
	config := fmt.Sprintf("listen = [%q]\nname = %q\nallow = [\"private\"]\n", ":"+roadPort, roadside4)
	if c.grace != 0 {
		config += fmt.Sprintf("grace = %q\n", c.grace)
	}
	if err := os.WriteFile(filepath.Join(r.serverDir, "server.toml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
}

// join enrols a device, once, while the server runs.
func (r *road) join(t *testing.T, dir string) {
	t.Helper()
	if missing(dir) {
		invite := adit(t, serverNS, "invite", "alice", "--dir", r.serverDir)
		adit(t, roamerNS, "join", "--dir", dir, strings.TrimSpace(invite))
	}
}

func missing(name string) bool {
	_, err := os.Stat(name)
	return errors.Is(err, fs.ErrNotExist)
}

// adit runs one adit command until it ends and returns what it printed.
func adit(t *testing.T, ns namespace, args ...string) string {
	t.Helper()
	out, err := shared.adit(ns, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// launch starts adit and waits until it is ready. What it printed is shown when
// the test has failed.
func (r *road) launch(t *testing.T, ns namespace, title string, args ...string) *program {
	t.Helper()
	return r.launchOther(t, shared.binary, ns, title, args...)
}

// launchOther starts another build of adit.
func (r *road) launchOther(t *testing.T, binary string, ns namespace, title string, args ...string) *program {
	t.Helper()
	p, err := launch(ns, shared.dir, title, "ready", binary, args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.kill()
		text := p.log.String()
		if strings.Contains(text, "DATA RACE") || strings.Contains(text, "goroutine ") {
			t.Errorf("%s printed:\n%s", title, text)
		} else if t.Failed() {
			t.Logf("%s printed:\n%s", title, tail([]byte(text)))
		}
	})
	if err := p.waitReady(); err != nil {
		t.Fatal(err)
	}
	return p
}

// silence cuts the link in both directions for a while.
func (r *road) silence(d time.Duration) {
	r.link.SetUp(false)
	time.Sleep(d)
	r.link.SetUp(true)
}

// dial opens connections from the roamer's namespace. One thread does all: it
// costs a moment to put one into a namespace.
func (r *road) dial(address string, n int) ([]*net.TCPConn, error) {
	to, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return nil, err
	}
	var conns []*net.TCPConn
	err = roamerNS.do(func() error {
		for range n {
			c, err := net.DialTCP("tcp", nil, to)
			if err != nil {
				return err
			}
			conns = append(conns, c)
		}
		return nil
	})
	return conns, err
}

// throughDoor opens connections to a target through the client's door.
func (r *road) throughDoor(target string, n int) ([]*net.TCPConn, error) {
	conns, err := r.dial(roadDoor, n)
	if err != nil {
		return conns, err
	}
	errs := make([]error, n)
	var asking sync.WaitGroup
	for i, c := range conns {
		asking.Go(func() { errs[i] = askDoor(c, target) })
	}
	asking.Wait()
	for _, err := range errs {
		if err != nil {
			return conns, err
		}
	}
	return conns, nil
}

// status is what the road's server tells of its one session.
type status struct {
	identity
	Streams int `json:"streams"`
}

func (r *road) session(t *testing.T) status {
	t.Helper()
	var report struct {
		Server struct {
			Sessions []status `json:"sessions"`
		} `json:"server"`
	}
	if err := json.Unmarshal([]byte(adit(t, serverNS, "status", "--json", "--dir", r.serverDir)), &report); err != nil {
		t.Fatal(err)
	}
	if n := len(report.Server.Sessions); n != 1 {
		t.Fatalf("the server has %d sessions, want 1", n)
	}
	return report.Server.Sessions[0]
}

// kill ends the program at once and waits for it.
func (p *program) kill() {
	_ = p.cmd.Cancel()
	<-p.ended
}

func (p *programLog) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return string(p.text)
}
