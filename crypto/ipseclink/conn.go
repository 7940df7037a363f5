package ipseclink

import (
	"cmp"
	"net"
	"os"
	"sync"
	"syscall"
)

// conn is a carrier's connection. It can be written to without waiting, and need not wake who
// reads for each packet of many that follow. Its methods are safe for concurrent use.
type conn struct {
	net.Conn                 // TCP
	poll     syscall.RawConn // nil where readiness cannot be waited for
	stop     func()          // watching the path; nil if somebody else sees to that

	reading   sync.Mutex // guards what follows
	readReady func(fd uintptr) bool
	dst       []byte
	got       int
	readErr   error
	reader    socketReader
	expected  int // bytes that are still to come, at least
	lowWater  int // so many have to be there before a wait ends

	writing    sync.Mutex // guards what follows, and orders writes on Conn
	writeReady func(fd uintptr) bool
	src        []byte
	writeErr   error
	left       *[]byte // what the kernel did not take of a WriteNow; nil if there is nothing
}

// leftovers are shared: a conn that has nothing left holds none.
var leftovers = sync.Pool{New: func() any { return new([]byte) }}

// quicken makes a carrier's connection of one that is open, and that nobody uses at the moment.
func quicken(c net.Conn, stop func()) *conn {
	q := &conn{Conn: c, poll: pollable(c), stop: stop, lowWater: 1}
	q.readReady, q.writeReady = q.tryRead, q.tryWrite
	return q
}

// NetConn gives the connection itself, whose socket may have to be tied to its path.
func (c *conn) NetConn() net.Conn { return c.Conn }

func (c *conn) Close() error {
	if c.stop != nil {
		c.stop()
	}
	return c.Conn.Close()
}

// Expect says how many bytes, at least, are to come after those that have been read. Read then
// may wait until many are there.
func (c *conn) Expect(n int) {
	c.reading.Lock()
	defer c.reading.Unlock()
	c.expected = n
}

func (c *conn) Read(b []byte) (int, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	if c.poll == nil || len(b) == 0 {
		return c.Conn.Read(b)
	}
	c.dst, c.got, c.readErr = b, 0, nil
	err := c.poll.Read(c.readReady)
	c.dst = nil
	c.expected = max(0, c.expected-c.got)
	return c.got, cmp.Or(c.readErr, err)
}

func (c *conn) Write(b []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	if err := c.flush(); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}

// WriteNow is Write without waiting. It takes all of b and of more, and tells whether something
// is left that the kernel did not take; Flush has to be called then.
func (c *conn) WriteNow(b, more []byte) (left bool, err error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	if err := c.flush(); err != nil {
		return false, err
	}
	for _, p := range [...][]byte{b, more} {
		if err := c.writeNow(p); err != nil {
			return false, err
		}
	}
	return c.left != nil, nil
}

// writeNow writes b, or puts into left what the kernel does not take. The caller holds writing.
func (c *conn) writeNow(b []byte) (err error) {
	n := 0
	if c.poll != nil && c.left == nil {
		n, err = c.send(b)
	}
	if err != nil || n == len(b) {
		return err
	}
	if c.left == nil {
		c.left = leftovers.Get().(*[]byte)
		*c.left = (*c.left)[:0]
	}
	*c.left = append(*c.left, b[n:]...)
	return nil
}

// send writes as much of b as the kernel takes at once. The caller holds writing.
func (c *conn) send(b []byte) (int, error) {
	c.src, c.writeErr = b, nil
	err := c.poll.Write(c.writeReady)
	n := len(b) - len(c.src)
	c.src = nil
	return n, cmp.Or(c.writeErr, err)
}

// Flush waits until nothing is left.
func (c *conn) Flush() error {
	c.writing.Lock()
	defer c.writing.Unlock()
	return c.flush()
}

// flush writes what is left, and keeps what it cannot write. The caller holds writing.
func (c *conn) flush() error {
	if c.left == nil {
		return nil
	}
	n, err := c.Conn.Write(*c.left)
	if *c.left = append((*c.left)[:0], (*c.left)[n:]...); len(*c.left) == 0 {
		leftovers.Put(c.left)
		c.left = nil
	}
	return err
}

func (c *conn) failed(call string, err error) error {
	return &net.OpError{Op: call, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: os.NewSyscallError(call, err)}
}
