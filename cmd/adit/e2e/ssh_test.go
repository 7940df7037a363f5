//go:build linux

package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// sshSite is a real sshd: one process for each connection, as inetd starts it.
type sshSite struct {
	config string // of sshd
	key    string // the private key that it lets in
}

func newSSHSite(dir string) (sshSite, error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return sshSite{}, err
	}
	for _, name := range []string{"host", "user"} {
		cmd := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, name))
		if out, err := cmd.CombinedOutput(); err != nil {
			return sshSite{}, fmt.Errorf("ssh-keygen: %w: %s", err, out)
		}
	}
	s := sshSite{config: filepath.Join(dir, "sshd_config"), key: filepath.Join(dir, "user")}
	config := strings.Join([]string{
		"HostKey " + filepath.Join(dir, "host"),
		"AuthorizedKeysFile " + filepath.Join(dir, "user.pub"),
		"PermitRootLogin prohibit-password",
		"StrictModes no",
		"UsePAM yes", // without it a root account without password counts as locked
		"PidFile none",
		"SetEnv HOME=" + dir, // no start-up file of the machine's users
	}, "\n")
	return s, os.WriteFile(s.config, []byte(config+"\n"), 0o644)
}

func (s sshSite) serve(c *net.TCPConn) {
	f, err := c.File()
	if err != nil {
		return
	}
	defer f.Close()
	cmd := exec.Command("/usr/sbin/sshd", "-i", "-f", s.config)
	cmd.Stdin, cmd.Stdout = f, f
	_ = cmd.Run() // the status of the last login
}

// options makes ssh come here through a proxy command, with no file of the user's.
func (s sshSite) options(proxyCommand string) []string {
	return []string{
		"-F", "none", "-i", s.key,
		"-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes",
		"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR",
		"-o", "ProxyCommand=" + proxyCommand,
	}
}

func TestOpenSSHLogsInThroughAProxyCommand(t *testing.T) {
	t.Parallel()
	data := randomText(1 << 20)
	for name, command := range map[string]string{
		"nc with SOCKS5":       "nc.openbsd -X 5 -x " + door4 + " %h %p",
		"nc with HTTP CONNECT": "nc.openbsd -X connect -x " + door4 + " %h %p",
		"ncat with SOCKS5":     "ncat --proxy-type socks5 --proxy-dns remote --proxy " + door6 + " %h %p",
	} {
		for _, host := range []string{targetName, target4, target6} {
			t.Run(name+" to "+host, func(t *testing.T) {
				args := append(shared.site.ssh.options(command), "root@"+host, "sha256sum; echo $SSH_CLIENT")
				out := onClient(t, data, "ssh", args...)
				sum, from, _ := strings.Cut(strings.TrimSpace(out), "\n")
				if sum != digest(data)+"  -" {
					t.Errorf("sha256sum at the target says %q", sum)
				}
				if !strings.HasPrefix(from, exit4+" ") && !strings.HasPrefix(from, exit6+" ") {
					t.Errorf("the target sees the client at %q, not at the server's address", from)
				}
			})
		}
	}
}
