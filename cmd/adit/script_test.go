package main

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// scriptLimit bounds how long a script waits for one thing.
const scriptLimit = time.Minute

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"adit": main, "nameserver": nameServer, "decider": deciderProgram, "certificates": certificatesProgram})
}

// TestScripts runs adit as people and scripts do. Beside the commands that
// testscript brings along, scripts know:
//
//	freeport NAME...           set $NAME to an address nobody listens on
//	start NAME REGEXP PROGRAM… run a program in the background until it prints a line that matches
//	seen NAME REGEXP           wait until it has printed such a line
//	unseen NAME REGEXP         it has printed no such line so far
//	signal NAME SIGNAL         send it HUP, INT, TERM or KILL
//	ended NAME CODE [LIMIT]    wait until it has ended with one of these exit codes; -1 is a signal
//	copydir FROM TO            make TO a copy of FROM, with its modes
//	rewrite FILE REGEXP TEXT   replace what matches
//	append FILE LINE           add a line
//
// $TARGET is a web server: /hello, and /endless, which never ends; the program nameserver
// is a DNS server, decider one that decides, and certificates makes some.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup:               setupScript,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"freeport": freePorts,
			"start":    startProgram,
			"seen":     func(ts *testscript.TestScript, _ bool, args []string) { program(ts, args).seen(ts, args[1]) },
			"unseen":   func(ts *testscript.TestScript, _ bool, args []string) { program(ts, args).unseen(ts, args[1]) },
			"signal":   signalProgram,
			"ended":    programEnded,
			"copydir":  copyDir,
			"rewrite":  rewriteFile,
			"append":   appendLine,

			"eventually": eventually,
		},
	})
}

// programsKey finds a script's background programs.
type programsKey struct{}

func setupScript(e *testscript.Env) error {
	target := httptest.NewServer(http.HandlerFunc(serveTarget))
	e.Defer(target.Close)
	e.Defer(target.CloseClientConnections)
	e.Setenv("TARGET", target.Listener.Addr().String())
	e.Setenv("XDG_CONFIG_HOME", e.WorkDir+"/config")
	e.Setenv("GORACE", "atexit_sleep_ms=0") // or each command takes a second more
	programs := make(map[string]*background)
	e.Values[programsKey{}] = programs
	e.Defer(func() {
		for _, p := range programs {
			_ = p.cmd.Process.Kill() // most have ended
			<-p.done
			_ = p.out.Close()
			<-p.read
		}
	})
	return nil
}

func serveTarget(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintln(w, "hello from the target")
	if r.URL.Path != "/endless" {
		return
	}
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		if err := http.NewResponseController(w).Flush(); err != nil {
			return
		}
		select {
		case <-ticker.C:
			fmt.Fprintln(w, "tick")
		case <-r.Context().Done():
			return
		}
	}
}

// freePorts takes ports below those that the system gives out, as it would give
// them to somebody else meanwhile.
func freePorts(ts *testscript.TestScript, _ bool, names []string) {
	for _, name := range names {
		for tries := 1; ; tries++ {
			ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 20_000+rand.IntN(10_000)))
			if err == nil {
				ts.Setenv(name, ln.Addr().String())
				ts.Check(ln.Close())
				break
			}
			if tries == 100 {
				ts.Check(err)
			}
		}
	}
}

// background is a program that a script has started.
type background struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	out  *os.File      // what it prints, and a server's successors
	read chan struct{} // closed when they have all ended, or out is closed

	mu    sync.Mutex
	lines []string
	more  chan struct{} // closed and made anew with every line
}

func startProgram(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 3 {
		ts.Fatalf("usage: start NAME REGEXP PROGRAM…")
	}
	path := args[2]
	if path == "adit" || path == "nameserver" {
		path = ts.Getenv("PATH")
		path, _, _ = strings.Cut(path, string(os.PathListSeparator)) // testscript puts it first
		path += "/" + args[2]
	}
	p := &background{
		cmd:  exec.Command(path, args[3:]...),
		done: make(chan struct{}),
		read: make(chan struct{}),
		more: make(chan struct{}),
	}
	p.cmd.Dir = ts.Getenv("WORK")
	for _, name := range []string{"PATH", "HOME", "XDG_CONFIG_HOME", "TMPDIR", "WORK", "NOTIFY_SOCKET"} {
		p.cmd.Env = append(p.cmd.Env, name+"="+ts.Getenv(name))
	}
	out, w, err := os.Pipe()
	ts.Check(err)
	p.out, p.cmd.Stdout, p.cmd.Stderr = out, w, w
	err = p.cmd.Start()
	w.Close()
	if err != nil {
		out.Close()
		ts.Check(err)
	}
	ts.Value(programsKey{}).(map[string]*background)[args[0]] = p
	go p.follow()
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait() // ended looks at the exit code
		select {
		case <-p.read:
		case <-time.After(time.Second): // a successor goes on
		}
	}()
	p.seen(ts, args[1])
}

