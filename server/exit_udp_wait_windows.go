package server

import "syscall"

// waitReadable returns when there is something to read: Windows, once asked to
// try again, looks before it does so.
func waitReadable(raw syscall.RawConn) error {
	asked := false
	return raw.Read(func(uintptr) bool {
		before := asked
		asked = true
		return before
	})
}
