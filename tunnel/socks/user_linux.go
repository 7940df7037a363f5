package socks

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/adit-net/adit/tunnel/nowait"
)

var errOtherUser = errors.New("the app belongs to another user")

// checkUser fails unless a process of this process's own user holds the other
// end of a loopback TCP connection.
func checkUser(c net.Conn) error {
	uid, err := tcpOwner(c)
	if err != nil {
		return err
	}
	if uid != uint32(os.Geteuid()) {
		return fmt.Errorf("%w (uid %d)", errOtherUser, uid)
	}
	return nil
}

// tcpOwner tells whose process holds the other end of a loopback TCP connection.
func tcpOwner(c net.Conn) (uid uint32, err error) {
	app, err := loopback(c.RemoteAddr())
	if err != nil {
		return 0, err
	}
	door, err := loopback(c.LocalAddr())
	if err != nil {
		return 0, err
	}
	s, err := findSocket(unix.IPPROTO_TCP, app, door)
	switch {
	case err != nil:
		return 0, fmt.Errorf("find the app's socket: %w", err)
	case s.local != app || s.remote != door:
		// For want of the connection the kernel gives a listener at app.
		return 0, errors.New("find the app's socket: it is gone")
	case s.inode == 0:
		// What a process has closed belongs to root, says the kernel.
		return 0, errors.New("find the app's socket: the app has closed it")
	}
	return s.uid, nil
}

func loopback(a net.Addr) (netip.AddrPort, error) {
	t, ok := a.(*net.TCPAddr)
	if !ok || !t.IP.IsLoopback() {
		return netip.AddrPort{}, fmt.Errorf("%v is not on loopback", a)
	}
	return unmapped(t.AddrPort()), nil
}

// canTellUsers tries a look-up with a socket that is known to be ours: some
// kernels and sandboxes do not answer.
func canTellUsers(ip net.IP) error {
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: ip})
	if err != nil {
		return err
	}
	defer ln.Close()
	local := unmapped(ln.Addr().(*net.TCPAddr).AddrPort())
	any := netip.IPv4Unspecified()
	if local.Addr().Is6() {
		any = netip.IPv6Unspecified()
	}
	s, err := findSocket(unix.IPPROTO_TCP, local, netip.AddrPortFrom(any, 0))
	if err != nil {
		return fmt.Errorf("%w (%w)", errors.ErrUnsupported, err)
	}
	if s.local != local || s.uid != uint32(os.Geteuid()) || s.inode == 0 {
		return fmt.Errorf("%w: the kernel's answer does not fit", errors.ErrUnsupported)
	}
	return nil
}

// diagSocket is what the kernel tells of a socket.
type diagSocket struct {
	local, remote netip.AddrPort
	uid, inode    uint32
}

// Layout of what goes over a sock_diag socket, in bytes: struct nlmsghdr, and
// then struct inet_diag_req_v2 or struct inet_diag_msg, which both hold a struct
// inet_diag_sockid.
const (
	diagHead     = 16
	diagRequest  = diagHead + 56
	diagReply    = diagHead + 72
	diagIDAsked  = diagHead + 8
	diagIDTold   = diagHead + 4
	diagUID      = diagHead + 64
	diagInode    = diagHead + 68
	sockidRemote = 20 // after two ports and the local address
	sockidCookie = 40
)

// findSocket asks the kernel for one socket of a protocol by both its addresses. This is a
// look-up and no dump: it costs the same however many sockets there are, and
// finds nothing else by chance. An IPv4 socket is found whether its process
// sees it as IPv4 or as IPv4 mapped to IPv6.
func findSocket(protocol byte, local, remote netip.AddrPort) (diagSocket, error) {
	d, ok := diags.Get().(*diag)
	if !ok {
		var err error
		if d, err = openDiag(); err != nil {
			return diagSocket{}, err
		}
	}
	answer, err := d.ask(protocol, local, remote)
	if err != nil {
		// Dropped instead of put back: the answer could still come, and be
		// taken for that to another question.
		return diagSocket{}, err
	}
	s, err := parseDiag(answer)
	diags.Put(d)
	return s, err
}

// diags are those that wait for the next question. The garbage collector closes
// what has been idle for long.
var diags sync.Pool

