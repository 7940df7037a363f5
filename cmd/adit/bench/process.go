//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	startTimeout = 30 * time.Second
	endTimeout   = 5 * time.Second // after which a process is killed
)

// stage is a directory, and the processes that use it.
type stage struct {
	dir       string
	processes []*process
}

// close ends all processes, the last one first, and waits for them.
func (s *stage) close() {
	for _, p := range slices.Backward(s.processes) {
		p.cancel()
		<-p.ended
	}
}

// process is a program that runs until it is told to end.
type process struct {
	pid    int
	log    string
	cancel context.CancelFunc
	ended  chan struct{}
}

// command is a program with dir as its home, and nothing of the caller's settings.
func command(ctx context.Context, dir string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = dir
	cmd.Env = []string{"HOME=" + dir, "PATH=" + os.Getenv("PATH")}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = endTimeout
	return cmd
}

// start runs a program in dir until the stage is closed, or ctx is done.
func (s *stage) start(ctx context.Context, dir string, args ...string) (*process, error) {
	log, err := os.Create(filepath.Join(dir, fmt.Sprintf("%d.log", len(s.processes))))
	if err != nil {
		return nil, fmt.Errorf("make a log: %w", err)
	}
	defer log.Close()
	ctx, cancel := context.WithCancel(ctx)
	cmd := command(ctx, dir, args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		cancel()
		return nil, fmt.Errorf("start %s: %w", args[0], err)
	}
	p := &process{pid: cmd.Process.Pid, log: log.Name(), cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(p.ended)
		_ = cmd.Wait() // that it ended too soon, its users see
	}()
	s.processes = append(s.processes, p)
	return p, nil
}

// output runs a program in dir to its end.
func output(ctx context.Context, dir, stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	cmd := command(ctx, dir, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", filepath.Base(args[0]), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.String(), nil
}

// until tries until it works, and fails with what the process last said when that has
// ended, or when there is no time left.
func (p *process) until(ctx context.Context, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.ended:
			return fmt.Errorf("it has ended: %s", p.lastWords())
		case <-ctx.Done():
			return fmt.Errorf("it does not get ready: %w: %s", err, p.lastWords())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// listening waits until somebody listens at an address.
func (p *process) listening(ctx context.Context, address string) error {
	return p.until(ctx, func(ctx context.Context) error {
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", address)
		if err != nil {
			return err
		}
		return c.Close()
	})
}

func (p *process) lastWords() string {
	said, _ := os.ReadFile(p.log)
	return string(bytes.TrimSpace(said[max(0, len(said)-1000):]))
}

// usage is what processes have used, with all that they have started.
type usage struct {
	cpu time.Duration // also of children that have ended
	rss int64         // bytes
}

// clockTick is the unit of times in /proc, the same on every Linux that Go runs on.
const clockTick = 10 * time.Millisecond

// usageOf adds up a process and its descendants, such as sshd's for each connection.
func usageOf(roots []*process) (sum usage, err error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return usage{}, err
	}
	children := make(map[int][]int)
	each := make(map[int]usage)
	for _, path := range stats {
		pid, parent, u, err := readStat(path)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // it ended meanwhile
		} else if err != nil {
			return usage{}, err
		}
		children[parent] = append(children[parent], pid)
		each[pid] = u
	}
	var todo []int
	for _, p := range roots {
		if _, found := each[p.pid]; !found {
			return usage{}, fmt.Errorf("a process has ended: %s", p.lastWords())
		}
		todo = append(todo, p.pid)
	}
	for len(todo) > 0 {
		pid := todo[0]
		todo = append(todo[1:], children[pid]...)
		sum.cpu += each[pid].cpu
		sum.rss += each[pid].rss
	}
	return sum, nil
}

// readStat reads a line of /proc/PID/stat, as proc_pid_stat(5) has it.
func readStat(path string) (pid, parent int, u usage, err error) {
	line, err := os.ReadFile(path)
	if err != nil {
		return 0, 0, usage{}, err
	}
	// The name may hold anything, also parentheses.
	end := bytes.LastIndexByte(line, ')')
	fields := strings.Fields(string(line[end+1:]))
	if end < 0 || len(fields) < 22 {
		return 0, 0, usage{}, fmt.Errorf("read %s: too short", path)
	}
	number := func(s string) (n int) {
		n, e := strconv.Atoi(s)
		err = errors.Join(err, e)
		return n
	}
	pid, parent = number(filepath.Base(filepath.Dir(path))), number(fields[1])
	for _, ticks := range fields[11:15] { // user and system, its own and of children that it has waited for
		u.cpu += time.Duration(number(ticks)) * clockTick
	}
	u.rss = int64(number(fields[21])) * int64(os.Getpagesize())
	return pid, parent, u, err
}
