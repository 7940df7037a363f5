package nowait

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Conn is a TCP connection that package net knows nothing of: it is begun, waited for, ended and
// closed without the scheduler, too. Its methods are safe for concurrent use. Who has one closes
// it, as nothing else does.
type Conn struct {
	fd            int
	life          uint32 // of those that descriptors of this number have had
	local, remote netip.AddrPort

	from Reader // of Read

	mu     sync.Mutex
	users  int // calls under way that use fd
	closed bool
	in     side
	out    side
}

// side is one of the two directions.
type side struct {
	turn sync.Mutex // one call at a time waits

	// Under the conn's mu.
	ready   bool // something has happened since it was tried last
	expired bool
	timer   *time.Timer // sets expired; nil: there never was a deadline
	until   time.Time   // the deadline; zero: there is none
	changed sync.Cond
}

// Open takes over a socket that does not block and connects to remote, or has. If it fails the
// socket is closed.
func Open(fd int, remote netip.AddrPort) (*Conn, error) {
	c := &Conn{fd: fd, remote: remote}
	c.in.changed.L, c.out.changed.L = &c.mu, &c.mu
	if err := sockets.add(c); err != nil {
		c.release()
		return nil, err
	}
	return c, nil
}

// Close is close(2), after which a descriptor is closed whatever that says.
func Close(fd int) { syscall.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0) }

// use gives the descriptor to f, once. The conn is not closed meanwhile.
func (c *Conn) use(f func(fd int)) error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return net.ErrClosed
	}
	c.users++
	c.mu.Unlock()
	f(c.fd)
	c.mu.Lock()
	c.unuse()
	return nil
}

// unuse ends a use, and unlocks mu. Nobody begins one once the conn is closed.
func (c *Conn) unuse() {
	c.users--
	last := c.closed && c.users == 0
	c.mu.Unlock()
	if last {
		c.release()
	}
}

// release gives up the descriptor, which nobody uses any more.
func (c *Conn) release() {
	over := sockets.remove(c)
	Close(c.fd)
	over.end()
}

// do calls f until it has done what it is for, whenever something may have happened.
func (c *Conn) do(s *side, f func(fd uintptr) bool) error {
	s.turn.Lock()
	defer s.turn.Unlock()
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return net.ErrClosed
	}
	c.users++
	defer c.unuse()
	for !s.expired {
		s.ready = false
		c.mu.Unlock()
		done := f(uintptr(c.fd))
		c.mu.Lock()
		if done {
			return nil
		}
		for !s.ready && !s.expired && !c.closed {
			s.changed.Wait()
		}
		if c.closed {
			return net.ErrClosed
		}
	}
	return os.ErrDeadlineExceeded
}

// happens notes that it may be read or written.
func (c *Conn) happens(in, out bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if in {
		c.in.ready = true
		c.in.changed.Signal()
	}
	if out {
		c.out.ready = true
		c.out.changed.Signal()
	}
}

// Read reads what there is, and waits for it.
func (c *Conn) Read(b []byte) (n int, err error) {
	var failed error
	wait := c.do(&c.in, func(fd uintptr) bool {
		n, failed = c.from.Read(int(fd), b)
		return failed != syscall.EAGAIN
	})
	switch {
	case wait != nil:
		return 0, c.failed("read", wait)
	case failed != nil:
		return 0, c.failed("read", os.NewSyscallError("read", failed))
	case n == 0 && len(b) > 0:
		return 0, io.EOF
	}
	return n, nil
}

// Write writes all of b.
func (c *Conn) Write(b []byte) (n int, err error) {
	var failed error
	wait := c.do(&c.out, func(fd uintptr) bool {
		for n < len(b) {
			k, err := Write(int(fd), b[n:])
			switch err {
			case nil:
				n += k
			case syscall.EAGAIN:
				return false
			default:
				failed = os.NewSyscallError("write", err)
				return true
			}
		}
		return true
	})
	if wait != nil {
		failed = wait
	}
	if failed != nil {
		return n, c.failed("write", failed)
	}
	return n, nil
}

// failed says what it was that failed, as package net does.
func (c *Conn) failed(what string, err error) error {
	return &net.OpError{Op: what, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

// CloseWrite ends the outgoing direction.
func (c *Conn) CloseWrite() error {
	var errno syscall.Errno
	err := c.use(func(fd int) {
		_, _, errno = syscall.RawSyscall(unix.SYS_SHUTDOWN, uintptr(fd), unix.SHUT_WR, 0)
	})
	if errno != 0 {
		err = os.NewSyscallError("shutdown", errno)
	}
	if err != nil {
		return c.failed("close", err)
	}
	return nil
}

// Close lets the kernel send what has been written.
func (c *Conn) Close() error { return c.end(false) }

// Reset makes the kernel send RST.
func (c *Conn) Reset() error { return c.end(true) }

// end closes the connection, the one way or the other.
func (c *Conn) end(reset bool) error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return c.failed("close", net.ErrClosed)
	}
	// It fails if the connection has ended in both directions, which makes no difference then.
	_ = SetLinger(c.fd, reset)
	c.closed = true
	for _, s := range []*side{&c.in, &c.out} {
		if s.timer != nil {
			s.timer.Stop()
		}
		s.changed.Broadcast()
	}
	c.users++
	c.unuse()
	return nil
}

