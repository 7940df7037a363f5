//go:build !linux

package relay

// Gone cannot be told here. A Read reports what the kernel says.
func Gone(Conn) bool { return false }
