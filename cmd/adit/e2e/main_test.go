//go:build linux

// Package e2e holds no code but tests: real programs (curl, ssh, git, a
// browser …) reach a target through a real adit client and server, each of the
// three in a network namespace of its own:
//
//	client ── 10.77.1.0/24, fd77:1::/64 ── server ── 10.77.2.0/24, fd77:2::/64 ── target
//
// The client has no route to the target and its name server knows the server's
// names alone. So whatever arrives at the target came through the tunnel.
//
// The tests need root, or sudo without a password, and the Debian packages that
// `make packages` installs.
package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// dirVar names the directory of this run, with the adit program in it, to the
// test process inside the namespaces. The one outside does not have it.
const dirVar = "ADIT_E2E_DIR"

// shared is the lab that all tests use. TestMain alone sets it.
var shared *lab

func TestMain(m *testing.M) {
	run := runOutside
	if dir := os.Getenv(dirVar); dir != "" {
		run = func() (int, error) { return runInside(m, dir) }
	}
	code, err := run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "FAIL:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// runOutside builds adit and runs this test program again in new mount, network
// and process namespaces. Nothing that happens there is seen outside, and when
// the inner test process ends, in whatever way, the kernel ends all that it
// started and removes the namespaces.
func runOutside() (int, error) {
	dir, err := os.MkdirTemp("", "adit-e2e-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		return 1, err
	}
	if err := build(filepath.Join(dir, "adit")); err != nil {
		return 1, err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	cmd, err := insideCommand(ctx, dir)
	if err != nil {
		return 1, err
	}
	// The death signal comes when the thread that started the program ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err = cmd.Run()
	if cmd.ProcessState != nil && cmd.ProcessState.ExitCode() > 0 {
		return cmd.ProcessState.ExitCode(), nil // it has said why
	}
	return 0, err
}

// insideCommand runs this test program in namespaces, as root.
func insideCommand(ctx context.Context, dir string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	caches, err := exec.Command("go", "env", "GOCACHE", "GOMODCACHE").Output()
	if err != nil {
		return nil, fmt.Errorf("go env: %w", err)
	}
	build, modules, _ := strings.Cut(strings.TrimSpace(string(caches)), "\n")
	args := []string{
		"env", "PATH=" + os.Getenv("PATH") + ":/usr/sbin:/sbin", "GOCACHE=" + build, "GOMODCACHE=" + modules, dirVar + "=" + dir,
		"unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--", self,
	}
	if os.Geteuid() != 0 {
		if err := exec.Command("sudo", "-n", "true").Run(); err != nil {
			return nil, fmt.Errorf("network namespaces need root, or sudo without a password: %w", err)
		}
		args = slices.Concat([]string{"sudo", "-n"}, args)
	}
	cmd := exec.CommandContext(ctx, args[0], slices.Concat(args[1:], os.Args[1:])...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd, nil
}

// build compiles adit, with the race detector if this test program has it and no
// flag says otherwise.
func build(binary string, flags ...string) error {
	args := []string{"build", "-o", binary}
	if raced() {
		args = append(args, "-race")
	}
	args = slices.Concat(args, flags, []string{"github.com/adit-net/adit/cmd/adit"})
	out, err := exec.Command("go", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("build adit: %w\n%s", err, out)
	}
	return nil
}

// raced tells whether this test program has the race detector.
func raced() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// runInside sets up the lab, runs the tests, and in the end looks at what no
// single test can see: which names were asked for beside the tunnel.
func runInside(m *testing.M, dir string) (int, error) {
	shared = &lab{dir: filepath.Join(dir, "lab"), binary: filepath.Join(dir, "adit")}
	defer os.RemoveAll(shared.dir)
	defer shared.close()
	if err := shared.open(); err != nil {
		shared.printLogs(os.Stderr)
		return 1, fmt.Errorf("set up the lab: %w", err)
	}
	code := m.Run()
	if code != 0 {
		shared.printLogs(os.Stderr)
	}
	if names := shared.askedOutside(); len(names) > 0 {
		return 1, fmt.Errorf("somebody asked beside the tunnel for %s", strings.Join(names, ", "))
	}
	return code, nil
}
