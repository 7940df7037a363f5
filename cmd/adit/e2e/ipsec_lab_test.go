//go:build linux

package e2e

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// Two places that strongSwan connects, in user space. Between the inner addresses it
// protects everything, while there is an association. While there is none, the link
// takes what there is in clear.
//
//	office ── 10.77.8.0/24 ── hub
const (
	officeNS namespace = "office"
	hubNS    namespace = "hub"

	officeOuter, hubOuter = "10.77.8.1", "10.77.8.2"
	officeInner, hubInner = "10.77.18.1", "10.77.28.1"
)

// ipsecLab is both, with what runs there for one test.
type ipsecLab struct {
	t        *testing.T
	dir      string     // with a short name, for Unix sockets
	programs []*program // of adit, in the order in which they were started
	charons  map[namespace]*program
}

// layIPsec makes the two places, with a charon in each that does ESP in user space, and no
// association.
func layIPsec(t *testing.T) *ipsecLab {
	t.Helper()
	l, config := layPlaces(t, "--user-space")
	l.connect(strings.ReplaceAll(config, "start_action = start", "start_action = none"), "kernel-libipsec kernel-netlink") // up starts it
	return l
}

// layPlaces makes the two places, and gives what adit prints for strongSwan there.
func layPlaces(t *testing.T, args ...string) (l *ipsecLab, config string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "ipsec")
	if err != nil {
		t.Fatal(err)
	}
	l = &ipsecLab{t: t, dir: dir, charons: make(map[namespace]*program)}
	t.Cleanup(func() { os.RemoveAll(dir) })
	err = ip(
		"netns add office", "netns add hub",
		"link add o0 netns office type veth peer name h0 netns hub",
		"-n office addr add "+officeOuter+"/24 dev o0", "-n hub addr add "+hubOuter+"/24 dev h0",
		"-n office link set lo up", "-n hub link set lo up", "-n office link set o0 up", "-n hub link set h0 up",
		"-n office addr add "+officeInner+"/32 dev lo", "-n hub addr add "+hubInner+"/32 dev lo",
		"-n office route add "+hubInner+" via "+hubOuter, "-n hub route add "+officeInner+" via "+officeOuter)
	t.Cleanup(func() { _ = ip("netns del office", "netns del hub") }) // as far as they are there
	if err != nil {
		t.Fatal(err)
	}
	return l, adit(t, hubNS, append([]string{"server", "print-strongswan", "--hub", hubOuter, "--partner", officeOuter,
		"--hub-net", hubInner + "/32", "--partner-net", officeInner + "/32", "--hub-id", "hub.test", "--partner-id", "office.test"}, args...)...)
}

// connect starts both charons, with what each is to have of a config.
func (l *ipsecLab) connect(config, kernel string) {
	l.t.Helper()
	atHub, atOffice, both := strings.Cut(config, "# For the partner")
	if !both {
		l.t.Fatalf("there are not both ends in\n%s", config)
	}
	l.charon(hubNS, atHub, kernel)
	l.charon(officeNS, "#"+atOffice, kernel)
}

func (l *ipsecLab) path(name string) string { return filepath.Join(l.dir, name) }

func (l *ipsecLab) vici(ns namespace) string { return l.path(string(ns) + ".vici") }

// charon starts the charon of a place, with plugins that know the kernel, and gives it a config.
func (l *ipsecLab) charon(ns namespace, config, kernel string) {
	l.t.Helper()
	for name, text := range map[string]string{".swanctl": config, ".conf": fmt.Sprintf(`charon {
 load = random nonce aes aesni sha1 sha2 hmac kdf gcm openssl socket-default %s vici
 filelog {
  stderr {
   default = 1
   flush_line = yes
  }
 }
 plugins {
  vici {
   socket = unix://%s
  }
 }
}
`, kernel, l.vici(ns))} {
		if err := os.WriteFile(l.path(string(ns)+name), []byte(text), 0o600); err != nil {
			l.t.Fatal(err)
		}
	}
	// It keeps a file in /run, of which each gets one of its own.
	run := "mount -t tmpfs none /run && STRONGSWAN_CONF=" + l.path(string(ns)+".conf") + " exec /usr/lib/ipsec/charon"
	p, err := launch(ns, l.dir, "charon of "+string(ns), "", "unshare", "-m", "sh", "-c", run)
	if err != nil {
		l.t.Fatal(err)
	}
	l.charons[ns] = p
	l.t.Cleanup(func() {
		p.stop()
		if l.t.Failed() {
			l.t.Logf("charon of %s:\n%s", ns, p.log)
		}
	})
	until(l.t, "charon", func() bool {
		c, err := net.Dial("unix", l.vici(ns))
		if err != nil {
			return false
		}
		c.Close()
		return true
	})
	l.swanctl(ns, "--load-all", "--file", l.path(string(ns)+".swanctl"))
}

func (l *ipsecLab) swanctl(ns namespace, args ...string) (out string) {
	l.t.Helper()
	out, err := l.trySwanctl(ns, args...)
	if err != nil {
		l.t.Fatal(err)
	}
	return out
}

