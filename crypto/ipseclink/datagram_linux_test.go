package ipseclink

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// passage is one whose size the test sets.
type passage struct{ mtu, stopped atomic.Int64 }

func newPassage(mtu int64) *passage {
	p := new(passage)
	p.mtu.Store(mtu)
	return p
}

func (p *passage) MTU() int { return int(p.mtu.Load()) }
func (p *passage) Stop()    { p.stopped.Add(1) }

func (p *passage) protect(context.Context, netip.AddrPort, netip.AddrPort, syscall.RawConn) (Passage, error) {
	return p, nil
}

// pair is both ends of a carrier, with passages of their own.
type pair struct {
	near, far             DatagramConn
	nearPassage, farWorld *passage
}

// newPair makes a carrier whose server does with datagrams as protect says.
func newPair(t *testing.T) *pair {
	t.Helper()
	p := &pair{nearPassage: newPassage(1500), farWorld: newPassage(1500)}
	far := make(chan net.Conn, 1)
	h := serveHouse(t, make([]byte, AnswerSize), p.farWorld.protect, func(ctx context.Context, conn net.Conn) {
		far <- conn
		<-ctx.Done()
	})
	p.near = h.attach(t, p.nearPassage.protect).(DatagramConn)
	p.far = (<-far).(DatagramConn)
	return p
}

// attach makes a carrier.
func (h *house) attach(t *testing.T, protect Protect) net.Conn {
	t.Helper()
	d, _ := h.dialer(h.key.Pin())
	d.Datagrams = protect
	c, err := d.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	conn, _, err := c.Attach(t.Context(), make([]byte, OpeningSize))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// reader passes on what an end reads.
func reader(t *testing.T, c DatagramConn) <-chan string {
	all, ended := make(chan string, 100), make(chan struct{})
	go func() {
		defer close(ended)
		for b := make([]byte, maxDatagram); ; {
			n, err := c.ReadDatagram(b)
			if err != nil {
				return
			}
			all <- string(b[:n])
		}
	}()
	t.Cleanup(func() { c.Close(); <-ended })
	return all
}

// sizeOf waits until an end knows that datagrams get through, and gives their size.
func sizeOf(t *testing.T, c DatagramConn) int {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		if size := c.DatagramSize(); size > 0 {
			return size
		}
		if time.Now().After(end) {
			t.Fatal("it never knows that any get through")
		}
	}
}

func next(t *testing.T, from <-chan string) string {
	t.Helper()
	select {
	case s := <-from:
		return s
	case <-time.After(patience):
		t.Fatal("nothing comes")
		return ""
	}
}

func TestDatagramsGoBesideTheBytesBothWays(t *testing.T) {
	p := newPair(t)
	if size := p.far.DatagramSize(); size != 0 {
		t.Errorf("a server that has heard nothing sends datagrams of %d bytes", size)
	}
	atNear, atFar := reader(t, p.near), reader(t, p.far)
	const most = 1500 - 28 - frameSize
	for _, c := range []struct {
		from DatagramConn
		to   <-chan string
	}{{p.near, atFar}, {p.far, atNear}} {
		for sizeOf(t, c.from) < most {
			time.Sleep(time.Millisecond) // for the answers to the larger probes
		}
		if size := c.from.DatagramSize(); size != most {
			t.Errorf("datagrams have %d bytes, want %d", size, most)
		}
		long := string(bytes.Repeat([]byte{'x'}, most))
		c.from.WriteDatagrams([][]byte{[]byte("hello"), []byte(long)})
		if got := []string{next(t, c.to), next(t, c.to)}; !slices.Equal(got, []string{"hello", long}) {
			t.Errorf("%q", got)
		}
	}
	p.near.Close()
	if n := p.nearPassage.stopped.Load(); n != 1 {
		t.Errorf("the path's watching is ended %d times", n)
	}
	if _, err := p.near.ReadDatagram(nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a closed end reads %v", err)
	}
}

// Rules may have the server tie the connection's socket to its path.
func TestServersConnectionHasASocketAlsoBesideDatagrams(t *testing.T) {
	c, ok := newPair(t).far.(interface{ NetConn() net.Conn })
	if !ok {
		t.Fatal("it does not tell what is below it")
	}
	if _, ok := c.NetConn().(*net.TCPConn); !ok {
		t.Errorf("below it is a %T", c.NetConn())
	}
}

