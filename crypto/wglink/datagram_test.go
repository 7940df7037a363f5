package wglink

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// datagramExit is a server that gives its ends of carriers in the order in which
// these are attached.
func datagramExit(t testing.TB) (*exit, <-chan DatagramConn) {
	t.Helper()
	ends := make(chan DatagramConn, 16)
	e := start(t, genuine(func(ctx context.Context, c net.Conn) {
		ends <- c.(DatagramConn)
		<-ctx.Done()
	}))
	return e, ends
}

// attachDatagrams is attach to such a server.
func attachDatagrams(t testing.TB, d *Dialer, ends <-chan DatagramConn) (near *datagramConn, far DatagramConn) {
	t.Helper()
	near = attach(t, d).(*datagramConn)
	return near, <-ends
}

func say(c DatagramConn, texts ...string) {
	var batch [][]byte
	for _, text := range texts {
		batch = append(batch, []byte(text))
	}
	c.WriteDatagrams(batch)
}

// hear gives the datagram that comes next.
func hear(t testing.TB, c DatagramConn) string {
	t.Helper()
	late := time.AfterFunc(patience, func() { _ = c.Close() })
	defer late.Stop()
	b := make([]byte, 1<<16)
	n, err := c.ReadDatagram(b)
	if err != nil {
		t.Fatalf("no datagram came: %v", err)
	}
	return string(b[:n])
}

func TestDatagramsPassBothWays(t *testing.T) {
	e, ends := datagramExit(t)
	near, far := attachDatagrams(t, e.dialer(t), ends)
	if size := near.DatagramSize(); size != defaultMTU-7 || far.DatagramSize() != size {
		t.Fatalf("datagrams may have %d and %d bytes", size, far.DatagramSize())
	}
	full := string(randomBytes(near.DatagramSize()))
	for _, way := range []struct{ from, to DatagramConn }{{near, far}, {far, near}} {
		say(way.from, "", "x", full+"x", full, strings.Repeat("x", 1<<17), "end")
		for _, want := range []string{"", "x", full, "end"} {
			if got := hear(t, way.to); got != want {
				t.Fatalf("%d bytes came, want %d", len(got), len(want))
			}
		}
	}
	for n := range 64 {
		want := string(randomBytes(n))
		say(near, want)
		say(far, want)
		if up, down := hear(t, far), hear(t, near); up != want || down != want {
			t.Fatalf("%q and %q came, want %q", up, down, want)
		}
	}
	say(near, "longer than there is room for")
	b := make([]byte, 6)
	if n, err := far.ReadDatagram(b); n != len(b) || err != nil || string(b) != "longer" {
		t.Errorf("ReadDatagram gives %d, %v, %q", n, err, b)
	}
}

func TestDatagramsPassWhileTheBytesDoNot(t *testing.T) {
	e, ends := datagramExit(t)
	near, far := attachDatagrams(t, e.dialer(t), ends)
	_ = near.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
	for {
		if _, err := near.Write(make([]byte, 1<<20)); err != nil {
			break // nobody reads at the other end
		}
	}
	say(near, "ping")
	if got := hear(t, far); got != "ping" {
		t.Errorf("%q came", got)
	}
	say(far, "pong")
	if got := hear(t, near); got != "pong" {
		t.Errorf("%q came", got)
	}
}

func TestDatagramsComeOutWhereTheirBytesDo(t *testing.T) {
	e, ends := datagramExit(t)
	one, other := e.dialer(t), e.dialer(t)
	var near, far []DatagramConn
	for _, d := range []*Dialer{one, one, other, one} {
		n, f := attachDatagrams(t, d, ends)
		near, far = append(near, n), append(far, f)
	}
	for i := range near {
		say(near[i], "up"+string(rune('0'+i)))
		say(far[i], "down"+string(rune('0'+i)))
	}
	for i := range near {
		if got := hear(t, far[i]); got != "up"+string(rune('0'+i)) {
			t.Errorf("%q came out of carrier %d", got, i)
		}
		if got := hear(t, near[i]); got != "down"+string(rune('0'+i)) {
			t.Errorf("%q came out of carrier %d", got, i)
		}
	}
}

// send lets a packet out as it is.
func (e *engine) send(packet []byte) {
	p := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(packet)})
	e.cable.offer(p)
	p.DecRef()
}

// frameOf makes a frame.
func frameOf(d direction, t tag, payload string) []byte {
	b := make([]byte, frameSize(len(payload)))
	d.put(b, t, []byte(payload))
	return b
}

func TestOthersCannotSendDatagramsOnACarrier(t *testing.T) {
	e, ends := datagramExit(t)
	alice, mallory := e.dialer(t), e.dialer(t)
	near, far := attachDatagrams(t, alice, ends)
	own, heard := attachDatagrams(t, mallory, ends)
	for _, from := range []tag{near.tag, {}, {240, 0, 0, 0}, {255, 255, 255, 255}} {
		for _, to := range []tag{near.tag, own.tag} {
			frame := frameOf(toServer, from, "forged, and longer than the gaps in the header")
			copy(frame[toDevice:], to[:])
			mallory.link.send(frame)
		}
	}
	say(own, "true")
	if got := hear(t, heard); got != "true" { // all before it has been dealt with
		t.Errorf("%q came to its own end", got)
	}
	if n := e.Dropped().Source; n != 8 {
		t.Errorf("WireGuard has dropped %d of 8", n)
	}
	say(near, "hers")
	if got := hear(t, far); got != "hers" {
		t.Errorf("%q came to the server", got)
	}
	say(far, "hers, too")
	if got := hear(t, near); got != "hers, too" {
		t.Errorf("%q came to her", got)
	}
}

