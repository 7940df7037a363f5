//go:build linux

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
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

// build is a program of adit.
type build struct {
	name    string
	program string // empty: it is built when it is started
}

const today = "adit" // the name of the build that is always there

var plain = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]*$`)

// parseBuild reads NAME=PROGRAM, or PROGRAM alone.
func parseBuild(text string) (build, error) {
	name, program, named := strings.Cut(text, "=")
	if !named {
		name, program = today, text
	}
	if !plain.MatchString(name) {
		return build{}, fmt.Errorf("%q is no name of lower-case letters, digits, points and hyphens", name)
	}
	if _, err := os.Stat(program); err != nil {
		return build{}, err
	}
	program, err := filepath.Abs(program) // it runs elsewhere
	return build{name, program}, err
}

// contenders are all that can be measured, with adit as built from here and other builds.
func contenders(builds []build) []contender {
	all := []contender{{
		name: "direct", udp: true,
		start: func(context.Context, *stage, string) (endpoint, error) { return endpoint{}, nil },
	}}
	if !slices.ContainsFunc(builds, func(b build) bool { return b.name == today }) {
		builds = append([]build{{name: today}}, builds...)
	}
	for _, b := range builds {
		all = append(all, contender{name: b.name, udp: true, start: b.start})
	}
	return append(
		all,
		contender{name: "bare-tls", start: startBareTLS},
		contender{
			name: "ssh", programs: []string{"ssh", sshd, "ssh-keygen"}, packages: []string{"openssh-client", "openssh-server"},
			version: []string{"ssh", "-V"}, start: startSSH,
		},
		contender{
			name: "shadowsocks-libev", programs: []string{"ss-local", "ss-server"}, packages: []string{"shadowsocks-libev"},
			version: []string{"ss-server", "-h"}, udp: true, start: startShadowsocks,
		},
		contender{
			name: "stunnel-microsocks", programs: []string{"stunnel", "microsocks"}, packages: []string{"stunnel4", "microsocks"},
			version: []string{"stunnel", "-version"}, start: startStunnel(microsocks),
		},
		contender{
			name: "stunnel-dante", programs: []string{"stunnel", danted}, packages: []string{"stunnel4", "dante-server"},
			version: []string{danted, "-v"}, start: startStunnel(dante),
		},
	)
}

// titles say more than the names, which are to be typed.
var titles = map[string]string{
	"bare-tls":           "TLS 1.3 in Go and nothing else, a connection per session",
	"ssh":                "ssh -D (aes128-gcm)",
	"shadowsocks-libev":  "shadowsocks-libev (chacha20-poly1305)",
	"stunnel-microsocks": "stunnel + microsocks",
	"stunnel-dante":      "stunnel + Dante",
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

var versioned = regexp.MustCompile(`(?i)[a-z-]+[ _]v?[0-9]+(\.[0-9p]+)+`)

// installed says which version there is, as far as the program tells.
func (c contender) installed(ctx context.Context) string {
	if c.version == nil {
		return ""
	}
	out, _ := command(ctx, os.TempDir(), c.version...).CombinedOutput() // some fail, and say it all the same
	return strings.NewReplacer("_", " ", " v", " ").Replace(versioned.FindString(string(out)))
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
	e.contender = c
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

// freeAddress returns an address on loopback at which nobody listens. Its port is below those that systems
// give to connections, so that it stays free until it is used, unless somebody asks for it.
func freeAddress() (address, port string, err error) {
	for range 100 {
		port = strconv.Itoa(20_000 + rand.IntN(10_000))
		var ln net.Listener
		if ln, err = net.Listen("tcp", "127.0.0.1:"+port); err == nil {
			return ln.Addr().String(), port, ln.Close()
		}
	}
	return "", "", fmt.Errorf("find a free port: %w", err)
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

// start sets it up as the README does, with every default.
func (b build) start(ctx context.Context, s *stage, dir string) (endpoint, error) {
	program := b.program
	if program == "" {
		program = filepath.Join(dir, "program")
		if err := buildAdit(ctx, program); err != nil {
			return endpoint{}, err
		}
	}
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
