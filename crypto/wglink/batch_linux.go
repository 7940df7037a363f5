package wglink

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
)

const (
	// maxSegments is how many datagrams the kernel takes or gives as one
	// (UDP_SEGMENT, UDP_GRO).
	maxSegments = 64

	// bundles is how many of these are read at once. With the kernel's help
	// each may hold 64 KiB.
	bundles = 8

	segmentSize = 2 // of the value that goes with UDP_SEGMENT
	groSize     = 4 // and with UDP_GRO
)

// batchIO reads and writes many datagrams by one system call, and where the
// kernel can, many as one datagram.
type batchIO struct {
	udp *net.UDPConn
	pc  *ipv6.PacketConn // works for IPv4 sockets too: nothing in it depends on the version
	gso atomic.Bool
	v4  bool // the socket knows nothing else

	writing sync.Pool // of *[]ipv6.Message

	// Read's own.
	in   []ipv6.Message
	next int // the first in in that is not given away whole
	full int // in how many of in there is something
	from int // where in in[next] to go on
	last *remote
}

func newBatchIO(udp *net.UDPConn) *batchIO {
	v4 := udp.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Is4()
	b := &batchIO{udp: udp, v4: v4, pc: ipv6.NewPacketConn(udp), in: make([]ipv6.Message, bundles)}
	if raw, err := udp.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			// Kernels older than 4.18 and 5.0 refuse.
			_, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT)
			b.gso.Store(err == nil)
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_GRO, 1)
		})
	}
	for i := range b.in {
		b.in[i].Buffers = [][]byte{make([]byte, maxDatagram)}
		b.in[i].OOB = make([]byte, unix.CmsgSpace(groSize))
	}
	b.writing.New = func() any {
		messages := make([]ipv6.Message, batch)
		for i := range messages {
			messages[i].OOB = make([]byte, 0, unix.CmsgSpace(segmentSize)+unix.CmsgSpace(unix.SizeofInet6Pktinfo))
		}
		return &messages
	}
	return b
}

// read gives datagrams that have been read before, or waits for new ones.
func (b *batchIO) read(packets [][]byte, sizes []int, from []conn.Endpoint) (n int, err error) {
	if b.next == b.full {
		if b.full, err = b.pc.ReadBatch(b.in, 0); err != nil {
			b.full, b.next = 0, 0
			return 0, err
		}
		b.next, b.from = 0, 0
	}
	for b.next < b.full && n < len(packets) {
		n = b.split(&b.in[b.next], n, packets, sizes, from)
	}
	return n, nil
}

// split gives away what one message holds, as far as there is room, after the
// first n.
func (b *batchIO) split(m *ipv6.Message, n int, packets [][]byte, sizes []int, from []conn.Endpoint) int {
	size := m.N
	if gro := coalesced(m.OOB[:m.NN]); gro > 0 {
		size = gro
	}
	at := b.remote(m.Addr)
	for ; b.from < m.N && n < len(packets); n++ {
		sizes[n] = copy(packets[n], m.Buffers[0][b.from:min(b.from+size, m.N)])
		from[n] = at
		b.from += size
	}
	if b.from >= m.N {
		b.next, b.from = b.next+1, 0
	}
	return n
}

// remote makes one of an address, mostly the last once more.
func (b *batchIO) remote(a net.Addr) *remote {
	at := a.(*net.UDPAddr).AddrPort()
	at = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
	if b.last == nil || b.last.AddrPort != at {
		b.last = &remote{at}
	}
	return b.last
}

// coalesced gives the size of the datagrams in a message, 0 if it is one.
func coalesced(control []byte) int {
	for len(control) >= unix.SizeofCmsghdr {
		h, data, rest, err := unix.ParseOneSocketControlMessage(control)
		if err != nil {
			return 0
		}
		if h.Level == unix.SOL_UDP && h.Type == unix.UDP_GRO && len(data) >= groSize {
			return int(binary.NativeEndian.Uint32(data))
		}
		control = rest
	}
	return 0
}