// follow reads on when the program has ended: a server's successor prints to
// the same pipe, and would be ended by a signal if nobody read.
func (p *background) follow() {
	defer close(p.read)
	for lines := bufio.NewScanner(p.out); lines.Scan(); {
		p.mu.Lock()
		p.lines = append(p.lines, lines.Text())
		close(p.more)
		p.more = make(chan struct{})
		p.mu.Unlock()
	}
}

// printed gives the lines so far, and a channel that is closed when there are
// more.
func (p *background) printed() ([]string, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lines, p.more
}

func (p *background) seen(ts *testscript.TestScript, pattern string) {
	re, err := regexp.Compile(pattern)
	ts.Check(err)
	timeout := time.After(scriptLimit)
	for {
		lines, more := p.printed()
		if slices.ContainsFunc(lines, re.MatchString) {
			return
		}
		select {
		case <-more:
		case <-p.done:
			if lines, _ := p.printed(); !slices.ContainsFunc(lines, re.MatchString) {
				ts.Fatalf("%s ended (%s) without a line that matches %q:\n%s", p.cmd, p.cmd.ProcessState, pattern, strings.Join(lines, "\n"))
			}
			return
		case <-timeout:
			ts.Fatalf("%s has printed no line that matches %q:\n%s", p.cmd, pattern, strings.Join(lines, "\n"))
		}
	}
}

func (p *background) unseen(ts *testscript.TestScript, pattern string) {
	re, err := regexp.Compile(pattern)
	ts.Check(err)
	lines, _ := p.printed()
	if i := slices.IndexFunc(lines, re.MatchString); i >= 0 {
		ts.Fatalf("%s has printed %q", p.cmd, lines[i])
	}
}

func program(ts *testscript.TestScript, args []string) *background {
	if len(args) < 2 {
		ts.Fatalf("too few arguments")
	}
	p := ts.Value(programsKey{}).(map[string]*background)[args[0]]
	if p == nil {
		ts.Fatalf("no program %s has been started", args[0])
	}
	return p
}

// eventually runs adit until its output has a line that fits.
func eventually(ts *testscript.TestScript, _ bool, args []string) {
	fits := regexp.MustCompile("(?m)" + args[0])
	for began := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		err := ts.Exec(args[1], args[2:]...)
		if out := ts.ReadFile("stdout"); err == nil && fits.MatchString(out) {
			return
		} else if time.Since(began) > scriptLimit {
			ts.Fatalf("%s does not print %s, but: %s %v", strings.Join(args[1:], " "), args[0], out, err)
		}
	}
}

func signalProgram(ts *testscript.TestScript, _ bool, args []string) {
	p := program(ts, args)
	known := map[string]os.Signal{"HUP": syscall.SIGHUP, "INT": os.Interrupt, "TERM": syscall.SIGTERM, "KILL": os.Kill}
	ts.Check(p.cmd.Process.Signal(known[args[1]]))
}

func programEnded(ts *testscript.TestScript, _ bool, args []string) {
	p := program(ts, args)
	limit := scriptLimit
	if len(args) > 2 {
		var err error
		limit, err = time.ParseDuration(args[2])
		ts.Check(err)
	}
	select {
	case <-p.done:
	case <-time.After(limit):
		lines, _ := p.printed()
		ts.Fatalf("%s has not ended after %s:\n%s", p.cmd, limit, strings.Join(lines, "\n"))
	}
	if code := strconv.Itoa(p.cmd.ProcessState.ExitCode()); !slices.Contains(strings.Split(args[1], ","), code) {
		lines, _ := p.printed()
		ts.Fatalf("%s ended with exit code %s, want %s:\n%s", p.cmd, code, args[1], strings.Join(lines, "\n"))
	}
}

func copyDir(ts *testscript.TestScript, _ bool, args []string) {
	from, to := ts.MkAbs(args[0]), ts.MkAbs(args[1])
	ts.Check(os.RemoveAll(to))
	ts.Check(os.Mkdir(to, 0o700))
	entries, err := os.ReadDir(from)
	ts.Check(err)
	for _, e := range entries {
		if e.Type().IsRegular() {
			text, err := os.ReadFile(filepath.Join(from, e.Name()))
			ts.Check(err)
			ts.Check(os.WriteFile(filepath.Join(to, e.Name()), text, 0o600))
		}
	}
}

func rewriteFile(ts *testscript.TestScript, _ bool, args []string) {
	re, err := regexp.Compile(args[1])
	ts.Check(err)
	before := ts.ReadFile(args[0])
	after := re.ReplaceAllString(before, args[2])
	if after == before {
		ts.Fatalf("nothing in %s matches %q:\n%s", args[0], args[1], before)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(after), 0o600))
}

func appendLine(ts *testscript.TestScript, _ bool, args []string) {
	text := ts.ReadFile(args[0]) + args[1] + "\n"
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o600))
}
