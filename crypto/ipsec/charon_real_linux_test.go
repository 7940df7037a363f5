package ipsec

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// strongSwan is two charons that do ESP in user space, one here and one in a
// namespace behind a link. Between them, 10.77.10.1 and 10.77.20.1 are to be
// protected.
type strongSwan struct {
	t       *testing.T
	dir     string
	running map[string]*os.Process
}

const (
	outerHere, outerThere         = "10.77.1.1", "10.77.1.2"
	protectedHere, protectedThere = "10.77.10.1", "10.77.20.1"

	// What is protected there: some ports of TCP and one of UDP.
	portsThere = protectedThere + "/32[tcp/8000-8999]," + protectedThere + "/32[udp/domain]"

	// charonsMark tells charon's packets apart, which must not go into the tunnel
	// that they make.
	charonsMark = 0x42
)

// startStrongSwan starts both, which protect traffic between these selectors.
func startStrongSwan(t *testing.T, here, there string) *strongSwan {
	t.Helper()
	dir, err := os.MkdirTemp("", "adit") // a Unix socket's path may not be long
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &strongSwan{t: t, dir: dir, running: map[string]*os.Process{}}
	for _, c := range []string{
		"netns add there",
		"link add c0 type veth peer name c1 netns there",
		"addr add " + outerHere + "/24 dev c0", "link set c0 up", "addr add " + protectedHere + "/32 dev lo",
		"-n there addr add " + outerThere + "/24 dev c1", "-n there link set c1 up", "-n there link set lo up",
		"-n there addr add " + protectedThere + "/32 dev lo",
		"route add " + protectedThere + " via " + outerThere + " src " + protectedHere,
	} {
		if err := ip(c); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		for _, c := range []string{"link del c0", "netns del there", "addr del " + protectedHere + "/32 dev lo"} {
			if err := ip(c); err != nil {
				t.Error(err)
			}
		}
	})
	s.charon("there", outerThere, outerHere, there, here)
	s.charon("here", outerHere, outerThere, here, there)
	return s
}

func (s *strongSwan) path(name string) string { return filepath.Join(s.dir, name) }
func (s *strongSwan) vici(side string) string { return s.path(side + ".vici") }

// charon starts one side's, for as long as the test lasts, and tells it what to
// protect.
func (s *strongSwan) charon(side, local, remote, localTS, remoteTS string) {
	s.t.Helper()
	s.write(side+".conf", fmt.Sprintf(`charon {
 load = random nonce aes sha1 sha2 hmac kdf gcm openssl socket-default kernel-libipsec kernel-netlink vici
 filelog {
  stdout {
   default = 1
   flush_line = yes
  }
 }
 plugins {
  kernel-libipsec {
   allow_peer_ts = yes
  }
  kernel-netlink {
   fwmark = !%#[2]x
  }
  socket-default {
   fwmark = %#[2]x
  }
  vici {
   socket = unix://%[1]s
  }
 }
}
`, s.vici(side), charonsMark))
	s.write(side+".swanctl", fmt.Sprintf(`connections {
 t {
  version = 2
  local_addrs = %s
  remote_addrs = %s
  proposals = aes128gcm16-prfsha256-x25519
  encap = yes
  local {
   auth = psk
   id = %s.test
  }
  remote {
   auth = psk
  }
  children {
   c {
    local_ts = %s
    remote_ts = %s
    esp_proposals = aes128gcm16-x25519
   }
  }
 }
}
secrets {
 ike-1 {
  secret = "not a secret"
 }
}
`, local, remote, side, localTS, remoteTS))
	// It keeps a file in /run, of which each gets one of its own.
	run := `mount -t tmpfs none /run && exec /usr/lib/ipsec/charon`
	args := []string{"sh", "-c", run}
	if side == "there" {
		args = append([]string{"ip", "netns", "exec", "there"}, args...)
	}
	var log bytes.Buffer
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "STRONGSWAN_CONF="+s.path(side+".conf"))
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.running[side] = cmd.Process
	s.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		stop := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
		defer stop.Stop()
		_ = cmd.Wait()
		if s.t.Failed() {
			s.t.Logf("charon %s:\n%s", side, log.String())
		}
	})
	s.await("charon", func() bool {
		v, err := dialVICI(s.t.Context(), s.vici(side))
		if err != nil {
			return false
		}
		v.close()
		return true
	})
	s.swanctl(side, "--load-all", "--file", s.path(side+".swanctl"))
}

// kill ends one side's charon without a chance to say so.
func (s *strongSwan) kill(side string) {
	s.t.Helper()
	if err := s.running[side].Kill(); err != nil {
		s.t.Fatal(err)
	}
}

