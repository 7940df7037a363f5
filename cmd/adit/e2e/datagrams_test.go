//go:build linux

package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// runAtTarget starts a program at the target for as long as the test lasts.
func runAtTarget(t *testing.T, title, ready, name string, args ...string) *program {
	t.Helper()
	p, err := launch(targetNS, t.TempDir(), title, ready, name, args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.stop()
		if t.Failed() {
			t.Logf("%s printed:\n%s", title, tail([]byte(p.log.String())))
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

func TestSNMPWalksUnderSocksify(t *testing.T) {
	t.Parallel()
	const port, location = "1161", "at the end of the adit"
	dir := t.TempDir()
	config := filepath.Join(dir, "snmpd.conf")
	text := fmt.Sprintf("agentAddress udp:%s:%s\nrocommunity public\nsysLocation %s\n", target4, port, location)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	runAtTarget(t, "snmpd", "NET-SNMP version", "env", "SNMP_PERSISTENT_DIR="+dir,
		"snmpd", "-f", "-Lo", "-C", "-c", config, "-p", filepath.Join(dir, "pid"))
	// sysUpTime, sysLocation and all else that is at .1.3.6.1.2.1.1: an exchange each.
	out := socksify(t, "socks_v5", "", "snmpwalk", "-v2c", "-c", "public", "-t", "5", "-r", "2", "-On", "udp:"+target4+":"+port, "1.3.6.1.2.1.1")
	if n := strings.Count(out, "\n"); n < 10 || !strings.Contains(out, ".1.3.6.1.2.1.1.6.0 = STRING: \""+location+"\"\n") {
		t.Errorf("snmpwalk finds %d values:\n%s", n, out)
	}
}

// TestTFTPWorksUnderSocksify has a server that answers from another port than it was
// asked at, and a client that goes on with that one.
func TestTFTPWorksUnderSocksify(t *testing.T) {
	t.Parallel()
	const port = "6969"
	dir := t.TempDir()
	reachable(t, dir)
	down, up := randomText(100<<10), randomText(100<<10)
	if err := os.WriteFile(filepath.Join(dir, "down"), []byte(down), 0o644); err != nil {
		t.Fatal(err)
	}
	here := t.TempDir()
	if err := os.WriteFile(filepath.Join(here, "up"), []byte(up), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil { // the server is nobody
		t.Fatal(err)
	}
	runAtTarget(t, "in.tftpd", "", "in.tftpd", "--foreground", "--create", "--secure", "--address", target4+":"+port, dir)
	until(t, "a TFTP server", func() bool { return targetNS.hears(t, target4+":"+port) })
	commands := strings.Join([]string{
		"binary",
		"get down " + filepath.Join(here, "down"),
		"put " + filepath.Join(here, "up") + " up",
		"quit",
	}, "\n")
	said := socksify(t, "socks_v5", commands+"\n", "tftp", target4, port)
	for file, want := range map[string]string{filepath.Join(here, "down"): down, filepath.Join(dir, "up"): up} {
		if got, err := os.ReadFile(file); err != nil || string(got) != want {
			t.Errorf("%s: %d bytes, %v; want %d; tftp says\n%s", filepath.Base(file), len(got), err, len(want), said)
		}
	}
}

// hears tells whether somebody has opened a UDP port.
func (ns namespace) hears(t *testing.T, address string) bool {
	t.Helper()
	at := netip.MustParseAddrPort(address)
	ip := at.Addr().As4()
	slices.Reverse(ip[:])
	var table []byte
	err := ns.do(func() (err error) { table, err = os.ReadFile("/proc/thread-self/net/udp"); return err })
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(table), fmt.Sprintf(": %X:%04X ", ip, at.Port()))
}

// pyDatagrams sends datagrams of many sizes by PySocks, to each target in turn, and
// wants each back.
const pyDatagrams = `
import os, socket, socks, sys
host, port, *targets = sys.argv[1:]
s = socks.socksocket(socket.AF_INET, socket.SOCK_DGRAM)
s.set_proxy(socks.SOCKS5, host, int(port))
s.settimeout(20)
for size in (0, 1, 512, 1400, 9000, 60000):
    for target in targets:
        name, _, number = target.rpartition(":")
        data = os.urandom(size)
        s.sendto(data, (name, int(number)))
        got, peer = s.recvfrom(1 << 16)
        if got != data:
            sys.exit("%d bytes of %d came back" % (len(got), size))
        print(size, "%s:%d" % peer[:2])
`

func TestPythonWithPySocksExchangesDatagrams(t *testing.T) {
	t.Parallel()
	one, other := mirrorAtTarget(t), mirrorAtTarget(t)
	host, port, _ := net.SplitHostPort(door4)
	byName := net.JoinHostPort(targetName4, strconv.Itoa(int(other.Port())))
	out := onClient(t, "", "/usr/bin/python3", "-c", pyDatagrams, host, port, one.String(), byName)
	var want strings.Builder
	for _, size := range []int{0, 1, 512, 1400, 9000, 60000} {
		fmt.Fprintf(&want, "%d %s\n%d %s\n", size, one, size, other)
	}
	if out != want.String() {
		t.Errorf("the program says\n%swant\n%s", out, &want)
	}
}

// nodeDatagrams sends a datagram by the library socks of Node.js and prints what
// comes back, and then fetches a page by SOCKS 4a.
const nodeDatagrams = `
const {SocksClient} = require('socks');
const dgram = require('dgram');
const [host, port, target, number, name] = process.argv.slice(1);
const proxy = {host, port: Number(port), type: 5};
const zeros = {host: '0.0.0.0', port: 0};
const fail = err => { console.log('failed', err.message); process.exit(1); };
const association = new SocksClient({proxy, command: 'associate', destination: zeros});
association.on('error', fail);
association.on('established', info => {
	const peer = {host: target, port: Number(number)};
	const s = dgram.createSocket('udp4');
	s.on('message', m => {
		const {remoteHost, data} = SocksClient.parseUDPFrame(m);
		console.log(remoteHost.host, remoteHost.port, String(data));
		s.close();
		fetchByName().catch(fail);
	});
	const frame = SocksClient.createUDPFrame({remoteHost: peer, data: Buffer.from('through the adit')});
	s.send(frame, info.remoteHost.port, info.remoteHost.host);
});
async function fetchByName() {
	const {socket} = await SocksClient.createConnection({
		proxy: {...proxy, type: 4}, command: 'connect', destination: {host: name, port: 80},
	});
	let page = '';
	socket.on('data', data => page += data);
	socket.on('end', () => { process.stdout.write(page.split('\r\n\r\n')[1]); process.exit(0); });
	socket.write('GET / HTTP/1.0\r\n\r\n');
}
association.connect();
`

func TestNodeProgramExchangesDatagramsAndConnectsByName(t *testing.T) {
	t.Parallel()
	mirror := mirrorAtTarget(t)
	host, port, _ := net.SplitHostPort(door4)
	out := onClient(t, "", "env", "NODE_PATH=/usr/share/nodejs", "node", "-e", nodeDatagrams,
		host, port, target4, strconv.Itoa(int(mirror.Port())), targetName4)
	back, greeting, _ := strings.Cut(out, "\n")
	if want := fmt.Sprintf("%s %d through the adit", target4, mirror.Port()); back != want {
		t.Errorf("node got %q, want %q", back, want)
	}
	checkGreeting(t, greeting)
}

// pyCall is a call between two programs that both sit behind an exit. Each learns its
// address there from two who tell it, and talks to that of the other.
const pyCall = `
import socket, socks, sys
host, port, *tellers = sys.argv[1:]
def end():
    s = socks.socksocket(socket.AF_INET, socket.SOCK_DGRAM)
    s.set_proxy(socks.SOCKS5, host, int(port))
    s.settimeout(20)
    told = set()
    for teller in tellers:
        name, _, number = teller.rpartition(":")
        s.sendto(b"where am I?", (name, int(number)))
        told.add(s.recv(100).decode())
    (at,) = told
    name, _, number = at.rpartition(":")
    return s, (name, int(number))
(one, here), (other, there) = end(), end()
for i in range(100):
    for s, to, peer, origin in (one, there, other, here), (other, here, one, there):
        frame = b"%160d" % i
        s.sendto(frame, to)
        got, come = peer.recvfrom(2000)
        if got != frame or come != origin:
            sys.exit("%r came from %s, not %r from %s" % (got, come, frame, origin))
print(*here, *there)
`

func TestCallersBehindTheSameExitTalkToEachOther(t *testing.T) {
	t.Parallel()
	where := func(_ []byte, from netip.AddrPort) []byte { return []byte(from.String()) }
	one, other := answerAtTarget(t, where), answerAtTarget(t, where)
	host, port, _ := net.SplitHostPort(door4)
	out := onClient(t, "", "/usr/bin/python3", "-c", pyCall, host, port, one.String(), other.String())
	var hosts [2]string
	var ports [2]uint16
	_, err := fmt.Sscan(out, &hosts[0], &ports[0], &hosts[1], &ports[1])
	if err != nil || hosts != [2]string{exit4, exit4} || ports[0] == ports[1] {
		t.Errorf("the callers were at %q", out)
	}
}

// TestCoturnFindsNoFilterAtTheExit has coturn judge by RFC 5780, with a STUN server that
// answers from another address and port than it was asked at. What it says of mappings
// is about socksify, which makes an association for each peer.
func TestCoturnFindsNoFilterAtTheExit(t *testing.T) {
	t.Parallel()
	const port, other = "3478", "10.77.2.3"
	if err := ip("-n target addr add " + other + "/24 dev t0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ip("-n target addr del " + other + "/24 dev t0"); err != nil {
			t.Error(err)
		}
	})
	dir := t.TempDir()
	runAtTarget(t, "turnserver", "", "turnserver", "-n", "--stun-only", "--no-tls", "--no-dtls", "--no-cli",
		"-L", target4, "-L", other, "--listening-port", port, "--log-file", "stdout", "--pidfile", filepath.Join(dir, "pid"), "--userdb", filepath.Join(dir, "db"))
	until(t, "a STUN server", func() bool { return targetNS.hears(t, other+":"+port) })
	said := socksify(t, "socks_v5", "", "turnutils_natdiscovery", "-f", "-p", port, target4)
	if !strings.Contains(said, "UDP reflexive addr: "+exit4+":") || !strings.Contains(said, "NAT with Endpoint Independent Filtering!") {
		t.Errorf("it says\n%s", said)
	}
}
