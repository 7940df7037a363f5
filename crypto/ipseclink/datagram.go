package ipseclink

import (
	"context"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// maxDatagram is the size of the longest datagram that goes beside a connection.
const maxDatagram = 2 << 10

// maxMessage is the longest message that a path can be asked to take.
const maxMessage = frameSize + maxDatagram

// packetSizes are those of IP packets that may get through where it is not known what
// does: below Ethernet with some tunnel, the least of IPv6, that inside of ESP in UDP, and
// the least that every host takes.
var packetSizes = [...]int{1400, 1280, 1198, 576}

// Passage is a path for packets of UDP that IPsec protects.
type Passage interface {
	// MTU is how many bytes an IP packet may have at the moment, header and all, so that it
	// goes through in one piece, as far as that is known. It is 0 while the path is not
	// protected.
	MTU() int

	// Stop ends the watching of the path. It is called once.
	Stop()
}

// Protect has a socket, which is not bound yet, send by a protected path only.
type Protect func(ctx context.Context, local, remote netip.AddrPort, c syscall.RawConn) (Passage, error)

// DatagramConn is a carrier's connection that takes datagrams beside its bytes, past
// whatever those wait for. Only the other end can send them, and none arrives twice. They
// may get lost and overtake each other and the bytes.
type DatagramConn interface {
	net.Conn

	// DatagramSize is how many bytes a datagram may have at the moment, so that it gets
	// through in one piece. It is 0 until it is known that any do, and when they do not
	// any more.
	DatagramSize() int

	// WriteDatagrams sends datagrams and keeps nothing of batch. It never waits, and may
	// drop any. It is safe for concurrent use, also with Write.
	WriteDatagrams(batch [][]byte)

	// ReadDatagram waits for a datagram, of which it drops what b has no room for. It
	// fails once the conn is closed. It is called by one goroutine at a time.
	ReadDatagram(b []byte) (int, error)
}

// accompanied is a connection with datagrams beside it.
type accompanied struct {
	*conn
	*companion
}

var _ DatagramConn = accompanied{}

func (c accompanied) Close() error {
	c.companion.close()
	return c.conn.Close()
}

// companion takes datagrams beside a connection of TCP, between the same addresses and
// ports. Nobody but the other end can send them, and none is taken twice: that the path is
// protected says nothing of who may use it.
type companion struct {
	conn    *net.UDPConn
	raw     syscall.RawConn
	passage Passage
	headers int // of IP and UDP

	out   sealer
	in    opener // of ReadDatagram
	proof proof

	// heard tells that the other end takes datagrams. A client finds out by asking, and a
	// server does not ask before, as there may be nobody.
	heard atomic.Bool
	room  []byte // of ReadDatagram

	closing sync.Once
}

// accompany opens a companion for a connection. Where that is not to be had, datagrams
// go among the connection's bytes.
func accompany(ctx context.Context, conn net.Conn, protect Protect, out, in cipher.AEAD) (*companion, error) {
	local, remote := addrPort(conn.LocalAddr()), addrPort(conn.RemoteAddr())
	c := &companion{headers: 20 + 8, room: make([]byte, margin+maxMessage)}
	if remote.Addr().Is6() {
		c.headers += 20
	}
	c.out.key, c.in.key = out, in
	var err error
	c.conn, err = openUDP(ctx, local, remote, func(raw syscall.RawConn) (err error) {
		c.passage, err = protect(ctx, local, remote, raw)
		return err
	})
	if err == nil {
		c.raw, err = c.conn.SyscallConn()
	}
	if err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// close may be called more than once.
func (c *companion) close() {
	c.closing.Do(func() {
		if c.conn != nil {
			_ = c.conn.Close() // what was sent is sent
		}
		if c.passage != nil {
			c.passage.Stop()
		}
	})
}

// DatagramSize is how many bytes a datagram may have. It asks whether they get through, if
// it is time.
func (c *companion) DatagramSize() int {
	limit := min(c.passage.MTU()-c.headers, maxMessage)
	if !c.heard.Load() || limit <= frameSize {
		return 0
	}
	size, ask := c.proof.look(time.Now())
	if ask {
		c.ask(size, limit)
	}
	return max(0, min(size, limit)-frameSize)
}

// ask sends probes of all lengths from that of what is known to get through.
func (c *companion) ask(known, limit int) {
	var probes [][]byte
	for _, packet := range packetSizes {
		if size := packet - c.headers; size < limit && size >= known {
			probes = append(probes, make([]byte, size-frameSize))
		}
	}
	c.send(kindProbe, append(probes, make([]byte, limit-frameSize)))
}

// WriteDatagrams sends datagrams, and drops what is too long or finds no room.
func (c *companion) WriteDatagrams(batch [][]byte) {
	if c.passage.MTU() > 0 {
		c.send(kindDatagram, batch)
	}
}

var messagePool = sync.Pool{New: func() any { b := make([]byte, margin, margin+maxMessage); return &b }}

func (c *companion) send(kind byte, all [][]byte) {
	b := messagePool.Get().(*[]byte)
	defer messagePool.Put(b)
	_ = c.raw.Write(func(fd uintptr) bool { // or it is closed
		for _, content := range all {
			if len(content) > maxDatagram {
				continue
			}
			if tooLong := transmit(fd, c.out.seal((*b)[:margin], kind, content)[margin:]); tooLong && kind == kindDatagram {
				c.proof.shrink()
			}
		}
		return true
	})
}

// ReadDatagram waits for a datagram, of which it drops what b has no room for. It is
// called by one goroutine at a time.
func (c *companion) ReadDatagram(b []byte) (int, error) {
	for {
		n, err := c.conn.Read(c.room[margin:])
		if errors.Is(err, net.ErrClosed) {
			return 0, err
		}
		if err != nil {
			continue // it is about something that was sent
		}
		kind, content, ok := c.in.open(c.room[:margin+n])
		if !ok {
			continue
		}
		c.heard.Store(true)
		switch kind {
		case kindDatagram:
			return copy(b, content), nil
		case kindProbe:
			c.send(kindAnswer, [][]byte{binary.BigEndian.AppendUint16(nil, uint16(n))})
		case kindAnswer:
			if len(content) == 2 {
				c.proof.answer(time.Now(), int(binary.BigEndian.Uint16(content)))
			}
		}
	}
}
