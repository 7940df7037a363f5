package wglink

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

func TestPacketsInsideFitIntoThePath(t *testing.T) {
	four, six := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	for _, path := range []int{9000, 1500, 1492, 1446, 1438, 1426, 1418, 1410, 1400, 1374, 1280, 1198} {
		for remote, headers := range map[netip.Addr]int{four: 60, six: 80} {
			n := inside(path, 1420, remote)
			padded := min((n+padding-1)/padding*padding, 1420)
			if padded+headers > path {
				t.Errorf("%d bytes to %v through %d make %d", n, remote, path, padded+headers)
			}
			if n < 1420 && n+headers <= path-padding {
				t.Errorf("%d bytes to %v through %d leave %d", n, remote, path, path-n-headers)
			}
		}
	}
	if n := inside(68, 1420, four); n != leastInside {
		t.Errorf("whoever speaks of a path of 68 bytes has packets of %d", n)
	}
}

// narrowWay is a network that drops what is larger than it takes, and says nothing.
type narrowWay struct {
	t       *testing.T
	to      *net.UDPAddr
	takes   atomic.Int64 // bytes of UDP payload
	dropped atomic.Int64
}

// lay gives the way's address.
func (w *narrowWay) lay() string {
	near, far := listen(w.t), listen(w.t)
	var client atomic.Pointer[net.UDPAddr]
	var both sync.WaitGroup
	both.Go(func() {
		w.pass(near, func(from *net.UDPAddr, b []byte) { client.Store(from); _, _ = far.WriteToUDP(b, w.to) })
	})
	both.Go(func() {
		w.pass(far, func(_ *net.UDPAddr, b []byte) { _, _ = near.WriteToUDP(b, client.Load()) })
	})
	w.t.Cleanup(func() {
		_, _ = near.Close(), far.Close()
		both.Wait()
	})
	return near.LocalAddr().String()
}

func (w *narrowWay) pass(c *net.UDPConn, on func(from *net.UDPAddr, b []byte)) {
	for b := make([]byte, 1<<16); ; {
		n, from, err := c.ReadFromUDP(b)
		switch {
		case err != nil:
			return
		case n > int(w.takes.Load()):
			w.dropped.Add(1)
		default:
			on(from, b[:n])
		}
	}
}

func TestWayThatTakesOnlySmallPacketsIsFound(t *testing.T) {
	e := start(t, genuine(echo))
	to, err := net.ResolveUDPAddr("udp", e.endpoint)
	if err != nil {
		t.Fatal(err)
	}
	way := &narrowWay{t: t, to: to}
	way.takes.Store(1 << 16)
	d := e.dialer(t)
	d.Endpoint = way.lay()
	c := attach(t, d).(*datagramConn)
	send := func(size int) {
		t.Helper()
		want := make([]byte, size)
		_, _ = rand.Read(want)
		go func() { _, _ = c.Write(want) }()
		_ = c.SetReadDeadline(time.Now().Add(patience))
		got := make([]byte, size)
		if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%d bytes through %d: %v", size, way.takes.Load(), err)
		}
	}
	send(100 << 10)
	if n := c.DatagramSize(); n != defaultMTU-frameHead {
		t.Errorf("before, datagrams had %d bytes", n)
	}
	way.takes.Store(1300)
	send(100 << 10)
	if way.dropped.Load() == 0 {
		t.Error("nothing was dropped")
	}
	for by := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		n := c.DatagramSize() + frameHead
		if n+keepaliveSize <= 1300 && n > 1300-keepaliveSize-2*padding {
			break
		}
		if time.Now().After(by) {
			t.Fatalf("the largest packets have %d bytes", n)
		}
	}
	send(1 << 20)
}

// syn is a TCP header with options and a checksum over itself alone.
func syn(flags header.TCPFlags, options ...byte) header.TCP {
	tcp := make(header.TCP, header.TCPMinimumSize+(len(options)+3)/4*4)
	tcp.Encode(&header.TCPFields{SrcPort: 1000, DstPort: 2000, SeqNum: 7, Flags: flags, DataOffset: uint8(len(tcp))})
	copy(tcp[header.TCPMinimumSize:], options)
	tcp.SetChecksum(^checksum.Checksum(tcp, 0))
	return tcp
}

func TestWhoConnectsIsAskedForSegmentsThatFit(t *testing.T) {
	for _, c := range []struct {
		what      string
		tcp, want header.TCP
	}{
		{"as it is", syn(header.TCPFlagSyn, 2, 4, 5, 100), syn(header.TCPFlagSyn, 2, 4, 4, 176)},
		{"at an odd place", syn(header.TCPFlagSyn|header.TCPFlagAck, 1, 2, 4, 255, 255), syn(header.TCPFlagSyn|header.TCPFlagAck, 1, 2, 4, 4, 176)},
		{"small enough", syn(header.TCPFlagSyn, 2, 4, 1, 1), syn(header.TCPFlagSyn, 2, 4, 1, 1)},
		{"after the end", syn(header.TCPFlagSyn, 0, 2, 4, 5, 100), syn(header.TCPFlagSyn, 0, 2, 4, 5, 100)},
		{"cut off", syn(header.TCPFlagSyn, 1, 1, 2, 4), syn(header.TCPFlagSyn, 1, 1, 2, 4)},
		{"in the middle of a connection", syn(header.TCPFlagAck, 2, 4, 5, 100), syn(header.TCPFlagAck, 2, 4, 5, 100)},
	} {
		clampMSS(c.tcp, 1200)
		if !bytes.Equal(c.tcp, c.want) {
			t.Errorf("%s: %x, want %x", c.what, c.tcp, c.want)
		}
	}
}

func FuzzClampMSS(f *testing.F) {
	f.Add([]byte(syn(header.TCPFlagSyn, 2, 4, 5, 100)), 1200)
	f.Add([]byte(syn(header.TCPFlagSyn, 1, 2, 4, 255, 255)), 536)
	f.Fuzz(func(t *testing.T, b []byte, most int) {
		most = min(max(most, 0), 1<<16-1)
		before, size := fmt.Sprintf("%x", b), len(b)
		if len(b) >= header.TCPMinimumSize {
			tcp := header.TCP(b)
			tcp.SetChecksum(0)
			tcp.SetChecksum(^checksum.Checksum(b, 0))
		}
		clampMSS(b, most)
		if len(b) != size {
			t.Fatalf("%s became %x", before, b)
		}
		if len(b) >= header.TCPMinimumSize && checksum.Checksum(b, 0) != 0xffff {
			t.Fatalf("the checksum of %x is wrong", b)
		}
	})
}
