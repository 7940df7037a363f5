//go:build linux

package e2e

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestAddressThatChangesAllTheTimeCostsLittle moves the client from one address to
// the next, every five seconds. Nobody tells it that connections from the old one are dead.
func TestAddressThatChangesAllTheTimeCostsLittle(t *testing.T) {
	const every = 5 * time.Second
	moves := sized(4, 24)
	road := newRoad(t, usual(sized(50, 200)))
	l := startLoad(t, atTarget(t), road.throughDoor, loadConfig{streams: 64, ahead: 256 << 10})
	road.waitUntilItMoves(t, l)
	time.Sleep(time.Second)
	still := l.goodput(sized(every, time.Duration(moves)*every))

	before, began := l.moved(), time.Now()
	for i := range moves {
		moved := time.Now()
		if err := road.move(fmt.Sprintf("10.77.3.%d", 2+i)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Until(moved.Add(every)))
		t.Logf("move %d: a stall of %v", i+1, l.longest(moved, time.Now()).Round(time.Millisecond))
	}
	moving := float64(l.moved()-before) / time.Since(began).Seconds()
	t.Logf("%.2f MB/s while it moves, %.2f MB/s while it does not: %.0f %%", moving/1e6, still/1e6, 100*moving/still)
	if *full && moving < 0.8*still {
		t.Error("want 80 % at least")
	}
	if err := l.finish(time.Minute); err != nil {
		t.Error(err)
	}
	l.checkWhole(t)
}

// move gives the roamer another address instead of the one it has. The default
// route follows.
func (r *road) move(address string) error {
	err := ip(
		"-n roamer addr add "+address+"/32 dev wan0",
		"-n roamer route replace default dev wan0 src "+address,
		"-n roamer addr del "+r.address+"/32 dev wan0")
	r.address = address
	return err
}

// TestClientWakesFromSleep stops the client's process, as sleep does, while its
// streams are full.
func TestClientWakesFromSleep(t *testing.T) {
	road := newRoad(t, usual(sized(50, 200)))
	l := startLoad(t, atTarget(t), road.throughDoor, loadConfig{streams: 64, ahead: 256 << 10})
	road.waitUntilItMoves(t, l)
	road.client.signal(t, unix.SIGSTOP)
	time.Sleep(sized(10*time.Second, 2*time.Minute))
	road.client.signal(t, unix.SIGCONT)
	woke := time.Now()
	if err := road.request(); err != nil {
		t.Error("a request after the sleep:", err)
	}
	took := time.Since(woke)
	t.Logf("a request takes %v after the sleep", took.Round(time.Millisecond))
	if took > 2*time.Second {
		t.Error("want 2 s at most")
	}
	road.waitUntilItMoves(t, l)
	t.Logf("streams stand still for %v after the sleep", l.longest(woke, time.Now()).Round(time.Millisecond))
	if err := l.finish(time.Minute); err != nil {
		t.Error(err)
	}
	l.checkWhole(t)
}

// request has something digested at the target.
func (r *road) request() error {
	conns, err := r.throughDoor(net.JoinHostPort(target4, digestPort), 1)
	for _, c := range conns {
		defer c.Close()
	}
	if err != nil {
		return err
	}
	c := conns[0]
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	if _, err := io.WriteString(c, "hello"); err != nil {
		return err
	}
	if err := c.CloseWrite(); err != nil {
		return err
	}
	answer, err := io.ReadAll(c)
	if err == nil && strings.TrimSpace(string(answer)) != digest("hello") {
		err = fmt.Errorf("the target answers %q", answer)
	}
	return err
}

// signal sends a signal to the program alone.
func (p *program) signal(t *testing.T, s unix.Signal) {
	t.Helper()
	if err := unix.Kill(p.cmd.Process.Pid, s); err != nil {
		t.Fatal(err)
	}
}
