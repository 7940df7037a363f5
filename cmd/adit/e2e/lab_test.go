//go:build linux

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Addresses in the lab. The server has two feet, and forwards nothing.
const (
	client4, client6 = "10.77.1.1", "fd77:1::1"
	server4, server6 = "10.77.1.2", "fd77:1::2"
	exit4, exit6     = "10.77.2.1", "fd77:2::1" // the server, as targets see it
	target4, target6 = "10.77.2.2", "fd77:2::2"
)

// lab is the three namespaces and what runs in them.
type lab struct {
	dir    string // files of this run
	binary string // the adit program
	site   site
	names  nameServer // of the client's side

	logs    []*programLog
	closers []func()
}

// open sets up everything; close must follow, also after an error.
func (l *lab) open() error {
	if err := ownFiles(l.dir); err != nil {
		return err
	}
	if err := connectNamespaces(); err != nil {
		return err
	}
	for _, step := range []func() error{l.startNameServers, l.startTarget, l.startAdit} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// close ends what was started, last first, and waits for it.
func (l *lab) close() {
	for len(l.closers) > 0 {
		last := len(l.closers) - 1
		l.closers[last]()
		l.closers = l.closers[:last]
	}
}

func (l *lab) onClose(f func()) { l.closers = append(l.closers, f) }

func (l *lab) path(name string) string { return filepath.Join(l.dir, name) }

// ownFiles puts files of the lab's own over those of the machine. The mounts are
// seen in this mount namespace only. /run/netns is where ip keeps the names of
// namespaces, /run/sshd what sshd wants to see before it starts, /run/wireguard where
// wg finds wireguard-go.
func ownFiles(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	for _, d := range []string{"/run/netns", "/run/sshd", "/run/wireguard"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
		if err := unix.Mount("tmpfs", d, "tmpfs", 0, "mode=755"); err != nil {
			return fmt.Errorf("mount %s: %w", d, err)
		}
	}
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	for name, content := range map[string]string{
		"/etc/resolv.conf":   "nameserver " + nameServerIP + "\noptions timeout:2 attempts:2\n",
		"/etc/nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n",
		"/etc/hosts":         "127.0.0.1 localhost " + host + "\n::1 localhost\n",
	} {
		own := filepath.Join(dir, filepath.Base(name))
		if err := os.WriteFile(own, []byte(content), 0o644); err != nil {
			return err
		}
		// resolv.conf may be a link, which nothing can be mounted on.
		name, err := filepath.EvalSymlinks(name)
		if err != nil {
			return err
		}
		if err := unix.Mount(own, name, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount %s: %w", name, err)
		}
	}
	return nil
}

// connectNamespaces makes the namespaces and the two links between them. There
// is no route but to the neighbour.
func connectNamespaces() error {
	commands := []string{
		"netns add client",
		"netns add server",
		"netns add target",
		"link add c0 netns client type veth peer name s0 netns server",
		"link add s1 netns server type veth peer name t0 netns target",
	}
	for _, a := range []struct {
		ns       namespace
		dev      string
		ip4, ip6 string
	}{
		{clientNS, "c0", client4, client6},
		{serverNS, "s0", server4, server6},
		{serverNS, "s1", exit4, exit6},
		{targetNS, "t0", target4, target6},
	} {
		commands = append(commands,
			fmt.Sprintf("-n %s link set lo up", a.ns),
			fmt.Sprintf("-n %s link set %s up", a.ns, a.dev),
			fmt.Sprintf("-n %s addr add %s/24 dev %s", a.ns, a.ip4, a.dev),
			fmt.Sprintf("-n %s addr add %s/64 dev %s nodad", a.ns, a.ip6, a.dev))
	}
	return ip(commands...)
}

// ip runs commands of the program ip.
func ip(commands ...string) error {
	for _, c := range commands {
		if out, err := exec.Command("ip", strings.Fields(c)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", c, err, out)
		}
	}
	return nil
}

// namespace is the name of a network namespace.
type namespace string

const (
	clientNS namespace = "client"
	serverNS namespace = "server"
	targetNS namespace = "target"
)

// do calls f on a thread that is in the namespace. Sockets that f opens and
// processes that it starts stay there.
func (ns namespace) do(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with this goroutine
		done <- func() error {
			fd, err := os.Open("/run/netns/" + string(ns))
			if err != nil {
				return err
			}
			defer fd.Close()
			if err := unix.Setns(int(fd.Fd()), unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("enter namespace %s: %w", ns, err)
			}
			return f()
		}()
	}()
	return <-done
}