// diag is a sock_diag socket, for one question at a time.
type diag struct {
	fd       int
	from     nowait.Reader
	number   uint32 // of the last question
	question [diagRequest]byte
	answer   [4096]byte
}

func openDiag() (*diag, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_INET_DIAG)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	d := &diag{fd: fd}
	runtime.AddCleanup(d, func(fd int) { _ = unix.Close(fd) }, fd)
	// From now on nothing comes but what the kernel sends.
	if err := unix.Connect(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, os.NewSyscallError("connect", err)
	}
	return d, nil
}

// ask gives the kernel's answer, which is valid until the next question.
func (d *diag) ask(protocol byte, local, remote netip.AddrPort) ([]byte, error) {
	defer runtime.KeepAlive(d)
	d.number++
	writeQuestion(&d.question, d.number, protocol, local, remote)
	if _, err := nowait.Write(d.fd, d.question[:]); err != nil {
		return nil, os.NewSyscallError("write", err)
	}
	// The kernel has answered before write returns, so nothing waits here.
	n, err := d.from.Read(d.fd, d.answer[:])
	switch {
	case err != nil:
		return nil, os.NewSyscallError("read", err)
	case n < diagHead || binary.NativeEndian.Uint32(d.answer[8:]) != d.number:
		return nil, errors.New("the kernel answers something else")
	}
	return d.answer[:n], nil
}

// writeQuestion fills in b, whose other bytes are zeros.
func writeQuestion(b *[diagRequest]byte, number uint32, protocol byte, local, remote netip.AddrPort) {
	binary.NativeEndian.PutUint32(b[:], diagRequest)
	binary.NativeEndian.PutUint16(b[4:], unix.SOCK_DIAG_BY_FAMILY)
	binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_REQUEST)
	binary.NativeEndian.PutUint32(b[8:], number)
	b[diagHead] = unix.AF_INET6
	if local.Addr().Is4() {
		b[diagHead] = unix.AF_INET
	}
	b[diagHead+1] = protocol
	binary.NativeEndian.PutUint32(b[diagHead+4:], 0xffffffff) // in any state

	id := b[diagIDAsked:]
	binary.BigEndian.PutUint16(id, local.Port())
	binary.BigEndian.PutUint16(id[2:], remote.Port())
	putAddr(id[4:sockidRemote], local.Addr())
	putAddr(id[sockidRemote:sockidCookie-4], remote.Addr())
	binary.NativeEndian.PutUint64(id[sockidCookie:], ^uint64(0)) // whatever its cookie
}

// putAddr fills 16 bytes with an address, and zeros behind it.
func putAddr(b []byte, a netip.Addr) {
	clear(b)
	if a.Is4() {
		four := a.As4()
		copy(b, four[:])
		return
	}
	sixteen := a.As16()
	copy(b, sixteen[:])
}

func parseDiag(b []byte) (diagSocket, error) {
	if len(b) < diagHead+4 {
		return diagSocket{}, errors.New("the kernel's answer is short")
	}
	switch kind := binary.NativeEndian.Uint16(b[4:]); {
	case kind == unix.NLMSG_ERROR:
		return diagSocket{}, syscall.Errno(-int32(binary.NativeEndian.Uint32(b[diagHead:])))
	case kind != unix.SOCK_DIAG_BY_FAMILY || len(b) < diagReply:
		return diagSocket{}, fmt.Errorf("the kernel's answer has type %d and %d bytes", kind, len(b))
	}
	address := func(b []byte) netip.Addr { return netip.AddrFrom16([16]byte(b)).Unmap() }
	if b[diagHead] == unix.AF_INET {
		address = func(b []byte) netip.Addr { return netip.AddrFrom4([4]byte(b[:4])) }
	}
	id := b[diagIDTold:]
	return diagSocket{
		local:  netip.AddrPortFrom(address(id[4:sockidRemote]), binary.BigEndian.Uint16(id)),
		remote: netip.AddrPortFrom(address(id[sockidRemote:sockidRemote+16]), binary.BigEndian.Uint16(id[2:])),
		uid:    binary.NativeEndian.Uint32(b[diagUID:]),
		inode:  binary.NativeEndian.Uint32(b[diagInode:]),
	}, nil
}
