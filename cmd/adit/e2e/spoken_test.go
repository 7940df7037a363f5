//go:build linux

package e2e

import (
	"encoding/csv"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	spokenPort = "8461" // of the server that looks at what is spoken
	spokenDoor = "127.0.0.1:3800"

	firstTalker = 5101 // port
)

// spokenRules forbid something that nobody speaks here. To know that, the server has to
// look at everything.
const spokenRules = `
[[rule]]
name = "no-gopher"
protocols = ["gnutella"]
then = "deny"

[[rule]]
name = "all"
then = "allow"
`

// TestServerKnowsWhatRealProgramsSpeak has real programs speak with real servers, where
// these are not too heavy, through a server whose policy makes it hold everything back until
// it knows. All of them must work, and what is on record must be right.
func TestServerKnowsWhatRealProgramsSpeak(t *testing.T) {
	t.Parallel()
	dir := newSpokenExit(t)
	all := talkers()
	t.Run("programs", func(t *testing.T) {
		for i, k := range all {
			t.Run(k.title, func(t *testing.T) {
				t.Parallel()
				k.talk(t, strconv.Itoa(firstTalker+i))
			})
		}
	})
	var seen []string
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		seen = onRecord(t, dir, all)
		if time.Now().After(end) || slices.EqualFunc(all, seen, func(k talker, seen string) bool { return k.want == seen }) {
			break
		}
	}
	var table strings.Builder
	for i, k := range all {
		fmt.Fprintf(&table, "%-28s %-12s %s\n", k.title, k.want, seen[i])
		if seen[i] != k.want {
			t.Errorf("%s speaks %s, on record is %q", k.title, k.want, seen[i])
		}
	}
	t.Logf("program                      speaks       on record\n%s", &table)
}

// onRecord gives what each of all has spoken, as far as that is on record: with spaces
// between, if it is several things. Records of datagrams have no port, so that it is there
// that one of them has the right protocol.
func onRecord(t *testing.T, dir string, all []talker) (seen []string) {
	t.Helper()
	text := adit(t, serverNS, "audit", "--dir", dir, "--sql", "SELECT DISTINCT port, protocol FROM flows", "--format", "csv")
	rows, err := csv.NewReader(strings.NewReader(text)).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	at := make(map[string][]string)
	for _, row := range rows {
		at[row[0]] = append(at[row[0]], row[1])
	}
	for i, k := range all {
		protocols := at[strconv.Itoa(firstTalker+i)]
		if k.udp && slices.Contains(at["0"], k.want) {
			protocols = []string{k.want}
		}
		seen = append(seen, strings.Join(protocols, " "))
	}
	return seen
}

// newSpokenExit starts a server with rules that depend on what is spoken, and a client.
func newSpokenExit(t *testing.T) (dir string) {
	t.Helper()
	dir = shared.path("spoken-server")
	adit(t, serverNS, "server", "init", "--dir", dir, "--listen", ":"+spokenPort, "--name", server4+":"+spokenPort, "--allow", "private")
	if err := os.WriteFile(filepath.Join(dir, "policy.toml"), []byte(spokenRules), 0o600); err != nil {
		t.Fatal(err)
	}
	adit(t, serverNS, "user", "add", "alice", "--dir", dir)
	programs := new(road)
	programs.launch(t, serverNS, "the listening server", "server", "run", "--dir", dir)
	own := shared.path("spoken-client")
	adit(t, clientNS, "join", "--dir", own, adit(t, serverNS, "invite", "alice", "--dir", dir))
	programs.launch(t, clientNS, "the listening server's client", "client", "run", "--dir", own, "--door", spokenDoor)
	return dir
}

// talk has the program speak.
func (k talker) talk(t *testing.T, port string) {
	at := net.JoinHostPort(target4, port)
	switch {
	case k.by != nil:
		k.by(t, at)
	case k.serve != "":
		runAtTarget(t, k.title, "", "env", lineOf(t, k.serve, at)...)
		until(t, "the server of "+k.title, func() bool { return k.up(t, at) })
	case k.udp:
		c := targetNS.listenUDP(t, at)
		t.Cleanup(func() { c.Close() })
	default:
		swallow(t, at)
	}
	if k.udp {
		passDatagrams(t, netip.MustParseAddrPort(at))
	} else {
		passConnections(t, at)
	}
	out, err := tryOnClient(t, "", "env", lineOf(t, k.speak, "127.0.0.1:"+port)...)
	if err != nil && !k.quiet {
		t.Error(err)
	} else if err == nil {
		t.Logf("%.60q", out)
	}
}