// LocalAddr is the address of this end.
func (c *Conn) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(c.local) }

// RemoteAddr is the address of the other one.
func (c *Conn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.remote) }

// Connected notes that it has connected, before all other uses, and gives the address of this end.
func (c *Conn) Connected() netip.AddrPort {
	_ = c.use(func(fd int) { c.local = localOf(fd) })
	return c.local
}

// localOf is getsockname(2).
func localOf(fd int) netip.AddrPort {
	var at unix.RawSockaddrAny
	size := uint32(unsafe.Sizeof(at))
	_, _, errno := syscall.RawSyscall(unix.SYS_GETSOCKNAME, uintptr(fd), uintptr(unsafe.Pointer(&at)), uintptr(unsafe.Pointer(&size)))
	if errno != 0 {
		return netip.AddrPort{}
	}
	switch at.Addr.Family {
	case unix.AF_INET:
		four := (*unix.RawSockaddrInet4)(unsafe.Pointer(&at))
		return netip.AddrPortFrom(netip.AddrFrom4(four.Addr), hostOrder(&four.Port))
	case unix.AF_INET6:
		six := (*unix.RawSockaddrInet6)(unsafe.Pointer(&at))
		return netip.AddrPortFrom(netip.AddrFrom16(six.Addr), hostOrder(&six.Port))
	}
	return netip.AddrPort{}
}

// hostOrder gives the number of a port as the network spells it.
func hostOrder(port *uint16) uint16 {
	return binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(port))[:])
}

// SetDeadline is both SetReadDeadline and SetWriteDeadline.
func (c *Conn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// SetReadDeadline says until when is waited for something to read. Zero is for ever.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.limit(&c.in, t) }

// SetWriteDeadline says until when is waited for room to write.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.limit(&c.out, t) }

func (c *Conn) limit(s *side, t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return c.failed("set", net.ErrClosed)
	}
	s.until, s.expired = t, false
	if t.IsZero() {
		if s.timer != nil {
			s.timer.Stop()
		}
		return nil
	}
	left := time.Until(t)
	switch {
	case left <= 0:
		s.expired = true
		s.changed.Signal()
	case s.timer == nil:
		s.timer = time.AfterFunc(left, func() { c.expire(s) })
	default:
		s.timer.Reset(left)
	}
	return nil
}

// expire ends a wait, unless the deadline is another one by now.
func (c *Conn) expire(s *side) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch left := time.Until(s.until); {
	case s.until.IsZero() || c.closed:
	case left > 0: // the clock may have been set back, too
		s.timer.Reset(left)
	default:
		s.expired = true
		s.changed.Signal()
	}
}

// SyscallConn gives the descriptor to who knows what to do with it. It never fails.
func (c *Conn) SyscallConn() (syscall.RawConn, error) { return (*rawConn)(c), nil }

type rawConn Conn

func (r *rawConn) Control(f func(fd uintptr)) error {
	return (*Conn)(r).use(func(fd int) { f(uintptr(fd)) })
}

func (r *rawConn) Read(f func(fd uintptr) bool) error {
	c := (*Conn)(r)
	return c.do(&c.in, f)
}

func (r *rawConn) Write(f func(fd uintptr) bool) error {
	c := (*Conn)(r)
	return c.do(&c.out, f)
}

// SetOption is setsockopt(2) for a number.
func SetOption(fd, level, name, value int) error {
	v := int32(value)
	return setOption(fd, level, name, unsafe.Pointer(&v), unsafe.Sizeof(v))
}

// SetLinger says whether to close a socket, or to die with it, breaks its connection.
func SetLinger(fd int, breaks bool) error {
	var how unix.Linger
	if breaks {
		how.Onoff = 1
	}
	return setOption(fd, unix.SOL_SOCKET, unix.SO_LINGER, unsafe.Pointer(&how), unsafe.Sizeof(how))
}

func setOption(fd, level, name int, value unsafe.Pointer, size uintptr) error {
	_, _, errno := syscall.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name), uintptr(value), size, 0)
	if errno != 0 {
		return os.NewSyscallError("setsockopt", errno)
	}
	return nil
}
