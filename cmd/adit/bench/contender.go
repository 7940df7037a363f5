//go:build linux

package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strings"
)

// contender is something that can be measured.
type contender struct {
	name     string
	programs []string // what must be installed
	packages []string // Debian packages that have it
	version  []string // command that says what is installed
	udp      bool     // it carries datagrams
	start    func(context.Context, *stage, string) (endpoint, error)
}

func contenders(adit string) []contender {
	return []contender{
		{name: "direct", udp: true, start: func(context.Context, *stage, string) (endpoint, error) { return endpoint{}, nil }},
		{name: "adit", udp: true, start: func(ctx context.Context, s *stage, dir string) (endpoint, error) { return startAdit(ctx, s, dir, adit) }},
		{name: "bare-tls", start: startBareTLS},
		{
			name: "ssh", programs: []string{"ssh", sshd, "ssh-keygen"}, packages: []string{"openssh-client", "openssh-server"},
			version: []string{"ssh", "-V"}, start: startSSH,
		},
		{
			name: "shadowsocks-libev", programs: []string{"ss-local", "ss-server"}, packages: []string{"shadowsocks-libev"},
			version: []string{"ss-server", "-h"}, udp: true, start: startShadowsocks,
		},
		{
			name: "stunnel", programs: []string{"stunnel", "microsocks"}, packages: []string{"stunnel4", "microsocks"},
			version: []string{"stunnel", "-version"}, start: startStunnel,
		},
	}
}

// titles say more than the names, which are to be typed.
var titles = map[string]string{
	"bare-tls":          "TLS 1.3 in Go and nothing else, a connection per session",
	"ssh":               "ssh -D (aes128-gcm)",
	"shadowsocks-libev": "shadowsocks-libev (chacha20-poly1305)",
	"stunnel":           "stunnel + microsocks",
}

func names(all []contender) (names []string) {
	for _, c := range all {
		names = append(names, c.name)
	}
	return names
}

func (c contender) missing() (programs []string) {
	for _, p := range c.programs {
		if _, err := exec.LookPath(p); err != nil {
			programs = append(programs, p)
		}
	}
	return programs
}

var versioned = regexp.MustCompile(`(?i)[a-z-]+[ _][0-9]+\.[0-9][0-9.p]*`)

// installed says which version there is, as far as the program tells.
func (c contender) installed(ctx context.Context) string {
	if c.version == nil {
		return ""
	}
	out, _ := command(ctx, os.TempDir(), c.version...).CombinedOutput() // some fail, and say it all the same
	return strings.ReplaceAll(versioned.FindString(string(out)), "_", " ")
}

// enter starts the contender, and returns when a session goes through it.
func (c contender) enter(ctx context.Context, s *stage) (endpoint, error) {
	dir := filepath.Join(s.dir, c.name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return endpoint{}, fmt.Errorf("make a directory: %w", err)
	}
	e, err := c.start(ctx, s, dir)
	if err != nil {
		return endpoint{}, err
	}
	e.name, e.udp = c.name, c.udp
	if e.door == "" {
		return e, nil
	}
	t, err := newTarget(ctx, echo)
	if err != nil {
		return endpoint{}, err
	}
	defer t.close()
	return e, e.client[0].until(ctx, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, stepTimeout)
		defer cancel()
		session, err := e.session(ctx, t.address)
		if err != nil {
			return err
		}
		return session.Close()
	})
}

// freeAddress returns an address on loopback at which nobody listens. Somebody else may take it before it
// is used; then its user does not get ready.
func freeAddress() (address, port string, err error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", "", fmt.Errorf("find a free port: %w", err)
	}
	defer ln.Close()
	_, port, err = net.SplitHostPort(ln.Addr().String())
	return ln.Addr().String(), port, err
}

// buildAdit builds the program as `make build` does.
func buildAdit(ctx context.Context, path string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", path, "github.com/adit-net/adit/cmd/adit")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build adit: %w: %s", err, out)
	}
	return nil
}

// startAdit sets it up as the README does, with every default.
func startAdit(ctx context.Context, s *stage, dir, program string) (endpoint, error) {
	listen, _, err := freeAddress()
	if err != nil {
		return endpoint{}, err
	}
	door, _, err := freeAddress()
	if err != nil {
		return endpoint{}, err
	}
	if _, err := output(ctx, dir, "", program, "server", "init", "--name", "localhost", "--listen", listen, "--allow", "loopback"); err != nil {
		return endpoint{}, err
	}
	server, err := s.start(ctx, dir, program, "server", "run")
	if err != nil {
		return endpoint{}, err
	}
	if err := server.listening(ctx, listen); err != nil {
		return endpoint{}, err
	}
	if _, err := output(ctx, dir, "", program, "user", "add", "alice"); err != nil {
		return endpoint{}, err
	}
	invite, err := output(ctx, dir, "", program, "invite", "alice")
	if err != nil {
		return endpoint{}, err
	}
	if _, err := output(ctx, dir, invite, program, "join", "-"); err != nil {
		return endpoint{}, err
	}
	client, err := s.start(ctx, dir, program, "client", "run", "--door", door)
	return endpoint{door: door, client: []*process{client}, server: []*process{server}}, err
}

