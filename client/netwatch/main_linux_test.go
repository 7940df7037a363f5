package netwatch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Which part a process of this test program plays: the tests themselves, or a
// client that is stopped. The one that was started from outside has none.
const (
	role      = "ADIT_NETWATCH_TEST"
	tester    = "tester"
	stoppable = "stoppable"
)

// moveIn runs this test program again in a network namespace of its own, where
// links come and go without anybody else seeing it. Without root this takes a
// user namespace too.
func moveIn() {
	switch os.Getenv(role) {
	case tester:
		if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
			panic(fmt.Sprintf("set lo up: %v: %s", err, out))
		}
		return
	case stoppable:
		Watch(context.Background(), Events{
			Changed: func() { fmt.Println("changed") },
			Woke:    func(slept time.Duration) { fmt.Println("slept", slept) },
		})
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), role+"="+tester)
	cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL}
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
