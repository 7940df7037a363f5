package wglink

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

const (
	// closeTimeout bounds how long Close waits for the peer.
	closeTimeout = 250 * time.Millisecond

	// userTimeout (RFC 5482) is how long sent bytes may go unacknowledged
	// before a connection is given up.
	userTimeout = 30 * time.Second

	// An idle path that dies in silence is noticed within 25 + 3×5 s. Probes at
	// this pace also keep alive what NATs remember.
	keepAliveIdle     = 25 * time.Second
	keepAliveInterval = 5 * time.Second
	keepAliveCount    = 3
)

// tcpConn is a TCP connection inside WireGuard. All methods are safe for
// concurrent use.
type tcpConn struct {
	endpoint      tcpip.Endpoint
	queue         *waiter.Queue
	local, remote netip.AddrPort

	// onClose is called once, after the connection has ended; nil: nothing is.
	// It is set before anybody else uses the connection.
	onClose func()

	// buffers decides how long the connection's buffers are; nil: the stack does.
	buffers buffers

	reading, writing      sync.Mutex
	readable, writable    chan struct{}
	readEntry, writeEntry waiter.Entry
	readBy, writeBy       deadline

	closing sync.Once
	closed  chan struct{}
}

// buffers decides how long a connection's buffers are.
type buffers interface {
	received(n int) // was read
	grow() bool     // tells whether there is more room to write now
}

// newConn makes a net.Conn of an endpoint that is connected.
func newConn(endpoint tcpip.Endpoint, queue *waiter.Queue, local, remote netip.AddrPort) *tcpConn {
	c := &tcpConn{
		endpoint: endpoint,
		queue:    queue,
		local:    local,
		remote:   remote,
		readBy:   newDeadline(),
		writeBy:  newDeadline(),
		closed:   make(chan struct{}),
	}
	c.readEntry, c.readable = waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventHUp | waiter.EventErr)
	c.writeEntry, c.writable = waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventHUp | waiter.EventErr)
	queue.EventRegister(&c.readEntry)
	queue.EventRegister(&c.writeEntry)
	return c
}

// tune sets what keeps a connection from outliving its peer: how long sent bytes may
// go unacknowledged (RFC 5482), after how long without any it is probed, and how often.
// The options exist, so there is no error.
func tune(endpoint tcpip.Endpoint, unacknowledged, idle, interval time.Duration) {
	patience, rest, gap := tcpip.TCPUserTimeoutOption(unacknowledged), tcpip.KeepaliveIdleOption(idle), tcpip.KeepaliveIntervalOption(interval)
	_ = endpoint.SetSockOpt(&patience)
	_ = endpoint.SetSockOpt(&rest)
	_ = endpoint.SetSockOpt(&gap)
	_ = endpoint.SetSockOptInt(tcpip.KeepaliveCountOption, keepAliveCount)
	endpoint.SocketOptions().SetKeepAlive(true)
	endpoint.SocketOptions().SetDelayOption(false)
}

// connect opens a TCP connection through a stack.
func connect(ctx context.Context, s *stack.Stack, local netip.Addr, to netip.AddrPort) (*tcpConn, error) {
	var queue waiter.Queue
	endpoint, terr := s.NewEndpoint(tcp.ProtocolNumber, ipv6.ProtocolNumber, &queue)
	if terr != nil {
		return nil, stackError(terr)
	}
	tune(endpoint, userTimeout, keepAliveIdle, keepAliveInterval)
	entry, connected := waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventHUp | waiter.EventErr)
	queue.EventRegister(&entry)
	defer queue.EventUnregister(&entry)
	terr = endpoint.Connect(tcpip.FullAddress{NIC: nic, Addr: tcpip.AddrFrom16(to.Addr().As16()), Port: to.Port()})
	if _, started := terr.(*tcpip.ErrConnectStarted); started {
		select {
		case <-ctx.Done():
			endpoint.Abort()
			return nil, context.Cause(ctx)
		case <-connected:
		}
		terr = endpoint.LastError()
	}
	if terr != nil {
		endpoint.Abort()
		return nil, stackError(terr)
	}
	at, terr := endpoint.GetLocalAddress()
	if terr != nil {
		endpoint.Abort()
		return nil, stackError(terr)
	}
	return newConn(endpoint, &queue, netip.AddrPortFrom(local, at.Port), to), nil
}

// Read gives io.EOF when the peer has closed the connection, and only then.
func (c *tcpConn) Read(p []byte) (int, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	if err := c.over(&c.readBy); err != nil {
		return 0, c.fail("read", err)
	}
	if len(p) == 0 {
		return 0, nil
	}
	for {
		w := tcpip.SliceWriter(p)
		result, err := c.endpoint.Read(&w, tcpip.ReadOptions{})
		switch err.(type) {
		case nil:
			if c.buffers != nil {
				c.buffers.received(result.Count)
			} else {
				c.endpoint.ModerateRecvBuf(result.Count)
			}
			return result.Count, nil
		case *tcpip.ErrWouldBlock:
			if err := c.wait(c.readable, &c.readBy); err != nil {
				return 0, c.fail("read", err)
			}
		case *tcpip.ErrClosedForReceive:
			if err := c.over(nil); err != nil {
				return 0, c.fail("read", err)
			}
			return 0, io.EOF
		default:
			return 0, c.fail("read", c.cause(err))
		}
	}
}

