package socks

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/adit-net/adit/tunnel/relay"
)

const (
	// gssPayload is how much of a stream goes into one message. An app can use
	// nothing of a message until all of it has come.
	gssPayload = 16 << 10

	// gssBurst is how many messages are written at once.
	gssBurst = 4

	// gssBuffer has room for them, and for the longest message that may come.
	gssBuffer = gssBurst * (gssPayload + 128)
)

var errGSSNotSealed = errors.New("the app sends in the clear what was to be sealed")

// gssBuffers holds *[]byte of gssBuffer bytes.
var gssBuffers = sync.Pool{New: func() any {
	b := make([]byte, gssBuffer)
	return &b
}}

// Conn protects a connection as agreed; at level 0 it is c itself. Each Write of up
// to 16 KiB becomes one message, as the messages of SOCKS have to be. A Write
// that fails with a time-out has taken the n bytes that it reports: those not sent
// yet go first with the next Write.
//
// RFC 1961 protects no end of a stream: a clean end may be somebody else's doing
// unless it comes within a message.
func (g *GSSChannel) Conn(c relay.Conn) relay.Conn {
	if g.Level == GSSLevelNone {
		return c
	}
	return &gssConn{Conn: c, channel: g}
}

// seals tells whether the door seals what it sends.
func (g *GSSChannel) seals() bool { return g.Level != GSSLevelIntegrity }

// check finds out whether what came is protected as agreed.
func (g *GSSChannel) check(sealed bool) error {
	if g.Level == GSSLevelConfidentiality && !sealed {
		return errGSSNotSealed
	}
	return nil
}

// gssConn takes its buffers while a message is under way, and holds none when it
// waits.
type gssConn struct {
	relay.Conn
	channel *GSSChannel

	reading sync.Mutex
	head    [gssHead]byte
	body    *[]byte // nil while there is no message to read into it
	have    int     // how much of the message there is, its head included
	payload []byte  // of the last message, what nobody has read yet; in body
	readErr error   // what is wrong with the stream, for good

	writing  sync.Mutex
	unsent   []byte // of a Write that timed out
	writeErr error  // of the last Write

	writeBy atomic.Pointer[time.Time] // the deadline for writing; nil or zero for none
}

func (c *gssConn) Read(p []byte) (int, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	for len(c.payload) == 0 && len(p) > 0 {
		if err := c.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, c.payload)
	if c.payload = c.payload[n:]; len(c.payload) == 0 {
		c.release()
	}
	return n, nil
}

// WaitRead waits until Read has something to give: bytes, the end or an
// error.
func (c *gssConn) WaitRead() error {
	c.reading.Lock()
	defer c.reading.Unlock()
	if len(c.payload) > 0 || c.readErr != nil || c.have > 0 {
		return nil
	}
	return c.fill(c.head[:], 1)
}

// release gives back the buffer, unless a part of a message is in it.
func (c *gssConn) release() {
	if c.body != nil && c.have == 0 {
		gssBuffers.Put(c.body)
		c.body, c.payload = nil, nil
	}
}

// next reads one message. If the connection's deadline passes meanwhile, the
// next call goes on where this one was.
func (c *gssConn) next() error {
	if c.readErr != nil {
		return c.readErr
	}
	if err := c.fill(c.head[:], 2); err != nil {
		return err
	}
	if err := gssError(gssData, c.head[0], c.head[1]); err != nil {
		return c.spoil(err)
	}
	if err := c.fill(c.head[:], gssHead); err != nil {
		return err
	}
	size := int(binary.BigEndian.Uint16(c.head[2:]))
	if c.body == nil {
		c.body = gssBuffers.Get().(*[]byte)
	}
	message := (*c.body)[:gssHead+size]
	if err := c.fill(message, len(message)); err != nil {
		return err
	}
	c.have = 0
	payload, sealed, err := c.channel.context.Unwrap(message[gssHead:])
	if err == nil {
		err = c.channel.check(sealed)
	}
	if err != nil {
		return c.spoil(err)
	}
	if c.payload = payload; len(payload) == 0 {
		c.release()
	}
	return nil
}

