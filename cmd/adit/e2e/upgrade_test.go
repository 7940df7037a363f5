//go:build linux

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/adit-net/adit/cmd/adit/e2e/wan"
)

// house is a server whose processes follow one another, at the end of a road.
type house struct {
	*road
	cmd   *exec.Cmd // the first process, and the group of them all
	log   string    // the file that they write to
	ended chan struct{}
}

// newHouse starts server and client, after change has had a look at the former's
// command.
func newHouse(t *testing.T, change func(*exec.Cmd)) *house {
	t.Helper()
	h := &house{
		road: &road{serverDir: shared.path("house-server"), clientDir: shared.path("house-client"), address: roamer4},
		log:  filepath.Join(t.TempDir(), "log"),
	}
	c := usual(500)
	h.link = layRoad(t, c.Config)
	h.makeServer(t, c)
	config := h.config(t)
	h.configure(t, string(config)+"drain = \"1s\"\n")
	h.start(t, change)
	h.join(t, h.clientDir)
	h.client = h.launch(t, roamerNS, "the client", "client", "run", "--dir", h.clientDir, "--door", roadDoor)
	return h
}

func (h *house) config(t *testing.T) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(h.serverDir, "server.toml"))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func (h *house) configure(t *testing.T, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(h.serverDir, "server.toml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// start starts the first process. All of them write to a file: a pipe would
// break when the first one has ended.
func (h *house) start(t *testing.T, change func(*exec.Cmd)) {
	t.Helper()
	log, err := os.OpenFile(h.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	ready := strings.Count(h.printed(), "ready server")
	h.cmd = command(context.Background(), shared.dir, shared.binary, "server", "run", "--dir", h.serverDir)
	h.cmd.Stdout, h.cmd.Stderr = log, log
	if change != nil {
		change(h.cmd)
	}
	if err := serverNS.do(h.cmd.Start); err != nil {
		t.Fatal(err)
	}
	cmd, ended := h.cmd, make(chan struct{})
	h.ended = ended
	go func() {
		defer close(ended)
		_ = cmd.Wait() // its log says why it ended
	}()
	t.Cleanup(func() {
		_ = cmd.Cancel() // they may have ended
		<-ended
		text := h.printed()
		if strings.Contains(text, "DATA RACE") || strings.Contains(text, "goroutine ") {
			t.Errorf("the server printed:\n%s", text)
		} else if t.Failed() {
			t.Logf("the server printed:\n%s", tail([]byte(text)))
		}
	})
	until(t, "that the server is ready", func() bool { return strings.Count(h.printed(), "ready server") > ready })
}

func (h *house) printed() string {
	text, _ := os.ReadFile(h.log) // there is none yet
	return string(text)
}

// ask runs an adit command about the server.
func (h *house) ask(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return serverNS.output(command(ctx, shared.dir, shared.binary, append(args, "--dir", h.serverDir)...))
}

// upgrade lets another process take over, and gives its id. While there are as
// many older ones as there may be, it waits for one to end.
func (h *house) upgrade(t *testing.T) int {
	t.Helper()
	out, err := h.ask("server", "upgrade")
	for err != nil && strings.Contains(err.Error(), "8 older processes still hold sessions") {
		out, err = h.ask("server", "upgrade")
	}
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(out))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// houseStatus is what the serving process tells.
type houseStatus struct {
	PID    int `json:"pid"`
	Server struct {
		Sessions []status `json:"sessions"`
		Older    []struct {
			PID      int `json:"pid"`
			Sessions int `json:"sessions"`
			Streams  int `json:"streams"`
		} `json:"older"`
	} `json:"server"`
}

func (h *house) status(t *testing.T) (s houseStatus) {
	t.Helper()
	out, err := h.ask("status", "--json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// running tells whether a process has not ended. One that nobody has waited for
// has.
func running(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := bytes.Cut(stat, []byte(") "))
	return !bytes.HasPrefix(rest, []byte("Z"))
}

// visitors come to a target through the door all the time, one after the other in
// each of several rows, until stop. Each brings something and takes it back.
type visitors struct {
	stop    chan struct{}
	running sync.WaitGroup
	came    atomic.Int64

	mu     sync.Mutex
	failed []error
}

func (h *house) admitVisitors(t *testing.T, rows int) *visitors {
	t.Helper()
	ln, err := targetNS.listen(net.JoinHostPort(target4, "0"))
	if err != nil {
		t.Fatal(err)
	}
	v := &visitors{stop: make(chan struct{})}
	v.running.Go(func() { giveBack(ln, &v.running) })
	for range rows {
		v.running.Go(func() {
			for {
				select {
				case <-v.stop:
					return
				default:
				}
				if err := h.visit(ln.Addr().String()); err != nil {
					v.mu.Lock()
					v.failed = append(v.failed, err)
					v.mu.Unlock()
				}
				v.came.Add(1)
			}
		})
	}
	t.Cleanup(func() {
		v.end()
		ln.Close()
		v.running.Wait()
	})
	return v
}

// end lets the last visitors go.
func (v *visitors) end() {
	select {
	case <-v.stop:
	default:
		close(v.stop)
	}
}

func (v *visitors) check(t *testing.T) {
	t.Helper()
	v.mu.Lock()
	defer v.mu.Unlock()
	t.Logf("%d visitors came", v.came.Load())
	if len(v.failed) > 0 {
		t.Errorf("%d visitors failed, the first one: %v", len(v.failed), v.failed[0])
	}
	if v.came.Load() == 0 {
		t.Error("no visitor came")
	}
}

// giveBack gives everybody back what they bring.
func giveBack(ln net.Listener, serving *sync.WaitGroup) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		serving.Go(func() {
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(time.Minute))
			if _, err := io.Copy(c, c); err == nil {
				_ = c.(*net.TCPConn).CloseWrite() // the visitor sees whether all came
			}
		})
	}
}

func (h *house) visit(target string) error {
	conns, err := h.throughDoor(target, 1)
	for _, c := range conns {
		defer c.Close()
	}
	if err != nil {
		return err
	}
	c := prepare(conns[0])
	brought := make([]byte, 20_000)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(brought)
	if _, err := c.Write(brought); err != nil {
		return err
	}
	if err := c.CloseWrite(); err != nil {
		return err
	}
	took, err := io.ReadAll(c)
	if err == nil && !bytes.Equal(took, brought) {
		err = fmt.Errorf("%d of %d bytes came back", len(took), len(brought))
	}
	return err
}

// knock connects to the server's port until stop, and gives how often it did
// and how often nobody was there.
func knock(stop <-chan struct{}) (knocks, refused int) {
	address := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8444}
	_ = serverNS.do(func() error {
		for {
			select {
			case <-stop:
				return nil
			default:
			}
			c, err := net.DialTCP("tcp", nil, address)
			knocks++
			if err != nil {
				refused++
				continue
			}
			_ = c.Close() // that was all
			time.Sleep(100 * time.Microsecond)
		}
	})
	return knocks, refused
}

func TestUpgradesLoseNothing(t *testing.T) {
	const upgrades = 20
	h := newHouse(t, nil)
	l := startLoad(t, atTarget(t), h.throughDoor, loadConfig{streams: 64, least: 64 << 10, ahead: 128 << 10, pace: 100 * time.Millisecond})
	waitForBytes(t, l, 4<<20)
	v := h.admitVisitors(t, 4)
	var knocking sync.WaitGroup
	knocking.Go(func() {
		knocks, refused := knock(v.stop)
		t.Logf("%d knocks at the server's port", knocks)
		if refused > 0 || knocks == 0 {
			t.Errorf("of %d knocks %d found nobody", knocks, refused)
		}
	})
	t.Cleanup(knocking.Wait)
	t.Cleanup(v.end)

	first, last := h.cmd.Process.Pid, 0
	began := time.Now()
	for i := range upgrades {
		last = h.upgrade(t)
		if i%5 != 4 {
			continue
		}
		// The sessions of several processes lose their carriers.
		h.link.End(wan.Reset)
		waitForBytes(t, l, 1<<20)
	}
	t.Logf("%d upgrades in %v", upgrades, time.Since(began).Round(time.Millisecond))
	s := h.status(t)
	if s.PID != last {
		t.Errorf("process %d tells its status, want %d", s.PID, last)
	}
	if n := len(s.Server.Older); n == 0 || s.Server.Older[0].PID != first || s.Server.Older[0].Streams != 64 {
		t.Errorf("the older processes are %+v, want %d first, with 64 streams", s.Server.Older, first)
	}

	v.end()
	if err := l.finish(time.Minute); err != nil {
		t.Fatal(err)
	}
	l.checkWhole(t)
	knocking.Wait()
	until(t, "the end of the older processes", func() bool { return len(h.status(t).Server.Older) == 0 })
	until(t, "the first process's end", func() bool { return !running(first) })
	v.check(t)
	if err := h.visitOnce(t); err != nil {
		t.Error(err)
	}
}

// visitOnce is one visit to a target of its own.
func (h *house) visitOnce(t *testing.T) error {
	t.Helper()
	ln := atTarget(t)
	var serving sync.WaitGroup
	serving.Go(func() { giveBack(ln, &serving) })
	defer serving.Wait()
	defer ln.Close()
	return h.visit(ln.Addr().String())
}

func TestUpgradeThatFailsChangesNothing(t *testing.T) {
	h := newHouse(t, nil)
	l := startLoad(t, atTarget(t), h.throughDoor, loadConfig{streams: 4, least: 64 << 10, ahead: 128 << 10})
	before := h.status(t).PID
	good := string(h.config(t))
	for wrong, want := range map[string]string{
		"alow = []\n":                       `adit: process [0-9]+: server\.toml:5:1: alow: unknown key\nhint: did you mean allow`,
		"listen = [\"192.0.2.1:8444\"]\n":   "adit: process [0-9]+: this machine has no address 192.0.2.1:8444",
		"tls.cert = \"x\"\ntls.key = \"x\"": "adit: process [0-9]+: load certificate",
	} {
		if strings.HasPrefix(wrong, "listen") {
			_, rest, _ := strings.Cut(good, "\n") // its own
			h.configure(t, wrong+rest)
		} else {
			h.configure(t, good+wrong)
		}
		_, err := h.ask("server", "upgrade")
		if err == nil || !strings.Contains(err.Error(), "exit status 1") || !regexp.MustCompile(want).MatchString(err.Error()) {
			t.Errorf("%q: upgrade gives %v; want %s", wrong, err, want)
		}
	}
	h.configure(t, good)
	if now := h.status(t).PID; now != before {
		t.Errorf("process %d serves, want %d", now, before)
	}
	waitForBytes(t, l, 1<<20)
	if err := h.visitOnce(t); err != nil {
		t.Error(err)
	}
	if pid := h.upgrade(t); pid == before {
		t.Errorf("process %d has taken over from itself", pid)
	}
	if err := l.finish(time.Minute); err != nil {
		t.Fatal(err)
	}
	l.checkWhole(t)
}

func TestKilledServerLosesItsStreamsAndNoOthers(t *testing.T) {
	h := newHouse(t, nil)
	old := startLoad(t, atTarget(t), h.throughDoor, loadConfig{streams: 8, least: 64 << 10, ahead: 128 << 10})
	waitForBytes(t, old, 1<<20)
	first := h.cmd.Process.Pid
	second := h.upgrade(t)
	until(t, "a session with the second process", func() bool { return len(h.status(t).Server.Sessions) == 1 })
	young := startLoad(t, atTarget(t), h.throughDoor, loadConfig{streams: 8, least: 64 << 10, ahead: 128 << 10})
	waitForBytes(t, young, 1<<20)

	if err := unix.Kill(second, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	until(t, "the second process's end", func() bool { return !running(second) })
	h.start(t, nil)
	back := time.Now()
	if err := h.visitOnce(t); err != nil {
		t.Error(err)
	}
	if took := time.Since(back); took > 2*time.Second {
		t.Errorf("the first visit after the restart took %v", took)
	}
	if err := young.wait(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	for i, s := range young.streams {
		if app, target := s.resets(); !app || !target {
			t.Errorf("stream %d: app sees a reset: %v (%v), target: %v (%v)", i, app, s.down.got.err, target, s.up.got.err)
		}
	}

	// What the first process holds goes on, and by way of the third.
	h.link.End(wan.Reset)
	waitForBytes(t, old, 1<<20)
	if s := h.status(t); len(s.Server.Older) != 1 || s.Server.Older[0].PID != first || s.Server.Older[0].Streams != 8 {
		t.Errorf("the older processes are %+v, want %d with 8 streams", s.Server.Older, first)
	}
	if err := old.finish(time.Minute); err != nil {
		t.Fatal(err)
	}
	old.checkWhole(t)
}

func TestStoppedServerLeavesNoOlderOnesBehind(t *testing.T) {
	h := newHouse(t, nil)
	l := startLoad(t, atTarget(t), h.throughDoor, loadConfig{streams: 4, least: 64 << 10, ahead: 128 << 10})
	waitForBytes(t, l, 1<<20)
	first, second := h.cmd.Process.Pid, h.upgrade(t)
	began := time.Now()
	if err := unix.Kill(second, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	until(t, "the second process's end", func() bool { return !running(second) })
	until(t, "the first process's end", func() bool { return !running(first) })
	if took := time.Since(began); took < time.Second || took > 10*time.Second {
		t.Errorf("they ended after %v", took)
	}
	if err := l.wait(20 * time.Second); err != nil {
		t.Fatal(err)
	}
	for i, s := range l.streams {
		if app, target := s.resets(); !app || !target {
			t.Errorf("stream %d: app sees a reset: %v, target: %v", i, app, target)
		}
	}
}

func TestSystemdFollowsTheServer(t *testing.T) {
	// The test stands in for systemd: it has the listener, and is told things.
	ln, err := serverNS.listen(":" + roadPort)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	socket, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	address := filepath.Join(t.TempDir(), "notify")
	told, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: address, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer told.Close()
	next := func() string {
		t.Helper()
		b := make([]byte, 256)
		if err := told.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		n, err := told.Read(b)
		if err != nil {
			t.Fatalf("systemd is told nothing: %v", err)
		}
		return string(b[:n])
	}

	h := newHouse(t, func(cmd *exec.Cmd) {
		cmd.ExtraFiles = []*os.File{socket}
		cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+address, "LISTEN_FDS=1")
		cmd.Args = append([]string{"sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`}, cmd.Args...)
		cmd.Path = "/bin/sh"
	})
	if got := next(); got != "READY=1" {
		t.Errorf("systemd is told %q", got)
	}
	if err := h.visitOnce(t); err != nil {
		t.Error(err)
	}
	second := h.upgrade(t)
	for _, want := range []string{fmt.Sprintf("MAINPID=%d", second), "READY=1"} {
		if got := next(); got != want {
			t.Errorf("systemd is told %q, want %q", got, want)
		}
	}
	until(t, "the first process's end", func() bool { return !running(h.cmd.Process.Pid) })
	if err := h.visitOnce(t); err != nil {
		t.Error(err)
	}
	// It is a child of the same process as the first one.
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", second))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := bytes.Cut(stat, []byte(") "))
	if parent := string(bytes.Fields(rest)[1]); parent != strconv.Itoa(os.Getpid()) {
		t.Errorf("its parent is process %s, want %d", parent, os.Getpid())
	}
	if err := unix.Kill(second, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if got := next(); got != "STOPPING=1" {
		t.Errorf("systemd is told %q", got)
	}

	// What systemd has and the config does not is a mistake in one of them.
	until(t, "the second process's end", func() bool { return !running(second) })
	h.configure(t, strings.Replace(string(h.config(t)), roadPort, "8445", 1))
	cmd := command(t.Context(), shared.dir, "/bin/sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@"`, shared.binary, "server", "run", "--dir", h.serverDir)
	cmd.ExtraFiles = []*os.File{socket}
	if _, err := serverNS.output(cmd); err == nil || !strings.Contains(err.Error(), "systemd passes on a listener on [::]:8444, which listen in server.toml does not name") {
		t.Errorf("it ended with %v", err)
	}
}
