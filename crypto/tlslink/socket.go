package tlslink

import (
	"net"
	"time"
)

// Tune sets up a TCP connection for a carrier; others stay as they are. A
// setting that the system does not know stays at its default, and a connection
// that is closed already fails soon enough. So there is no error.
func Tune(c net.Conn) {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return
	}
	// A write is a whole burst already: waiting for more to send with it
	// (RFC 896) would only add a round trip.
	_ = tcp.SetNoDelay(true)
	// An idle path that dies in silence is noticed within 25 + 3×5 s. Probes at
	// this pace also keep alive what NATs remember of the connection. A session asks
	// its peer a bit more often than that, so that both together cost as little as one.
	_ = tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 25 * time.Second, Interval: 5 * time.Second, Count: 3})
	tuneMore(tcp)
}
