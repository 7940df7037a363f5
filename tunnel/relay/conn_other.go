//go:build !unix

package relay

type reads struct{}

// linger has the kernel send after a close what has been written, or a reset instead. It fails if
// the socket is closed already, which all else says, too.
func (c tcpConn) linger(on bool) {
	seconds := 0
	if on {
		seconds = -1
	}
	_ = c.SetLinger(seconds)
}
