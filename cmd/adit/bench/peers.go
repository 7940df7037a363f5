//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
)

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

const danted = "/usr/sbin/danted" // it is not in everybody's PATH

// socksServer returns how one is started that listens at a port of loopback.
type socksServer func(dir, port string) (args []string, err error)

func microsocks(_, port string) ([]string, error) {
	return []string{"microsocks", "-i", "127.0.0.1", "-p", port}, nil
}

func dante(dir, port string) ([]string, error) {
	// In this order: addresses before methods, rules last.
	text := "logoutput: stderr\ninternal: 127.0.0.1 port = " + port + `
external: 127.0.0.1
clientmethod: none
socksmethod: none
client pass { from: 127.0.0.0/8 to: 127.0.0.0/8 }
socks pass { from: 127.0.0.0/8 to: 127.0.0.0/8 }
`
	config := filepath.Join(dir, "danted.conf")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, fmt.Errorf("configure Dante: %w", err)
	}
	return []string{danted, "-f", config, "-p", filepath.Join(dir, "danted.pid")}, nil
}

// startStunnel puts TLS before a server of SOCKS.
func startStunnel(socks socksServer) func(context.Context, *stage, string) (endpoint, error) {
	return func(ctx context.Context, s *stage, dir string) (endpoint, error) {
		var addresses, ports [3]string
		for i := range addresses {
			var err error
			if addresses[i], ports[i], err = freeAddress(); err != nil {
				return endpoint{}, err
			}
		}
		inner, middle, door := addresses[0], addresses[1], addresses[2]
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
		inside, err := socks(dir, ports[0])
		if err != nil {
			return endpoint{}, err
		}
		var processes []*process
		for i, args := range [][]string{
			inside,
			{"stunnel", filepath.Join(dir, "server.conf")},
			{"stunnel", filepath.Join(dir, "client.conf")},
		} {
			p, err := s.start(ctx, dir, args...)
			if err != nil {
				return endpoint{}, err
			}
			if err := p.listening(ctx, addresses[i]); err != nil {
				return endpoint{}, fmt.Errorf("%s: %w", filepath.Base(args[0]), err)
			}
			processes = append(processes, p)
		}
		return endpoint{door: door, client: processes[2:], server: processes[:2]}, nil
	}
}