// Whoever may use the path may send to the port in anybody's name, and hear what is said.
func TestStrangersOnThePathNeitherSendNorRepeatDatagrams(t *testing.T) {
	p := newPair(t)
	atFar := reader(t, p.far)
	reader(t, p.near)
	sizeOf(t, p.near)
	near := p.near.(accompanied).companion
	message := near.out.seal(make([]byte, margin), kindDatagram, []byte("once"))[margin:]
	other := near.out.seal(make([]byte, margin), kindDatagram, []byte("other"))[margin:]
	forged := bytes.Clone(other)
	forged[headSize] ^= 1
	reflected := p.far.(accompanied).out.seal(make([]byte, margin), kindDatagram, []byte("back"))[margin:]
	last := near.out.seal(make([]byte, margin), kindDatagram, []byte("last"))[margin:]
	for _, m := range [][]byte{message, message, forged, reflected, other[:frameSize-1], nil, message, last} {
		if _, err := near.conn.Write(m); err != nil {
			t.Fatal(err)
		}
	}
	if got := []string{next(t, atFar), next(t, atFar)}; !slices.Equal(got, []string{"once", "last"}) {
		t.Errorf("%q", got)
	}
}

func TestNoDatagramsGoWhereThePathIsNotProtected(t *testing.T) {
	p := newPair(t)
	atFar := reader(t, p.far)
	reader(t, p.near)
	sizeOf(t, p.near)
	p.nearPassage.mtu.Store(0)
	if size := p.near.DatagramSize(); size != 0 {
		t.Errorf("datagrams have %d bytes", size)
	}
	p.near.WriteDatagrams([][]byte{[]byte("in clear")})
	p.nearPassage.mtu.Store(1500)
	p.near.WriteDatagrams([][]byte{[]byte("protected")})
	if got := next(t, atFar); got != "protected" {
		t.Errorf("%q", got)
	}
}

func TestPathThatIsNotProtectedForDatagramsTakesThemAmongTheBytes(t *testing.T) {
	unprotected := func(context.Context, netip.AddrPort, netip.AddrPort, syscall.RawConn) (Passage, error) {
		return nil, errors.New("nothing protects it")
	}
	far := make(chan net.Conn, 1)
	h := serveHouse(t, make([]byte, AnswerSize), unprotected, func(_ context.Context, conn net.Conn) { far <- conn })
	if c, ok := h.attach(t, unprotected).(DatagramConn); ok {
		t.Errorf("the client has %v", c)
	}
	if c, ok := (<-far).(DatagramConn); ok {
		t.Errorf("the server has %v", c)
	}
}

// It draws other nonces, of which nobody has the private half, and has no such port.
func TestPeerWithoutDatagramsIsAskedAndDoesNotAnswer(t *testing.T) {
	h := newHouse(t, make([]byte, AnswerSize)) // whose server sends none beside
	c := h.attach(t, newPassage(1500).protect).(DatagramConn)
	reader(t, c)
	for range 5 {
		if size := c.DatagramSize(); size != 0 {
			t.Fatalf("datagrams have %d bytes", size)
		}
		c.WriteDatagrams(nil)
	}
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(patience))
	word := make([]byte, 5)
	if _, err := c.Read(word); err != nil {
		t.Fatal(err)
	}
}

// All clients' datagrams come to one port, and each to its own connection.
func TestDatagramsOfManyClientsDoNotMix(t *testing.T) {
	const clients = 20
	h := serveHouse(t, make([]byte, AnswerSize), newPassage(1500).protect, func(ctx context.Context, conn net.Conn) {
		c := conn.(DatagramConn)
		defer context.AfterFunc(ctx, func() { c.Close() })()
		for b := make([]byte, maxDatagram); ; {
			n, err := c.ReadDatagram(b)
			if err != nil {
				return
			}
			c.WriteDatagrams([][]byte{b[:n]})
		}
	})
	var all []DatagramConn
	var heard []<-chan string
	for range clients {
		c := h.attach(t, newPassage(1500).protect).(DatagramConn)
		all, heard = append(all, c), append(heard, reader(t, c))
	}
	for i, c := range all {
		sizeOf(t, c)
		c.WriteDatagrams([][]byte{fmt.Append(nil, i)})
	}
	for i, from := range heard {
		if got := next(t, from); got != fmt.Sprint(i) {
			t.Errorf("client %d hears %q", i, got)
		}
	}
}

func TestPacketsAreNotCutInPieces(t *testing.T) {
	p := newPair(t)
	for _, c := range []DatagramConn{p.near, p.far} {
		_ = c.(accompanied).raw.Control(func(fd uintptr) {
			if how, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER); err != nil || how != unix.IP_PMTUDISC_DO {
				t.Errorf("%d, %v", how, err)
			}
		})
	}
}