func (l *ipsecLab) trySwanctl(ns namespace, args ...string) (string, error) {
	return ns.output(command(l.t.Context(), l.dir, "/usr/sbin/swanctl", append(args, "--uri", "unix://"+l.vici(ns))...))
}

// up makes the association.
func (l *ipsecLab) up() {
	l.t.Helper()
	l.swanctl(officeNS, "--initiate", "--child", "adit")
}

// down ends the association. What the office tells the hub of that may get lost where a download
// fills sockets, and would be said again for minutes: the hub ends what is left by itself.
func (l *ipsecLab) down() {
	l.t.Helper()
	for _, ns := range []namespace{officeNS, hubNS} {
		until(l.t, "the end of the association at "+string(ns), func() bool {
			if l.swanctl(ns, "--list-sas") == "" {
				return true
			}
			// An error means that it has ended meanwhile.
			_, _ = l.trySwanctl(ns, "--terminate", "--ike", "adit", "--force", "--timeout", "1")
			return false
		})
	}
}

// startHub starts a server at an address of the hub with the user acme, and gives its
// directory. Its config is what init writes between top and end, and then where charon is.
func (l *ipsecLab) startHub(at, top, end string) (dir string) {
	l.t.Helper()
	return l.startHubWith(func(string) {}, at, top, end)
}

// startHubWith is startHub where something more is put into the directory.
func (l *ipsecLab) startHubWith(prepare func(dir string), at, top, end string) (dir string) {
	l.t.Helper()
	dir = l.path("server")
	adit(l.t, hubNS, "server", "init", "--dir", dir, "--listen", at+":8443", "--name", at, "--allow", "private")
	adit(l.t, hubNS, "user", "add", "acme", "--dir", dir)
	l.configure(hubNS, filepath.Join(dir, "server.toml"), top, end)
	prepare(dir)
	l.run(hubNS, "server", "run", "--dir", dir)
	return dir
}

// configure adds lines to a config, and says where charon is; what end says under [ipsec] comes
// last.
func (l *ipsecLab) configure(ns namespace, file, top, end string) {
	l.t.Helper()
	text, err := os.ReadFile(file)
	if err == nil {
		if !strings.Contains(end, "[ipsec]") {
			end += "\n[ipsec]"
		}
		text = fmt.Appendf(nil, "%s\n%s\n%s\nvici = %q\n", top, text, end, l.vici(ns))
		err = os.WriteFile(file, text, 0o600)
	}
	if err != nil {
		l.t.Fatal(err)
	}
}

// run runs an adit until the test ends.
func (l *ipsecLab) run(ns namespace, args ...string) *program {
	l.t.Helper()
	p, err := launch(ns, l.dir, "adit "+strings.Join(args[:2], " "), "ready", shared.binary, args...)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() {
		p.stop()
		if l.t.Failed() {
			l.t.Logf("%s:\n%s", p.log.title, p.log)
		}
	})
	if err := p.waitReady(); err != nil {
		l.t.Fatal(err)
	}
	l.programs = append(l.programs, p)
	return p
}

// watchClear counts the packets of TCP and UDP that an interface sees outside of ESP, by their
// ports, until the test ends.
func (ns namespace) watchClear(t *testing.T, name string) *[1 << 16]atomic.Int64 {
	t.Helper()
	seen := new([1 << 16]atomic.Int64)
	ns.watchWire(t, name, func(p packet) {
		seen[p.from].Add(1)
		seen[p.to].Add(1)
	})
	return seen
}

// packet is one of TCP or UDP that was seen on a wire.
type packet struct {
	from, to uint16 // its ports
	payload  int    // how many bytes of a TCP stream are in it
	reset    bool   // it resets a TCP connection
}

// watchWire shows each packet of TCP and UDP that an interface sees outside of ESP, until the
// test ends.
func (ns namespace) watchWire(t *testing.T, name string, see func(packet)) {
	t.Helper()
	var wire *os.File
	err := ns.do(func() error {
		dev, err := net.InterfaceByName(name)
		if err != nil {
			return err
		}
		all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, int(all))
		if err != nil {
			return err
		}
		wire = os.NewFile(uintptr(fd), name)
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: dev.Index})
	})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		const header = 14
		for b := make([]byte, 1<<16); ; {
			n, err := wire.Read(b)
			if err != nil {
				return
			}
			if n < header+24 || binary.BigEndian.Uint16(b[12:]) != unix.ETH_P_IP {
				continue
			}
			protocol := b[header+9]
			if protocol != unix.IPPROTO_TCP && protocol != unix.IPPROTO_UDP {
				continue
			}
			at := header + 4*int(b[header]&0xf)
			tcp := b[at:]
			end := header + int(binary.BigEndian.Uint16(b[header+2:])) // of the packet, which the link may have filled up
			see(packet{
				from: binary.BigEndian.Uint16(tcp), to: binary.BigEndian.Uint16(tcp[2:]),
				payload: end - at - 4*int(tcp[12]>>4),
				reset:   protocol == unix.IPPROTO_TCP && tcp[13]&4 != 0,
			})
		}
	}()
	t.Cleanup(func() { wire.Close(); <-ended })
}