// spoil ends the reading of a stream that makes no sense any more.
func (c *gssConn) spoil(err error) error {
	c.readErr = fmt.Errorf("read GSS-API message: %w", err)
	c.have = 0
	c.release()
	return c.readErr
}

// fill reads into b, where the message is to be, until there are n bytes of it.
func (c *gssConn) fill(b []byte, n int) error {
	for c.have < n {
		m, err := c.Conn.Read(b[c.have:])
		c.have += m
		switch {
		case c.have >= n:
			return nil
		case errors.Is(err, io.EOF) && c.have > 0:
			return c.spoil(io.ErrUnexpectedEOF)
		case errors.Is(err, io.EOF):
			return c.ended(err)
		case err != nil:
			return err
		}
	}
	return nil
}

// ended tells an end that is none: if a Write has got to know of a reset, the
// kernel reports a clean end to Read.
func (c *gssConn) ended(end error) error {
	if relay.Gone(c.Conn) {
		c.writing.Lock() // a Write that is under way returns at once
	} else if !c.writing.TryLock() {
		return end
	}
	defer c.writing.Unlock()
	if c.writeErr != nil && !gssTimeout(c.writeErr) && !errors.Is(c.writeErr, syscall.EPIPE) {
		return c.writeErr
	}
	return end
}

// Write takes nothing if the deadline has passed before.
func (c *gssConn) Write(p []byte) (n int, err error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	if c.writeErr != nil && !gssTimeout(c.writeErr) {
		return 0, c.writeErr
	}
	if by := c.writeBy.Load(); by != nil && !by.IsZero() && !time.Now().Before(*by) {
		return 0, os.ErrDeadlineExceeded
	}
	if c.writeErr = c.flush(); c.writeErr != nil || len(p) == 0 {
		return 0, c.writeErr
	}
	buf := gssBuffers.Get().(*[]byte)
	defer gssBuffers.Put(buf)
	for len(p) > 0 && c.writeErr == nil {
		burst := p[:min(len(p), gssBurst*gssPayload)]
		b, err := c.wrap((*buf)[:0], burst)
		if err != nil {
			c.writeErr = fmt.Errorf("write GSS-API message: %w", err)
			return n, c.writeErr
		}
		m, err := c.Conn.Write(b)
		if c.writeErr = err; gssTimeout(err) {
			c.unsent = slices.Clone(b[m:])
		} else if err != nil {
			return n, err
		}
		n, p = n+len(burst), p[len(burst):]
	}
	return n, c.writeErr
}

// flush sends what an earlier Write has not.
func (c *gssConn) flush() error {
	if len(c.unsent) == 0 {
		return nil
	}
	m, err := c.Conn.Write(c.unsent)
	if c.unsent = c.unsent[m:]; len(c.unsent) == 0 {
		c.unsent = nil
	}
	return err
}

// wrap appends p as messages.
func (c *gssConn) wrap(b, p []byte) (_ []byte, err error) {
	for chunk := range slices.Chunk(p, gssPayload) {
		start := len(b)
		b = c.channel.context.Wrap(beginGSS(b, gssData), chunk, c.channel.seals())
		if b, err = endGSS(b, start); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func (c *gssConn) SetDeadline(t time.Time) error {
	c.writeBy.Store(&t)
	return c.Conn.SetDeadline(t)
}

func (c *gssConn) SetWriteDeadline(t time.Time) error {
	c.writeBy.Store(&t)
	return c.Conn.SetWriteDeadline(t)
}

func gssTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// Fail resets the connection for a reason, which the conn below learns.
func (c *gssConn) Fail(reason error) { relay.Fail(c.Conn, reason) }
