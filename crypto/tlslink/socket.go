package tlslink

import (
	"fmt"
	"net"
	"time"
)

// tune sets up a TCP connection for a carrier. Other connections stay as they are.
func tune(c net.Conn) error {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return nil
	}
	// A write is a whole burst already: waiting for more to send with it
	// (RFC 896) would only add a round trip.
	if err := tcp.SetNoDelay(true); err != nil {
		return fmt.Errorf("tune socket: %w", err)
	}
	// A path that dies in silence is noticed within 15 + 3×5 s. Probes at this
	// pace also keep alive what NATs remember of the connection.
	keepAlive := net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}
	if err := tcp.SetKeepAliveConfig(keepAlive); err != nil {
		return fmt.Errorf("tune socket: %w", err)
	}
	if err := tuneMore(tcp); err != nil {
		return fmt.Errorf("tune socket: %w", err)
	}
	return nil
}
