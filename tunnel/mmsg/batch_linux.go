package mmsg

import (
	"encoding/binary"
	"net"
	"strconv"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// header is a struct mmsghdr.
type header struct {
	unix.Msghdr
	bytes uint32
}

// name is a struct sockaddr_in6, or a sockaddr_in, which is shorter.
type name unix.RawSockaddrInet6

// batch is what the system is shown of messages.
type batch struct {
	headers [MaxBatch]header
	names   [MaxBatch]name
	pieces  [MaxBatch]unix.Iovec
	count   int // of headers that are in use
	used    int // of pieces

	flags       int
	watched     bool             // the scheduler is to know of the call
	read, write func(fd uintptr) // made once
	done        int              // messages
	err         syscall.Errno
}

var batches = sync.Pool{New: func() any {
	b := new(batch)
	b.read, b.write = b.recvmmsg, b.sendmmsg
	return b
}}

// free is the end of b, which keeps nothing of the messages.
func (b *batch) free() {
	clear(b.headers[:b.count])
	clear(b.pieces[:b.used])
	b.count, b.used, b.watched = 0, 0, false
	batches.Put(b)
}

// add shows the system a message, if there is room for all its buffers.
func (b *batch) add(m *ipv4.Message) bool {
	if len(m.Buffers) > len(b.pieces)-b.used {
		return false
	}
	pieces := b.pieces[b.used : b.used+len(m.Buffers)]
	for i, p := range m.Buffers {
		pieces[i].Base = unsafe.SliceData(p)
		pieces[i].SetLen(len(p))
	}
	h := &b.headers[b.count]
	h.Iov = unsafe.SliceData(pieces)
	h.SetIovlen(len(pieces))
	if len(m.OOB) > 0 {
		h.Control = unsafe.SliceData(m.OOB)
		h.SetControllen(len(m.OOB))
	}
	b.count, b.used = b.count+1, b.used+len(pieces)
	return true
}

func (b *batch) recvmmsg(fd uintptr) {
	h := unsafe.Pointer(&b.headers)
	var n uintptr
	if b.watched {
		n, _, b.err = unix.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(h), uintptr(b.count), uintptr(b.flags), 0, 0)
	} else {
		n, _, b.err = unix.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(h), uintptr(b.count), uintptr(b.flags), 0, 0)
	}
	b.done = int(n)
}

func (b *batch) sendmmsg(fd uintptr) {
	h := unsafe.Pointer(&b.headers)
	var n uintptr
	n, _, b.err = unix.RawSyscall6(unix.SYS_SENDMMSG, fd, uintptr(h), uintptr(b.count), uintptr(b.flags), 0, 0)
	b.done = int(n)
}

// pollNow is a poll(2) that does not wait.
func pollNow(p *unix.PollFd) (n int, err syscall.Errno) {
	var now unix.Timespec
	r, _, err := unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(p)), 1, uintptr(unsafe.Pointer(&now)), 0, 0, 0)
	return int(r), err
}

func (n *name) pointer() *byte { return (*byte)(unsafe.Pointer(n)) }

func (n *name) inet4() *unix.RawSockaddrInet4 { return (*unix.RawSockaddrInet4)(unsafe.Pointer(n)) }

// set makes n an address, and tells its length.
func (n *name) set(a *net.UDPAddr) uint32 {
	if v4 := a.IP.To4(); v4 != nil {
		*n.inet4() = unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: [4]byte(v4)}
		n.setPort(a.Port)
		return unix.SizeofSockaddrInet4
	}
	*n = name{Family: unix.AF_INET6}
	copy(n.Addr[:], a.IP)
	n.setPort(a.Port)
	return unix.SizeofSockaddrInet6
}

// get makes a the address that n is. One that nobody knows is the zero UDPAddr.
func (n *name) get(a *net.UDPAddr) {
	*a = net.UDPAddr{IP: a.IP[:0]}
	switch n.Family {
	case unix.AF_INET:
		a.IP = append(a.IP, n.inet4().Addr[:]...)
	case unix.AF_INET6:
		a.IP = append(a.IP, n.Addr[:]...)
		if n.Scope_id != 0 {
			a.Zone = strconv.FormatUint(uint64(n.Scope_id), 10)
		}
	default:
		return
	}
	a.Port = int(binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&n.Port))[:]))
}

func (n *name) setPort(port int) {
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&n.Port))[:], uint16(port))
}
