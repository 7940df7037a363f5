package ipsec

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// moved is set in the process that runs the tests; the one that was started from
// outside has not got it.
const moved = "ADIT_IPSEC_TEST"

// moveIn runs this test program again in a network namespace of its own, with
// one link that has 10.1.0.1/24 and 2001:db8::1/64. Without root this takes a user
// namespace too.
func moveIn() {
	if os.Getenv(moved) != "" {
		if _, err := net.InterfaceByName("v0"); err == nil {
			return // a process that helps with fuzzing
		}
		// What is mounted stays here; ip keeps the names of namespaces in /run.
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			panic(fmt.Sprintf("keep mounts apart: %v", err))
		}
		if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=755"); err != nil {
			panic(fmt.Sprintf("mount /run: %v", err))
		}
		for _, c := range []string{
			"link set lo up",
			"link add v0 mtu 1500 type veth peer name v1",
			"link set v0 up", "link set v1 up",
			"addr add 10.1.0.1/24 dev v0",
			"addr add 2001:db8::1/64 dev v0 nodad",
			"route add 10.2.0.0/16 via 10.1.0.2",
		} {
			if err := ip(c); err != nil {
				panic(err)
			}
		}
		return
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), moved+"=yes")
	cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
	}
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "FAIL:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// ip runs a command of the program ip.
func ip(command string) error {
	if out, err := exec.Command("ip", strings.Fields(command)...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", command, err, out)
	}
	return nil
}

// load loads policies into the kernel, for as long as the test lasts.
func load(t *testing.T, policies ...string) {
	t.Helper()
	t.Cleanup(func() {
		if err := ip("xfrm policy flush"); err != nil {
			t.Error(err)
		}
	})
	for _, p := range policies {
		if err := ip("xfrm policy add " + p); err != nil {
			t.Fatal(err)
		}
	}
}
