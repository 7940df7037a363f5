package server

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"github.com/adit-net/adit/tunnel/mmsg"
	"github.com/adit-net/adit/tunnel/socks"
)

const (
	// maxSegments is how many datagrams the kernel takes or gives as one
	// (UDP_SEGMENT, UDP_GRO).
	maxSegments = 64

	// maxBundle is how long these may be in all: an IP packet less the headers.
	maxBundle = 65_535 - 48

	// bundles is how many of these are read by one system call.
	bundles = 8

	segmentSize = 2 // of the value that goes with UDP_SEGMENT
	groSize     = 4 // and with UDP_GRO
)

// udpSocket is a UDP port. It sends and receives many datagrams by one system
// call, and where the kernel can, many as one datagram.
type udpSocket struct {
	conn *net.UDPConn
	raw  syscall.RawConn
	pc   *mmsg.Conn

	segment atomic.Int32 // the longest datagram that is bundled with others
	errors  sync.Mutex   // held while the error queue is read
}

func openUDP(ctx context.Context, way Steer, port uint16) (*udpSocket, error) {
	conn, err := way.listenUDP(ctx, port)
	if err != nil {
		return nil, err
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		conn.Close()
		return nil, err
	}
	s := &udpSocket{conn: conn, raw: raw, pc: mmsg.New(raw)}
	// Any of these may be refused, as there may be no IPv6 or an old kernel, and
	// the port is good without it.
	_ = raw.Control(func(fd uintptr) {
		s := int(fd)
		_ = unix.SetsockoptInt(s, unix.IPPROTO_UDP, unix.UDP_GRO, 1)
		_ = unix.SetsockoptInt(s, unix.IPPROTO_IP, unix.IP_RECVERR, 1)
		_ = unix.SetsockoptInt(s, unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1)
		// What is too long for the path is fragmented on the way. IPv6 knows no
		// such thing: there this end does so, once it knows the path.
		_ = unix.SetsockoptInt(s, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT)
	})
	_ = raw.Control(func(fd uintptr) {
		if _, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT); err == nil {
			s.segment.Store(maxBundle / 2)
		}
	})
	return s, nil
}

func (s *udpSocket) bound() netip.AddrPort { return s.conn.LocalAddr().(*net.UDPAddr).AddrPort() }

func (s *udpSocket) close() { s.conn.Close() }

// udpWriter is what it takes to send up to maxBatch packets.
type udpWriter struct {
	messages [maxBatch]ipv6.Message
	payloads [maxBatch][]byte
	addrs    [maxBatch]net.UDPAddr
}

var udpWriters = sync.Pool{New: func() any {
	w := new(udpWriter)
	for i := range w.messages {
		w.messages[i].Addr = &w.addrs[i]
		w.messages[i].OOB = make([]byte, 0, unix.CmsgSpace(segmentSize))
	}
	return w
}}

// fill makes messages of packets, and bundles those of up to segment bytes.
func (w *udpWriter) fill(packets []packet, segment int) []ipv6.Message {
	n, used := 0, 0
	for ; len(packets) > 0; n++ {
		k := alike(packets, segment)
		first := used
		for _, p := range packets[:k] {
			w.payloads[used] = p.payload
			used++
		}
		m, to := &w.messages[n], packets[0].to
		m.Buffers = w.payloads[first:used]
		m.OOB = m.OOB[:0]
		if k > 1 {
			m.OOB = appendSegmentSize(m.OOB, len(packets[0].payload))
		}
		w.addrs[n].IP = appendIP(w.addrs[n].IP[:0], to.Addr())
		w.addrs[n].Port = int(to.Port())
		packets = packets[k:]
	}
	return w.messages[:n]
}

func appendIP(b net.IP, a netip.Addr) net.IP {
	if a.Is4() {
		v4 := a.As4()
		return append(b, v4[:]...)
	}
	v6 := a.As16()
	return append(b, v6[:]...)
}

// send sends packets, and tells how many there was no room for and no way. It does
// not wait.
func (s *udpSocket) send(packets []packet) (full, unknown int) {
	w := udpWriters.Get().(*udpWriter)
	defer func() {
		clear(w.payloads[:]) // the pool keeps no payloads
		udpWriters.Put(w)
	}()
	for tries := 0; len(packets) > 0; {
		messages := w.fill(packets, int(s.segment.Load()))
		n, err := s.write(messages, tries)
		for _, m := range messages[:max(n, 0)] {
			packets = packets[len(m.Buffers):]
			tries = 0
		}
		if err == nil {
			continue
		}
		first := len(messages[0].Buffers)
		tries++
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, net.ErrClosed):
			return full + len(packets), unknown
		case errors.Is(err, unix.ENOBUFS):
			full += first
			packets, tries = packets[first:], 0
		case tries < sendTries:
		case first > 1 && refusesBundle(err):
			s.unbundle(err, len(packets[0].payload))
			tries = 0
		default:
			unknown += first
			packets, tries = packets[first:], 0
		}
	}
	return full, unknown
}

