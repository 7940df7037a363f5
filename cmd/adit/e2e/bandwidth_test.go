//go:build linux

package e2e

import (
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const (
	exitPort  = "8460" // of the server whose bandwidth is limited
	exitTotal = 100.0  // Mbit/s
)

// customer is a user of a limited exit, with a client of his own.
type customer struct {
	name     string
	limits   []string // of adit user set
	flows    int      // of TCP; 0: it is datagrams
	fair     float64  // Mbit/s, of exitTotal if all want as much as they can get
	equal    bool     // to others who are
	door     string
	received atomic.Int64
	conns    []net.Conn
	measured float64
}

// customers share 100 Mbit/s: 48.936 of them are nobody's, as some take less than
// others leave, and six share these.
func customers() []*customer {
	const part = 48.936 / 6
	return []*customer{
		{name: "guaranteed30", limits: []string{"--rate-down", "30 Mbit/s"}, flows: 3, fair: 30 + part},
		{name: "datagrams", limits: []string{"--rate-down", "10 Mbit/s", "--ceiling-down", "10 Mbit/s"}, fair: 10},
		{name: "from5to8", limits: []string{"--rate-down", "5 Mbit/s", "--ceiling-down", "8 Mbit/s"}, flows: 2, fair: 8},
		{name: "upto1", limits: []string{"--ceiling-down", "1 Mbit/s"}, flows: 1, fair: 1},
		{name: "modem", limits: []string{"--ceiling-down", "64 kbit/s"}, flows: 1, fair: 0.064},
		{name: "guaranteed2", limits: []string{"--rate-down", "2 Mbit/s"}, flows: 1, fair: 2 + part},
		{name: "one", flows: 1, fair: part, equal: true},
		{name: "another", flows: 1, fair: part, equal: true},
		{name: "many", flows: sized(50, 1000), fair: part, equal: true},
		{name: "typist", flows: 4, fair: part, equal: true},
	}
}

// newLimitedExit starts a server whose bandwidth is limited, and a client of each
// customer's.
func newLimitedExit(t *testing.T, all []*customer) {
	t.Helper()
	dir := shared.path("limited-server")
	adit(t, serverNS, "server", "init", "--dir", dir, "--listen", ":"+exitPort, "--name", server4+":"+exitPort, "--allow", "private")
	config, err := os.OpenFile(filepath.Join(dir, "server.toml"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = fmt.Fprintf(config, "\n[bandwidth]\ntotal_down = \"%v Mbit/s\"\n[limits]\nstreams_per_session = 2000\n", exitTotal)
	if err != nil || config.Close() != nil {
		t.Fatal(err)
	}
	programs := new(road)
	programs.launch(t, serverNS, "the limited server", "server", "run", "--dir", dir)
	for i, c := range all {
		adit(t, serverNS, "user", "add", c.name, "--dir", dir)
		if len(c.limits) > 0 {
			adit(t, serverNS, append([]string{"user", "set", c.name, "--dir", dir}, c.limits...)...)
		}
		own := shared.path("limited-" + c.name)
		adit(t, clientNS, "join", "--dir", own, adit(t, serverNS, "invite", c.name, "--dir", dir))
		c.door = "127.0.0.1:" + strconv.Itoa(2000+i)
		programs.launch(t, clientNS, c.name+"'s client", "client", "run", "--dir", own, "--door", c.door)
	}
}

// fountain is a target that sends without end to whoever says 'd', and sends back
// all that others say.
func fountain(t *testing.T) string {
	t.Helper()
	ln, err := targetNS.listen(net.JoinHostPort(target4, "0"))
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer c.Close()
				var kind [1]byte
				if _, err := io.ReadFull(c, kind[:]); err != nil {
					return
				}
				if kind[0] != 'd' {
					_, _ = io.Copy(c, c)
					return
				}
				for b := make([]byte, 64<<10); ; {
					if _, err := c.Write(b); err != nil {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() { ln.Close(); serving.Wait() })
	return ln.Addr().String()
}

// open opens a connection through the customer's client, and says what it is for.
func (c *customer) open(t *testing.T, target, kind string) net.Conn {
	t.Helper()
	var conn net.Conn
	err := clientNS.do(func() (err error) { conn, err = net.Dial("tcp", c.door); return err })
	if err == nil {
		c.conns = append(c.conns, conn)
		err = askDoor(conn.(*net.TCPConn), target)
	}
	if err == nil {
		_, err = io.WriteString(conn, kind)
	}
	if err != nil {
		t.Fatal(c.name, err)
	}
	return conn
}

// download has the customer's flows receive what they can.
func (c *customer) download(t *testing.T, target string, running *sync.WaitGroup) {
	t.Helper()
	if c.flows == 0 {
		c.rain(t, running)
		return
	}
	for range c.flows {
		conn := c.open(t, target, "d")
		running.Go(func() {
			for b := make([]byte, 64<<10); ; {
				n, err := conn.Read(b)
				c.received.Add(int64(n))
				if err != nil {
					return
				}
			}
		})
	}
}

// rain has the customer's app receive datagrams, of which a target sends 20 Mbit/s.
func (c *customer) rain(t *testing.T, running *sync.WaitGroup) {
	t.Helper()
	from := targetNS.listenUDP(t, target4+":0")
	var door net.Conn
	if err := clientNS.do(func() (err error) { door, err = net.Dial("tcp", c.door); return err }); err != nil {
		t.Fatal(err)
	}
	relay, err := askForRelay(door)
	if err != nil {
		t.Fatal(err)
	}
	app := clientNS.listenUDP(t, "127.0.0.1:0")
	c.conns = append(c.conns, door, from, app)
	target := from.LocalAddr().(*net.UDPAddr).AddrPort()
	if _, err := app.WriteToUDPAddrPort(append(socks5Header(target), 'd'), relay); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1250)
	_ = from.SetReadDeadline(time.Now().Add(time.Minute))
	_, exit, err := from.ReadFromUDPAddrPort(b)
	if err != nil {
		t.Fatal(err)
	}
	running.Go(func() {
		began, sent := time.Now(), 0
		for ; ; time.Sleep(2 * time.Millisecond) {
			for ; sent < int(time.Since(began)/(500*time.Microsecond)); sent++ {
				if _, err := from.WriteToUDPAddrPort(b, exit); err != nil {
					return
				}
			}
		}
	})
	running.Go(func() {
		for b := make([]byte, 2000); ; {
			n, err := app.Read(b)
			if err != nil {
				return
			}
			c.received.Add(int64(n - len(socks5Header(target))))
		}
	})
}

// echoes measures round trips of a few bytes.
func echoes(t *testing.T, conn net.Conn, n int) (trips []time.Duration) {
	t.Helper()
	b := make([]byte, 100)
	for range n {
		began := time.Now()
		if _, err := conn.Write(b); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, b); err != nil {
			t.Fatal(err)
		}
		trips = append(trips, time.Since(began))
		time.Sleep(20 * time.Millisecond)
	}
	return trips
}

// TestTenUsersShareAnExitAsTheyAreMeantTo measures what users get who all want as
// much as they can get. Nobody gets more than he may, whatever else the machine does;
// the other figures hold where it does nothing else.
func TestTenUsersShareAnExitAsTheyAreMeantTo(t *testing.T) {
	all := customers()
	newLimitedExit(t, all)
	target := fountain(t)
	var running sync.WaitGroup
	t.Cleanup(func() {
		for _, c := range all {
			for _, conn := range c.conns {
				conn.Close()
			}
		}
		running.Wait()
	})
	typist := all[len(all)-1].open(t, target, "e")
	count := sized(100, 500)
	idle := quantile(echoes(t, typist, count), 0.99)
	for _, c := range all {
		c.download(t, target, &running)
	}
	// Until what the way there holds is full.
	time.Sleep(sized(time.Second, 5*time.Second))
	before := make([]int64, len(all))
	began := time.Now()
	for i, c := range all {
		before[i] = c.received.Load()
	}
	busy := quantile(echoes(t, typist, count), 0.99)
	took := time.Since(began)
	judge(t, all, before, took)
	t.Logf("over %v; echoes beside it: p99 %v, alone %v", took.Round(time.Millisecond), busy, idle)
	if *full && busy > idle+30*time.Millisecond {
		t.Errorf("p99 of echoes is %v, and %v alone", busy, idle)
	}
}

func judge(t *testing.T, all []*customer, before []int64, took time.Duration) {
	t.Helper()
	var total, sum, squares, equals float64
	for i, c := range all {
		c.measured = float64(c.received.Load()-before[i]) * 8 / 1e6 / took.Seconds()
		total += c.measured
		t.Logf("%-12s %4d flows: %7.3f Mbit/s, fair are %7.3f (%+.1f %%)", c.name, c.flows, c.measured, c.fair, 100*(c.measured/c.fair-1))
		if *full && math.Abs(c.measured-c.fair) > 0.05*c.fair {
			t.Errorf("%s gets %.3f Mbit/s, fair are %.3f", c.name, c.measured, c.fair)
		}
		if c.equal {
			sum, squares, equals = sum+c.measured, squares+c.measured*c.measured, equals+1
		}
	}
	index := sum * sum / (equals * squares)
	t.Logf("in all %.3f Mbit/s; Jain's index of equals: %.5f", total, index)
	if *full && index < 0.99 {
		t.Errorf("Jain's index is %.5f", index)
	}
	if total > 1.1*exitTotal {
		t.Errorf("%.3f Mbit/s pass an exit of %v", total, exitTotal)
	}
}