// Write returns when TCP has taken all of p, or says how much it has taken.
func (c *tcpConn) Write(p []byte) (n int, err error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	if err := c.over(&c.writeBy); err != nil {
		return 0, c.fail("write", err)
	}
	var rest bytes.Reader
	for n < len(p) {
		rest.Reset(p[n:])
		m, err := c.endpoint.Write(&rest, tcpip.WriteOptions{})
		n += int(m)
		switch err.(type) {
		case nil:
		case *tcpip.ErrWouldBlock:
			if c.buffers != nil && c.buffers.grow() {
				continue
			}
			if err := c.wait(c.writable, &c.writeBy); err != nil {
				return n, c.fail("write", err)
			}
		default:
			return n, c.fail("write", c.cause(err))
		}
	}
	return n, nil
}

// wait waits for an event. It fails when the conn is closed or the time is up.
func (c *tcpConn) wait(event <-chan struct{}, by *deadline) error {
	select {
	case <-event:
		return nil
	case <-by.passed():
		return os.ErrDeadlineExceeded
	case <-c.closed:
		return net.ErrClosed
	}
}

// over tells why nothing can be read or written any more.
func (c *tcpConn) over(by *deadline) error {
	select {
	case <-c.closed:
		return net.ErrClosed
	default:
	}
	if by == nil {
		return nil
	}
	select {
	case <-by.passed():
		return os.ErrDeadlineExceeded
	default:
		return nil
	}
}

// cause is an error of the stack in words that callers know.
func (c *tcpConn) cause(err tcpip.Error) error {
	select {
	case <-c.closed:
		return net.ErrClosed
	default:
	}
	switch err.(type) {
	case *tcpip.ErrConnectionReset:
		return syscall.ECONNRESET
	case *tcpip.ErrTimeout:
		return syscall.ETIMEDOUT
	case *tcpip.ErrAborted, *tcpip.ErrConnectionAborted:
		return syscall.ECONNABORTED
	case *tcpip.ErrClosedForSend:
		return syscall.EPIPE
	}
	return stackError(err)
}

func (c *tcpConn) fail(op string, err error) error {
	return &net.OpError{Op: op, Net: "wireguard", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

// Close ends the connection so that the peer reads io.EOF behind all that was
// written. It waits at most 250 ms for the peer to do the same. Whoever is
// stuck in Read or Write comes free at once.
func (c *tcpConn) Close() error {
	c.closing.Do(func() {
		close(c.closed)
		c.finish()
		c.end()
	})
	return nil
}

// abort ends the connection at once. The peer gets an error, and what is on the
// way is lost.
func (c *tcpConn) abort() {
	c.closing.Do(func() {
		close(c.closed)
		c.endpoint.Abort()
		c.end()
	})
}

func (c *tcpConn) end() {
	c.queue.EventUnregister(&c.readEntry)
	c.queue.EventUnregister(&c.writeEntry)
	c.readBy.set(time.Time{})
	c.writeBy.set(time.Time{})
	if c.onClose != nil {
		c.onClose()
	}
}

// finish sends the end and waits for the peer's.
func (c *tcpConn) finish() {
	defer c.endpoint.Close()
	if err := c.endpoint.Shutdown(tcpip.ShutdownWrite); err != nil {
		return // there is nobody any more
	}
	c.reading.Lock() // whoever was in Read has seen closed
	defer c.reading.Unlock()
	timeout := time.NewTimer(closeTimeout)
	defer timeout.Stop()
	for {
		_, err := c.endpoint.Read(io.Discard, tcpip.ReadOptions{})
		if err == nil {
			continue
		}
		if _, more := err.(*tcpip.ErrWouldBlock); !more {
			return
		}
		select {
		case <-c.readable:
		case <-timeout.C:
			return
		}
	}
}

func (c *tcpConn) LocalAddr() net.Addr  { return net.TCPAddrFromAddrPort(c.local) }
func (c *tcpConn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.remote) }

func (c *tcpConn) SetDeadline(t time.Time) error {
	c.readBy.set(t)
	c.writeBy.set(t)
	return nil
}

func (c *tcpConn) SetReadDeadline(t time.Time) error {
	c.readBy.set(t)
	return nil
}

func (c *tcpConn) SetWriteDeadline(t time.Time) error {
	c.writeBy.set(t)
	return nil
}

// String is for logs.
func (c *tcpConn) String() string { return fmt.Sprintf("%v to %v", c.local, c.remote) }

// deadline is a time that can be waited for and moved.
type deadline struct {
	mu    sync.Mutex
	timer *time.Timer
	done  chan struct{}
}

func newDeadline() deadline { return deadline{done: make(chan struct{})} }

// passed gives a channel that is closed when the time is up, as it is set now.
func (d *deadline) passed() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.done
}

// set moves the deadline. A zero time is never.
func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil && !d.timer.Stop() {
		<-d.done // the timer is about to close it
	}
	d.timer = nil
	select {
	case <-d.done:
		d.done = make(chan struct{})
	default:
	}
	if t.IsZero() {
		return
	}
	if left := time.Until(t); left > 0 {
		done := d.done
		d.timer = time.AfterFunc(left, func() { close(done) })
		return
	}
	close(d.done)
}