func (s *strongSwan) write(name, content string) {
	s.t.Helper()
	if err := os.WriteFile(s.path(name), []byte(content), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func (s *strongSwan) swanctl(side string, args ...string) string {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "/usr/sbin/swanctl", append(args, "--uri", "unix://"+s.vici(side))...).CombinedOutput()
	if err != nil {
		s.t.Fatalf("swanctl %v: %v: %s", args, err, out)
	}
	return string(out)
}

// await waits for what nothing tells of.
func (s *strongSwan) await(what string, there func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !there(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("%s is not there after 30 s", what)
		}
	}
}

func TestStrongSwanInUserSpaceIsSeen(t *testing.T) {
	s := startStrongSwan(t, protectedHere+"/32", portsThere)
	d := &Detector{VICI: s.vici("here")}
	look := func(p Path) Protection {
		t.Helper()
		got, err := d.Look(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	web := Path{Remote: netip.MustParseAddrPort(protectedThere + ":8080")}
	if got := look(web); got.Protected() {
		t.Errorf("before there is an association: %+v", got)
	}

	began := time.Now().Truncate(time.Second)
	s.swanctl("here", "--initiate", "--child", "c")
	got := look(web)
	if got.Since.Before(began.Add(-2*time.Second)) || got.Since.After(time.Now().Add(time.Second)) {
		t.Errorf("it began at %v, not after %v", got.Since, began)
	}
	got.Since, got.hold = time.Time{}, hold{}
	gcm := Suite{Cipher: "aes-gcm", KeyBits: 128}
	if want := (Protection{Mechanism: Userspace, Mode: Tunnel, Out: gcm, In: gcm, NATT: true, Peer: "there.test", MTU: 1400}); got != want {
		t.Errorf("%+v, not %+v\n%s", got, want, s.swanctl("here", "--list-sas", "--raw"))
	}
	for p, want := range map[Path]Mechanism{
		{Remote: netip.MustParseAddrPort(protectedThere + ":9000")}:                                                          None,
		{Remote: netip.MustParseAddrPort(protectedThere + ":0")}:                                                             None,
		{Remote: netip.MustParseAddrPort(protectedThere + ":53"), UDP: true}:                                                 Userspace,
		{Remote: netip.MustParseAddrPort(protectedThere + ":53")}:                                                            None,
		{Remote: netip.MustParseAddrPort(protectedThere + ":8080"), Local: netip.MustParseAddrPort(protectedHere + ":1234")}: Userspace,
		{Remote: netip.MustParseAddrPort(protectedThere + ":8080"), Local: netip.MustParseAddrPort(outerHere + ":1234")}:     None,
		{Remote: netip.MustParseAddrPort(outerThere + ":8080")}:                                                              None,
	} {
		if got := look(p); got.Mechanism != want {
			t.Errorf("%+v: %+v, not %q", p, got, want)
		}
	}

	s.swanctl("here", "--terminate", "--ike", "t")
	if got := look(web); got.Protected() {
		t.Errorf("after the association has ended: %+v", got)
	}
}

// Between the very addresses that ESP itself goes between, the mark of a socket
// decides.
func TestMarkDecidesBetweenTheGatewaysThemselves(t *testing.T) {
	s := startStrongSwan(t, outerHere+"/32", outerThere+"/32")
	d := &Detector{VICI: s.vici("here")}
	s.swanctl("here", "--initiate", "--child", "c")
	for mark, want := range map[uint32]Mechanism{0: Userspace, 7: Userspace, charonsMark: None} {
		got, err := d.Look(t.Context(), Path{Remote: netip.MustParseAddrPort(outerThere + ":80"), Mark: mark})
		if err != nil {
			t.Fatal(err)
		}
		if got.Mechanism != want || got.Protected() && got.MTU != 1400 {
			t.Errorf("with mark %#x: %+v, not %q", mark, got, want)
		}
	}
}

// When an association ends, its route goes, and packets would continue in clear.
func TestEndOfAssociationIsToldWithinASecond(t *testing.T) {
	s := startStrongSwan(t, protectedHere+"/32", portsThere)
	web := Path{Remote: netip.MustParseAddrPort(protectedThere + ":8080")}
	calls := followed(t, &Detector{VICI: s.vici("here")}, web)
	protected := func(p Protection) bool { return p.Protected() }
	clear := func(p Protection) bool { return !p.Protected() }
	await(t, calls, 30*time.Second, "that there is none yet", clear)

	for _, end := range []struct {
		title string
		do    func()
	}{
		{"here", func() { s.swanctl("here", "--terminate", "--ike", "t") }},
		{"there", func() { s.swanctl("there", "--terminate", "--ike", "t") }},
		{"with charon", func() { s.kill("here") }},
	} {
		s.swanctl("here", "--initiate", "--child", "c")
		await(t, calls, 30*time.Second, "the association before its end "+end.title, protected)
		end.do()
		await(t, calls, time.Second, "the association's end "+end.title, clear)
	}
}