const sshd = "/usr/sbin/sshd" // which wants to be called by its whole path

func startSSH(ctx context.Context, s *stage, dir string) (endpoint, error) {
	listen, port, err := freeAddress()
	if err != nil {
		return endpoint{}, err
	}
	door, _, err := freeAddress()
	if err != nil {
		return endpoint{}, err
	}
	me, err := user.Current()
	if err != nil {
		return endpoint{}, fmt.Errorf("find out who runs this: %w", err)
	}
	if os.Getuid() == 0 {
		// sshd's start script makes it, where there is one.
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			return endpoint{}, fmt.Errorf("make sshd's directory: %w", err)
		}
	}
	for _, name := range []string{"host", "user"} {
		if _, err := output(ctx, dir, "", "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, name)); err != nil {
			return endpoint{}, err
		}
	}
	server, err := s.start(ctx, dir, sshd, "-D", "-e", "-f", "/dev/null", "-p", port,
		"-o", "ListenAddress=127.0.0.1", "-o", "HostKey="+filepath.Join(dir, "host"),
		"-o", "AuthorizedKeysFile="+filepath.Join(dir, "user.pub"), "-o", "StrictModes=no",
		"-o", "UsePAM=yes", // without it a root account without password counts as locked
		"-o", "PermitRootLogin=prohibit-password", "-o", "PidFile=none", "-o", "Ciphers="+sshCipher)
	if err != nil {
		return endpoint{}, err
	}
	if err := server.listening(ctx, listen); err != nil {
		return endpoint{}, err
	}
	client, err := s.start(ctx, dir, "ssh", "-N", "-D", door, "-F", "none", "-p", port, "-i", filepath.Join(dir, "user"),
		"-c", sshCipher, "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "ExitOnForwardFailure=yes",
		"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", me.Username+"@127.0.0.1")
	return endpoint{door: door, client: []*process{client}, server: []*process{server}}, err
}

const sshCipher = "aes128-gcm@openssh.com"

func startShadowsocks(ctx context.Context, s *stage, dir string) (endpoint, error) {
	_, port, err := freeAddress()
	if err != nil {
		return endpoint{}, err
	}
	door, doorPort, err := freeAddress()
	if err != nil {
		return endpoint{}, err
	}
	// Its AES is four times as slow: it makes no use of what the processor has for that.
	both := []string{"-s", "127.0.0.1", "-p", port, "-k", "bench", "-m", "chacha20-ietf-poly1305", "-u"}
	server, err := s.start(ctx, dir, append([]string{"ss-server"}, both...)...)
	if err != nil {
		return endpoint{}, err
	}
	client, err := s.start(ctx, dir, append([]string{"ss-local", "-b", "127.0.0.1", "-l", doorPort}, both...)...)
	return endpoint{door: door, client: []*process{client}, server: []*process{server}}, err
}

func startStunnel(ctx context.Context, s *stage, dir string) (endpoint, error) {
	var addresses [3]string
	var port string
	for i := range addresses {
		var err error
		if addresses[i], port, err = freeAddress(); err != nil {
			return endpoint{}, err
		}
	}
	door, middle, inner := addresses[0], addresses[1], addresses[2]
	cert, key, err := makeCertificate(dir)
	if err != nil {
		return endpoint{}, err
	}
	const common = "foreground = yes\npid =\ndebug = err\nsslVersion = TLSv1.3\nsocket = l:TCP_NODELAY=1\nsocket = r:TCP_NODELAY=1\n[socks]\n"
	for name, text := range map[string]string{
		"server.conf": "accept = " + middle + "\nconnect = " + inner + "\ncert = " + cert + "\nkey = " + key + "\n",
		"client.conf": "client = yes\naccept = " + door + "\nconnect = " + middle + "\nCAfile = " + cert + "\nverifyPeer = yes\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(common+text), 0o600); err != nil {
			return endpoint{}, fmt.Errorf("configure stunnel: %w", err)
		}
	}
	var processes []*process
	for _, args := range [][]string{
		{"microsocks", "-i", "127.0.0.1", "-p", port},
		{"stunnel", filepath.Join(dir, "server.conf")},
		{"stunnel", filepath.Join(dir, "client.conf")},
	} {
		p, err := s.start(ctx, dir, args...)
		if err != nil {
			return endpoint{}, err
		}
		processes = append(processes, p)
	}
	return endpoint{door: door, client: processes[2:], server: processes[:2]}, nil
}