// lineOf gives the arguments for env by which the shell runs a line.
func lineOf(t *testing.T, line, at string) []string {
	t.Helper()
	dir, err := os.MkdirTemp("", "adit-") // short, as names of sockets must be
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	reachable(t, dir)
	host, port, _ := net.SplitHostPort(at)
	return []string{"at=" + at, "host=" + host, "port=" + port, "dir=" + dir, "sh", "-c", "cd $dir && " + line}
}

// up tells whether the server is there.
func (k talker) up(t *testing.T, at string) bool {
	if k.udp {
		return targetNS.hears(t, at)
	}
	_, port, _ := net.SplitHostPort(at)
	out, err := targetNS.output(command(t.Context(), t.TempDir(), "ss", "-Hltn", "sport", "=", port))
	return err == nil && out != ""
}

// serveHTTP serves HTTP/1 and HTTP/2, both in the clear.
func serveHTTP(t *testing.T, at string) {
	ln, err := targetNS.listen(at)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.NotFoundHandler(), ReadHeaderTimeout: time.Minute, Protocols: new(http.Protocols)}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetUnencryptedHTTP2(true)
	var serving sync.WaitGroup
	serving.Go(func() { _ = s.Serve(ln) })
	t.Cleanup(func() { s.Close(); serving.Wait() })
}

func startFTPAt(t *testing.T, at string) {
	_, port, _ := net.SplitHostPort(at)
	startFTP(t, port)
}

// swallow takes what is said first and goes, without a word.
func swallow(t *testing.T, at string) {
	pass(t, targetNS, at, func(c *net.TCPConn) { _, _ = c.Read(make([]byte, 64<<10)) })
}

// forwardToSSH passes connections at the target on to its sshd.
func forwardToSSH(t *testing.T, at string) {
	pass(t, targetNS, at, func(c *net.TCPConn) {
		if other, err := dialAt(targetNS, target4+":22"); err == nil {
			both(c, other.(*net.TCPConn))
		}
	})
}

// passConnections passes what comes to a port of the client's machine on to the same port
// of the target, through adit.
func passConnections(t *testing.T, to string) {
	_, port, _ := net.SplitHostPort(to)
	pass(t, clientNS, "127.0.0.1:"+port, func(c *net.TCPConn) {
		door, err := dialAt(clientNS, spokenDoor)
		if err != nil {
			return
		}
		if askDoor(door.(*net.TCPConn), to) != nil {
			door.Close()
			return
		}
		both(c, door.(*net.TCPConn))
	})
}

// pass serves connections until the test ends.
func pass(t *testing.T, ns namespace, at string, serve func(*net.TCPConn)) {
	t.Helper()
	ln, err := ns.listen(at)
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	serving.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
			serving.Go(func() {
				defer c.Close()
				serve(c.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		for _, c := range open {
			c.Close()
		}
		mu.Unlock()
		serving.Wait()
	})
}

// both copies both ways until both have ended, and closes other.
func both(c, other *net.TCPConn) {
	defer other.Close()
	var copying sync.WaitGroup
	copying.Go(func() {
		_, _ = io.Copy(other, c)
		_ = other.CloseWrite()
	})
	_, _ = io.Copy(c, other)
	_ = c.CloseWrite()
	copying.Wait()
}

// passDatagrams is passConnections for datagrams, and for one program.
func passDatagrams(t *testing.T, to netip.AddrPort) {
	t.Helper()
	door, err := dialAt(clientNS, spokenDoor)
	if err != nil {
		t.Fatal(err)
	}
	relay, err := askForRelay(door)
	if err != nil {
		t.Fatal(err)
	}
	app := clientNS.listenUDP(t, fmt.Sprintf("127.0.0.1:%d", to.Port()))
	far := clientNS.listenUDP(t, "127.0.0.1:0")
	header := socks5Header(to)
	var passing sync.WaitGroup
	var mu sync.Mutex
	var from netip.AddrPort
	passing.Go(func() {
		for b := make([]byte, 64<<10); ; {
			n, a, err := app.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			mu.Lock()
			from = a
			mu.Unlock()
			_, _ = far.WriteToUDPAddrPort(slices.Concat(header, b[:n]), relay)
		}
	})
	passing.Go(func() {
		for b := make([]byte, 64<<10); ; {
			n, err := far.Read(b)
			if err != nil {
				return
			}
			mu.Lock()
			a := from
			mu.Unlock()
			_, _ = app.WriteToUDPAddrPort(b[min(n, len(header)):n], a)
		}
	})
	t.Cleanup(func() {
		door.Close()
		app.Close()
		far.Close()
		passing.Wait()
	})
}
