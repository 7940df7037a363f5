//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// ftpSite is a real FTP server that connects to its clients, as the standard has it. It
// does so only to the address that the client's own connection comes from.
type ftpSite struct {
	port string
	dir  string // what everybody may read, with "in" for what everybody may write
}

// startFTP starts one at the target for as long as the test lasts.
func startFTP(t *testing.T, port string) ftpSite {
	t.Helper()
	s := ftpSite{port: port, dir: filepath.Join(t.TempDir(), "ftp")}
	empty := filepath.Join(t.TempDir(), "empty")
	in := filepath.Join(s.dir, "in")
	for _, err := range []error{os.MkdirAll(in, 0o755), os.Chmod(in, 0o777), os.Mkdir(empty, 0o755)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	reachable(t, s.dir)
	config := filepath.Join(t.TempDir(), "vsftpd.conf")
	text := strings.Join([]string{
		"listen=YES", "listen_address=" + target4, "listen_port=" + port, "background=NO",
		"anonymous_enable=YES", "no_anon_password=YES", "anon_root=" + s.dir,
		"write_enable=YES", "anon_upload_enable=YES", "anon_umask=022",
		"pasv_enable=NO", "connect_from_port_20=YES",
		"secure_chroot_dir=" + empty, "seccomp_sandbox=NO", "isolate=NO",
	}, "\n")
	if err := os.WriteFile(config, []byte(text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := launch(targetNS, s.dir, "vsftpd", "", "/usr/sbin/vsftpd", config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.stop)
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		conn, err := dialAt(targetNS, net.JoinHostPort(target4, port))
		if err == nil {
			conn.Close()
			return s
		}
		select {
		case <-p.ended:
			t.Fatalf("vsftpd ended: %s", p.log)
		default:
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// reachable lets every user into a directory of the test's.
func reachable(t *testing.T, dir string) {
	t.Helper()
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

func dialAt(ns namespace, address string) (conn net.Conn, err error) {
	err = ns.do(func() error { conn, err = net.DialTimeout("tcp", address, 10*time.Second); return err })
	return conn, err
}

// danteConfig makes Dante's socksify use a door for all that the protocol has.
func danteConfig(t *testing.T, door, protocol string) string {
	t.Helper()
	host, port, _ := net.SplitHostPort(door)
	transports, commands := "tcp", "connect bind bindreply"
	if protocol == "socks_v5" {
		transports, commands = "tcp udp", commands+" udpassociate udpreply"
	}
	text := fmt.Sprintf(`route {
	from: 0.0.0.0/0 to: 0.0.0.0/0 via: %s port = %s
	protocol: %s
	proxyprotocol: %s
	method: none
	command: %s
}
`, host, port, transports, protocol, commands)
	config := filepath.Join(t.TempDir(), "dante.conf")
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return config
}

// socksify runs a program under Dante's socksify until it ends and returns what it
// wrote to its standard output.
func socksify(t *testing.T, protocol, stdin string, program ...string) string {
	t.Helper()
	args := []string{"SOCKS_AUTOADD_LANROUTES=no", "SOCKS_CONF=" + danteConfig(t, door4, protocol), "socksify"}
	return onClient(t, stdin, "env", append(args, program...)...)
}

// TestActiveFTPWorksUnderSocksify has the FTP server connect back for every file: to a
// port at the exit, which is all that it can reach.
func TestActiveFTPWorksUnderSocksify(t *testing.T) {
	t.Parallel()
	site := startFTP(t, "2121")
	down := randomText(1 << 20)
	if err := os.WriteFile(filepath.Join(site.dir, "down"), []byte(down), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, protocol := range []string{"socks_v4", "socks_v5"} {
		t.Run(protocol, func(t *testing.T) {
			dir := t.TempDir()
			up := randomText(1 << 20)
			if err := os.WriteFile(filepath.Join(dir, "up"), []byte(up), 0o644); err != nil {
				t.Fatal(err)
			}
			commands := strings.Join([]string{
				"open " + target4 + " " + site.port,
				"user anonymous guest",
				"binary",
				"ls",
				"lcd " + dir,
				"get down",
				"put up in/" + protocol,
				"quit",
			}, "\n")
			said := socksify(t, protocol, commands+"\n", "ftp", "-A", "-n", "-v")
			for file, want := range map[string]string{
				filepath.Join(dir, "down"):              down,
				filepath.Join(site.dir, "in", protocol): up,
			} {
				if got, err := os.ReadFile(file); err != nil || string(got) != want {
					t.Errorf("%s: %d bytes, %v; want %d", file, len(got), err, len(want))
				}
			}
			if !strings.Contains(said, "down") || t.Failed() {
				t.Errorf("ftp says:\n%s", said)
			}
		})
	}
}

// nodeBind waits for a peer by the library socks of Node.js, and sends back what it
// gets. It must not resume the socket: the library does, when it has given it what came
// in one piece with the reply.
const nodeBind = `
const {SocksClient} = require('socks');
const [type, host, port, peer] = process.argv.slice(1);
const client = new SocksClient({
	proxy: {host, port: Number(port), type: Number(type)}, command: 'bind', destination: {host: peer, port: 0},
});
client.on('error', err => { console.log('failed', err.message); process.exit(1); });
client.on('bound', info => console.log('bound', info.remoteHost.host, info.remoteHost.port));
client.on('established', info => {
	console.log('established', info.remoteHost.host, info.remoteHost.port);
	info.socket.on('data', data => info.socket.write(data));
	info.socket.on('end', () => info.socket.end());
});
client.connect();
`

func TestNodeProgramWaitsForAPeer(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ kind, peer string }{
		{"4", target4},
		{"5", target4},
		{"5", "0.0.0.0"},
	} {
		t.Run("SOCKS "+test.kind+" for "+test.peer, func(t *testing.T) {
			host, port, _ := net.SplitHostPort(door4)
			p, err := launch(clientNS, t.TempDir(), "node", "bound ", "env", "NODE_PATH=/usr/share/nodejs",
				"node", "-e", nodeBind, test.kind, host, port, test.peer)
			if err != nil {
				t.Fatal(err)
			}
			defer p.stop()
			if err := p.waitReady(); err != nil {
				t.Fatalf("%v: %s", err, p.log)
			}
			at := p.log.address(t, "bound ")
			if test.peer != target4 {
				// Nobody knows which of the server's feet he will come to. Both are open.
				at = netip.AddrPortFrom(netip.MustParseAddr(exit4), at.Port())
			}
			if at.Addr().String() != exit4 {
				t.Errorf("the port is at %s, not where the peer can reach it", at)
			}
			data := randomText(256 << 10)
			from, got := talkTo(t, at, data)
			if got != data {
				t.Errorf("%d bytes came back, not the %d that were sent, or others", len(got), len(data))
			}
			until(t, "what the program says of its peer", func() bool { return strings.Contains(p.log.String(), "\nestablished ") })
			if seen := p.log.address(t, "established "); seen != from {
				t.Errorf("the program hears of a peer %s, who is %s", seen, from)
			}
		})
	}
}

// talkTo connects from the target, sends data, and reads until the end.
func talkTo(t *testing.T, to netip.AddrPort, data string) (from netip.AddrPort, got string) {
	t.Helper()
	conn, err := dialAt(targetNS, to.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	sent := make(chan error, 1)
	go func() {
		_, err := io.WriteString(conn, data)
		sent <- errors.Join(err, conn.(*net.TCPConn).CloseWrite())
	}()
	b, err := io.ReadAll(conn)
	if err := errors.Join(err, <-sent); err != nil {
		t.Error(err)
	}
	return conn.LocalAddr().(*net.TCPAddr).AddrPort(), string(b)
}

// address reads a line that begins with a word, and goes on with a host and a port.
func (p *programLog) address(t *testing.T, word string) netip.AddrPort {
	t.Helper()
	for line := range strings.Lines(p.String()) {
		rest, found := strings.CutPrefix(strings.TrimSpace(line), word)
		if !found {
			continue
		}
		host, number, _ := strings.Cut(rest, " ")
		ip, err1 := netip.ParseAddr(host)
		port, err2 := strconv.ParseUint(number, 10, 16)
		if err := errors.Join(err1, err2); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		return netip.AddrPortFrom(ip, uint16(port))
	}
	t.Fatalf("no line begins with %q:\n%s", word, p.String())
	return netip.AddrPort{}
}