// sendTries is how often a message is tried.
const sendTries = 4

// write sends messages, as far as the first that fails. The error may be about one
// long gone, of which an ICMP message has come. It is told but once, and then once
// more for each that waits in the error queue and gets to its head, so what fails
// again is tried while nobody reads there.
func (s *udpSocket) write(messages []ipv6.Message, tries int) (int, error) {
	if tries > 1 {
		s.errors.Lock()
		defer s.errors.Unlock()
	}
	return s.pc.WriteBatch(messages, 0)
}

// refusesBundle tells whether an error can be about there being several datagrams in
// one message.
func refusesBundle(err error) bool {
	return errors.Is(err, unix.EIO) || errors.Is(err, unix.EMSGSIZE) || errors.Is(err, unix.EINVAL)
}

// unbundle draws its conclusion from the kernel's refusing a bundle of datagrams
// of a size. Alone, each of them may be fragmented.
func (s *udpSocket) unbundle(err error, size int) {
	if errors.Is(err, unix.EIO) {
		size = 1 // the interface cannot make checksums
	}
	s.segment.Store(min(s.segment.Load(), int32(size-1)))
}

// alike tells how many packets can go as one: to one peer, and all of one size up to
// segment, but for the last, which may be shorter.
func alike(packets []packet, segment int) int {
	to, size, total := packets[0].to, len(packets[0].payload), 0
	if size == 0 || size > segment {
		return 1
	}
	for i, p := range packets[:min(len(packets), maxSegments)] {
		n := len(p.payload)
		total += n
		if p.to != to || n > size || n == 0 || total > maxBundle {
			return i
		}
		if n < size {
			return i + 1
		}
	}
	return min(len(packets), maxSegments)
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

// wait returns when there is something to read, or an error, which is
// net.ErrClosed once the socket is closed. It tells of losses meanwhile.
func (s *udpSocket) wait(lost func(socks.Loss)) error {
	for {
		events, err := s.pc.Wait()
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		if err != nil || events&unix.POLLERR != 0 {
			s.losses(lost)
		}
		if err != nil || events&^unix.POLLERR != 0 {
			return err
		}
	}
}

// udpReader is what it takes to read.
type udpReader struct {
	messages  [bundles]ipv6.Message
	datagrams []socks.Datagram
}

var udpReaders = sync.Pool{New: func() any {
	r := &udpReader{datagrams: make([]socks.Datagram, 0, bundles)}
	for i := range r.messages {
		r.messages[i].Buffers = [][]byte{make([]byte, 64<<10)}
		r.messages[i].OOB = make([]byte, unix.CmsgSpace(groSize))
	}
	return r
}}

// read gives away what is there, until there is no more or it was a lot.
func (s *udpSocket) read(deliver func([]socks.Datagram)) {
	r := udpReaders.Get().(*udpReader)
	defer udpReaders.Put(r)
	for {
		n, err := s.pc.ReadBatch(r.messages[:], 0)
		if err != nil {
			return // an ICMP message's, or there is nothing: wait sees what is the case
		}
		r.datagrams = r.datagrams[:0]
		for i := range r.messages[:n] {
			r.datagrams = appendSplit(r.datagrams, &r.messages[i])
		}
		deliver(r.datagrams)
		if n < len(r.messages) {
			return
		}
	}
}

// appendSplit appends the datagrams that are in a message.
func appendSplit(datagrams []socks.Datagram, m *ipv6.Message) []socks.Datagram {
	at := m.Addr.(*net.UDPAddr).AddrPort()
	from := socks.Addr{IP: at.Addr().Unmap(), Port: at.Port()}
	rest := m.Buffers[0][:m.N]
	if size := coalesced(m.OOB[:m.NN]); size > 0 {
		for len(rest) > size {
			datagrams = append(datagrams, socks.Datagram{Addr: from, Payload: rest[:size:size]})
			rest = rest[size:]
		}
	}
	return append(datagrams, socks.Datagram{Addr: from, Payload: rest})
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