func (ns namespace) listen(address string) (l net.Listener, err error) {
	err = ns.do(func() error { l, err = net.Listen("tcp", address); return err })
	return l, err
}

// command is exec.CommandContext with a home directory and an environment of
// its own. When ctx ends, the program ends with all that it started. With the race detector an
// adit would sleep for a second before it ends.
func command(ctx context.Context, home, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = []string{"HOME=" + home, "PATH=" + os.Getenv("PATH"), "LANG=C.UTF-8", "TMPDIR=" + home, "GORACE=atexit_sleep_ms=0"}
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// onClient runs a program on the client's side until it ends and returns what
// it wrote to its standard output.
func onClient(t *testing.T, stdin string, name string, args ...string) string {
	t.Helper()
	out, err := tryOnClient(t, stdin, name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func tryOnClient(t *testing.T, stdin string, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := command(ctx, t.TempDir(), name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	return clientNS.output(cmd)
}

// output runs a program in the namespace until it ends and returns what it
// wrote to its standard output. What it wrote to both is in the error.
func (ns namespace) output(cmd *exec.Cmd) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := ns.do(cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w\nstdout: %s\nstderr: %s", cmd, err, tail(stdout.Bytes()), tail(stderr.Bytes()))
	}
	return stdout.String(), nil
}

// start starts a program that runs until the lab closes, and returns when it
// has printed a line to its standard error that begins with ready.
func (l *lab) start(ns namespace, title, ready, name string, args ...string) error {
	p, err := launch(ns, l.dir, title, ready, name, args...)
	if err != nil {
		return err
	}
	l.logs = append(l.logs, p.log)
	l.onClose(p.stop)
	return p.waitReady()
}

// program is one that runs until it is stopped.
type program struct {
	cmd   *exec.Cmd
	log   *programLog
	ended chan struct{}
}

// launch starts a program that prints a line which begins with ready.
func launch(ns namespace, home, title, ready, name string, args ...string) (*program, error) {
	cmd := command(context.Background(), home, name, args...)
	log := &programLog{title: title, want: ready, seen: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = log, log
	if err := ns.do(cmd.Start); err != nil {
		return nil, fmt.Errorf("start %s: %w", title, err)
	}
	p := &program{cmd: cmd, log: log, ended: make(chan struct{})}
	go func() {
		defer close(p.ended)
		_ = cmd.Wait() // its log says why it ended
	}()
	return p, nil
}

func (p *program) waitReady() error {
	select {
	case <-p.log.seen:
		return nil
	case <-p.ended:
		return fmt.Errorf("%s ended before it was ready", p.log.title)
	case <-time.After(30 * time.Second):
		return fmt.Errorf("%s was not ready after 30 seconds", p.log.title)
	}
}

// stop ends the program, kindly at first, and waits for it.
func (p *program) stop() {
	_ = unix.Kill(-p.cmd.Process.Pid, unix.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(10 * time.Second):
		_ = p.cmd.Cancel()
		<-p.ended
	}
}

// programLog keeps what a program prints, and waits for one line.
type programLog struct {
	title string
	want  string        // how the line begins
	seen  chan struct{} // closed when it was there

	mu   sync.Mutex
	text []byte
	rest []byte // the last line, as far as it came
}

func (p *programLog) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.text = append(p.text, b...)
	p.rest = append(p.rest, b...)
	for {
		line, rest, whole := bytes.Cut(p.rest, []byte("\n"))
		if !whole {
			return len(b), nil
		}
		if p.want != "" && bytes.HasPrefix(line, []byte(p.want)) {
			p.want = ""
			close(p.seen)
		}
		p.rest = rest
	}
}

func (l *lab) printLogs(w io.Writer) {
	for _, p := range l.logs {
		p.mu.Lock()
		fmt.Fprintf(w, "--- %s printed:\n%s\n", p.title, tail(p.text))
		p.mu.Unlock()
	}
}

// tail is the end of a long output.
func tail(b []byte) []byte {
	const most = 2 << 10
	return b[max(0, len(b)-most):]
}