func TestNoDatagramComesTwiceOrChanged(t *testing.T) {
	e, ends := datagramExit(t)
	d := e.dialer(t)
	to, err := net.ResolveUDPAddr("udp", e.endpoint)
	if err != nil {
		t.Fatal(err)
	}
	d.Endpoint = mangler{t, to}.lay()
	near, far := attachDatagrams(t, d, ends)

	const n = 2000
	body := randomBytes(100)
	came := make([]int, n)
	var sending sync.WaitGroup
	stop := make(chan struct{})
	sending.Go(func() {
		for i := 0; ; i++ {
			b := binary.BigEndian.AppendUint32(nil, uint32(min(i, n)))
			near.WriteDatagrams([][]byte{append(b, body...)})
			if i < n && i%32 > 0 {
				continue
			}
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
		}
	})
	var order []uint32
	for {
		got := hear(t, far)
		i := binary.BigEndian.Uint32([]byte(got))
		if got[4:] != string(body) || i > n {
			t.Fatal("another datagram came")
		}
		if i == n {
			break
		}
		came[i]++
		order = append(order, i)
	}
	close(stop)
	sending.Wait()
	if twice := slices.Max(came); twice != 1 {
		t.Errorf("a datagram came %d times", twice)
	}
	if lost := n - len(order); lost == 0 || lost > n/2 || slices.IsSorted(order) {
		t.Errorf("%d of %d are lost; it was to be some, and some out of order", lost, n)
	}
	if _, err := near.Write([]byte("bytes")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(far, make([]byte, 5)); err != nil {
		t.Errorf("the bytes do not get through: %v", err)
	}
}

func TestCloseEndsDatagrams(t *testing.T) {
	e, ends := datagramExit(t)
	d := e.dialer(t)
	attach(t, d) // so that the link stays
	<-ends
	near, far := attachDatagrams(t, d, ends)
	var reading sync.WaitGroup
	for _, c := range []DatagramConn{near, far} {
		reading.Go(func() {
			if _, err := c.ReadDatagram(make([]byte, 10)); !errors.Is(err, net.ErrClosed) {
				t.Errorf("ReadDatagram gives %v", err)
			}
		})
		_ = c.Close()
	}
	reading.Wait()
	say(near, "late")
	if n := d.link.cable.inboxes.len(); n != 1 {
		t.Errorf("%d inboxes are left, want that of the other carrier", n)
	}
}

func TestCloseUnderDatagramsLeavesNothingBehind(t *testing.T) {
	before := runtime.NumGoroutine()
	talk := func(c DatagramConn) {
		var both sync.WaitGroup
		both.Go(func() {
			for b := make([]byte, 2000); ; {
				if _, err := c.ReadDatagram(b); err != nil {
					return
				}
			}
		})
		both.Go(func() { _, _ = io.Copy(io.Discard, c); _ = c.Close() })
		for batch := [][]byte{make([]byte, 1000), make([]byte, 10)}; ; {
			if _, err := c.Write(batch[0]); err != nil {
				break
			}
			c.WriteDatagrams(batch)
		}
		_ = c.Close()
		both.Wait()
		c.WriteDatagrams([][]byte{{1}})
	}
	for range 5 {
		e := start(t, genuine(func(ctx context.Context, c net.Conn) {
			stop := context.AfterFunc(ctx, func() { _ = c.Close() })
			defer stop()
			talk(c.(DatagramConn))
		}))
		var conns []*datagramConn
		for range 2 {
			d := e.dialer(t)
			for range 3 {
				conns = append(conns, attach(t, d).(*datagramConn))
			}
		}
		// Only then do they talk: a carrier that opens beside that may take longer than it may.
		var busy sync.WaitGroup
		var last []DatagramConn
		for i, c := range conns {
			busy.Go(func() { talk(c) })
			switch i % 3 {
			case 0:
				busy.Go(func() { _ = c.Close() })
			case 1:
				busy.Go(c.abort)
			default:
				last = append(last, c)
			}
		}
		e.stop()
		for _, c := range last {
			_ = c.Close() // the server's end of it may have been lost
		}
		busy.Wait()
	}
	for deadline := time.Now().Add(patience); runtime.NumGoroutine() > before; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines, before there were %d", runtime.NumGoroutine(), before)
		}
	}
}

func TestInboxHoldsNoMoreThanItMay(t *testing.T) {
	i := inbox{arrived: make(chan struct{}, 1)}
	fill := func() (n int) {
		for before := -1; len(i.waiting) != before; n++ {
			before = len(i.waiting)
			i.put(binary.BigEndian.AppendUint32(nil, uint32(n)), nil)
		}
		return n - 1
	}
	const each = lengthSize + 4
	first := fill()
	if first != maxInbox/each {
		t.Fatalf("%d bytes wait", first*each)
	}
	b := make([]byte, 100)
	if n, ok := i.take(b); n != 4 || !ok {
		t.Fatalf("take gives %d, %v", n, ok)
	}
	all := first + fill()
	if all != 2*first {
		t.Fatalf("%d bytes wait", all*each)
	}
	for k := 1; k < all; k++ {
		if n, ok := i.take(b); n != 4 || !ok || int(binary.BigEndian.Uint32(b)) != k%first {
			t.Fatalf("datagram %d: %d, %v, % x", k, n, ok, b[:n])
		}
	}
	if _, ok := i.take(b); ok || i.waiting != nil || i.taken != nil || i.room != nil {
		t.Error("an empty inbox keeps memory")
	}
}
