package tlslink

import (
	"net"
	"sync"
	"time"
)

// How often, and for how long after the last byte, a vigil looks.
const (
	vigilPeriod = 100 * time.Millisecond
	vigilLooks  = 50
)

// vigil ends a Multipath TCP connection that has lost its last path. When that
// is reset or closed underway, the kernel says nothing for a minute, lest
// another path comes up (net.mptcp.close_timeout). By then whoever had heard
// of it would long have another carrier.
//
// A vigil looks while there is traffic and for 5 s after it, so that an idle
// connection wakes nobody up. A nil vigil does nothing.
type vigil struct {
	conn *net.TCPConn

	mu    sync.Mutex
	timer *time.Timer
	looks int // still to come
	over  bool
}

// newVigil gives nil for a connection that has one path.
func newVigil(c net.Conn) *vigil {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return nil
	}
	if multipath, err := tcp.MultipathTCP(); err != nil || !multipath {
		return nil
	}
	return watch(tcp)
}

func watch(tcp *net.TCPConn) *vigil {
	v := &vigil{conn: tcp}
	v.timer = time.AfterFunc(vigilPeriod, v.look)
	v.timer.Stop()
	return v
}

// stir says that there is traffic.
func (v *vigil) stir() {
	if v == nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.looks == 0 && !v.over {
		v.timer.Reset(vigilPeriod)
	}
	v.looks = vigilLooks
}

func (v *vigil) look() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.over {
		return
	}
	if pathless(v.conn) {
		// Whoever reads or writes comes free, as if the peer had cut the connection.
		v.over = true
		_ = v.conn.CloseRead()
		_ = v.conn.CloseWrite()
		return
	}
	if v.looks--; v.looks > 0 {
		v.timer.Reset(vigilPeriod)
	}
}

// end ends the vigil. It does not look any more when end returns.
func (v *vigil) end() {
	if v == nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.over = true
	v.timer.Stop()
}