// write sends datagrams to one place, by one interface unless its number is 0. It is safe for
// concurrent use.
func (b *batchIO) write(packets [][]byte, to netip.AddrPort, device uint32) error {
	if b.gso.Load() {
		err := b.writeAll(packets, to, device, true)
		if err == nil {
			return nil
		}
		if errors.Is(err, unix.EIO) {
			b.gso.Store(false) // the interface cannot make checksums
		}
		// Where one is too long for the path, all are refused. What was sent is sent
		// again, and WireGuard drops it there.
	}
	return b.writeAll(packets, to, device, false)
}

func (b *batchIO) writeAll(packets [][]byte, to netip.AddrPort, device uint32, gso bool) error {
	messages := b.writing.Get().(*[]ipv6.Message)
	defer b.writing.Put(messages)
	address := net.UDPAddrFromAddrPort(to)
	n := 0
	for rest := packets; len(rest) > 0; n++ {
		k := 1
		if gso {
			k = alike(rest)
		}
		m := &(*messages)[n]
		m.Addr, m.Buffers = address, rest[:k]
		m.OOB = m.OOB[:0]
		if k > 1 {
			m.OOB = appendSegmentSize(m.OOB, len(rest[0]))
		}
		m.OOB = b.appendDevice(m.OOB, to.Addr(), device)
		rest = rest[k:]
	}
	used := (*messages)[:n]
	defer func() {
		for i := range used { // the pool keeps no packets
			used[i].Buffers, used[i].Addr = nil, nil
		}
	}()
	var tooLarge error // those that are lost, and others are not
	for ready := used; len(ready) > 0; {
		sent, err := b.pc.WriteBatch(ready, 0)
		switch {
		case err == nil:
			ready = ready[sent:]
		case !gso && isTooLarge(err):
			tooLarge, ready = err, ready[1:]
		default:
			return err
		}
	}
	return tooLarge
}

// alike tells how many packets can go as one: all of one size, but for the last,
// which may be shorter.
func alike(packets [][]byte) int {
	size, total := len(packets[0]), 0
	for i, p := range packets[:min(len(packets), maxSegments)] {
		total += len(p)
		if len(p) > size || total > maxDatagram-60 { // with the headers of IP and UDP
			return max(i, 1)
		}
		if len(p) < size {
			return i + 1
		}
	}
	return min(len(packets), maxSegments)
}

// appendDevice has a datagram leave by an interface, or not at all, whatever routes say.
func (b *batchIO) appendDevice(control []byte, to netip.Addr, device uint32) []byte {
	switch {
	case device == 0:
		return control
	case b.v4:
		return append(control, unix.PktInfo4(&unix.Inet4Pktinfo{Ifindex: int32(device)})...)
	}
	info := unix.Inet6Pktinfo{Ifindex: device}
	if to.Is4() { // of a socket for both versions
		info.Addr = netip.AddrFrom16(netip.IPv4Unspecified().As16()).As16()
	}
	return append(control, unix.PktInfo6(&info)...)
}

func appendSegmentSize(control []byte, size int) []byte {
	b := control[:unix.CmsgSpace(segmentSize)]
	clear(b)
	// struct cmsghdr: its length first, in the size of a pointer.
	if unix.SizeofCmsghdr == 16 {
		binary.NativeEndian.PutUint64(b, uint64(unix.CmsgLen(segmentSize)))
	} else {
		binary.NativeEndian.PutUint32(b, uint32(unix.CmsgLen(segmentSize)))
	}
	at := unix.SizeofCmsghdr - 8
	binary.NativeEndian.PutUint32(b[at:], unix.SOL_UDP)
	binary.NativeEndian.PutUint32(b[at+4:], unix.UDP_SEGMENT)
	binary.NativeEndian.PutUint16(b[unix.SizeofCmsghdr:], uint16(size))
	return b
}
