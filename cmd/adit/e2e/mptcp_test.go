//go:build linux

package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/adit-net/adit/cmd/adit/e2e/wan"
)

// The phone has two ways to the server, of which the second is for Multipath
// TCP to find.
//
//	phone ── 10.77.4.0/24, wifi ── server
//	      ── 10.77.5.0/24, cell ──
const phoneNS namespace = "phone"

const phoneDoor = "127.0.0.1:1080"

// phone is a client with a link for each of its two interfaces.
type phone struct {
	wifi, cell *wan.Link
	client     *program
}

func newPhone(t *testing.T) *phone {
	t.Helper()
	if err := ip("netns add phone", "-n phone link set lo up"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ip("netns del phone"); err != nil {
			t.Error(err)
		}
	})
	p := &phone{wifi: layLink(t, "wifi", "10.77.4", 20*time.Millisecond), cell: layLink(t, "cell", "10.77.5", 40*time.Millisecond)}
	// What a network manager does, or whoever sets up a machine. There is
	// nothing to do on the server.
	if err := ip("-n phone mptcp endpoint add 10.77.5.1 dev cell subflow"); err != nil {
		t.Fatal(err)
	}
	p.run(t)
	return p
}

// layLink connects the phone to the server by a link. Addresses end in 1 on the
// phone and in 2 on the server.
func layLink(t *testing.T, name, prefix string, delay time.Duration) *wan.Link {
	t.Helper()
	var ends [2]*os.File
	for i, ns := range []namespace{phoneNS, serverNS} {
		tun, err := openTUN(ns, name)
		if err != nil {
			t.Fatal(err)
		}
		ends[i] = tun
		err = ip(
			fmt.Sprintf("-n %s addr add %s.%d/24 dev %s", ns, prefix, i+1, name),
			fmt.Sprintf("-n %s link set %s up", ns, name))
		if err != nil {
			t.Fatal(err)
		}
	}
	link := wan.New(ends[0], ends[1], wan.Config{Delay: delay})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- link.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error("the link:", err)
		}
	})
	return link
}

// run joins the lab's server and runs a client.
func (p *phone) run(t *testing.T) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "client")
	invite, err := shared.adit(serverNS, "invite", "alice", "--dir", shared.path("server"))
	if err != nil {
		t.Fatal(err)
	}
	invite = strings.Replace(strings.TrimSpace(invite), serverName, "10.77.4.2", 1)
	if _, err := shared.adit(phoneNS, "join", "--dir", dir, invite); err != nil {
		t.Fatal(err)
	}
	config, err := os.OpenFile(filepath.Join(dir, "client.toml"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer config.Close()
	if _, err := fmt.Fprintln(config, "mptcp = true"); err != nil { // the file ends in [server]
		t.Fatal(err)
	}
	p.client, err = launch(phoneNS, shared.dir, "the phone's client", "ready", shared.binary, "client", "run", "--dir", dir, "--door", phoneDoor)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.client.stop()
		if t.Failed() {
			t.Logf("the phone's client printed:\n%s", tail([]byte(p.client.log.String())))
		}
	})
	if err := p.client.waitReady(); err != nil {
		t.Fatal(err)
	}
}

// call opens a connection through the phone's door to a target that sends
// everything back.
func (p *phone) call(t *testing.T) net.Conn {
	t.Helper()
	ln, err := targetNS.listen(target4 + ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var app net.Conn
	err = phoneNS.do(func() (err error) { app, err = net.Dial("tcp", phoneDoor); return err })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = app.Close() })
	if err := askDoor(app.(*net.TCPConn), ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	target, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	var echo sync.WaitGroup
	echo.Go(func() { _, _ = io.Copy(target, target) })
	t.Cleanup(func() {
		_ = target.Close()
		echo.Wait()
	})
	return app
}

// talk has one byte go to the target and back again and again for a while. It
// tells the longest that this took.
func talk(t *testing.T, c net.Conn, d time.Duration) (longest time.Duration) {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(d + time.Minute))
	for end := time.Now().Add(d); time.Now().Before(end); {
		begun := time.Now()
		if _, err := c.Write([]byte{1}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		longest = max(longest, time.Since(begun))
	}
	return longest
}

// until waits for what no event tells.
func until(t *testing.T, what string, happened func() bool) {
	t.Helper()
	within(t, 20*time.Second, what, happened)
}

// within is until for what takes its time.
func within(t *testing.T, limit time.Duration, what string, happened func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !happened(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what + " does not happen")
		}
	}
}

func TestMultipathCarrierOutlivesAnInterface(t *testing.T) {
	p := newPhone(t)
	c := p.call(t)
	until(t, "a second path", func() bool { return p.cell.Connections() == 1 })
	t.Logf("at rest a round trip takes up to %v", talk(t, c, time.Second))
	time.AfterFunc(time.Second, func() { p.wifi.SetUp(false) })
	gap := talk(t, c, 4*time.Second)
	t.Logf("the loss of an interface costs %v", gap)
	if gap > 2*time.Second {
		t.Errorf("without the interface a round trip takes up to %v", gap)
	}
	if n := p.cell.Connections(); n != 1 {
		t.Errorf("there are %d connections on the other interface, want the one that was there", n)
	}
}

// The kernel keeps quiet about a Multipath TCP connection whose last path was
// reset, for a minute. The client does not wait for that.
func TestMultipathCarrierThatIsResetIsReplaced(t *testing.T) {
	for name, how := range map[string]wan.Ending{"reset": wan.Reset, "finish": wan.Finish} {
		t.Run(name, func(t *testing.T) {
			p := newPhone(t)
			c := p.call(t)
			until(t, "a second path", func() bool { return p.cell.Connections() == 1 })
			_ = talk(t, c, time.Second)
			if p.wifi.End(how) != 1 || p.cell.End(how) != 1 {
				t.Error("there was nothing to end")
			}
			if took := talk(t, c, time.Second); took > 2*time.Second {
				t.Errorf("with another carrier a round trip takes up to %v", took)
			} else {
				t.Logf("another carrier costs %v", took)
			}
			if p.wifi.Connections() == 0 {
				t.Error("there is no other carrier")
			}
		})
	}
}
