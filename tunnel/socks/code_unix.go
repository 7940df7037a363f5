//go:build !windows

package socks

import "syscall"

// errnoCodes maps what connect and its kin report. Dante and Tor agree on the
// codes; EACCES and EPERM come from a local firewall.
var errnoCodes = [...]struct {
	errno syscall.Errno
	code  Code
}{
	{syscall.ECONNREFUSED, ConnectionRefused},
	{syscall.ECONNRESET, ConnectionRefused},
	{syscall.EHOSTUNREACH, HostUnreachable},
	{syscall.EHOSTDOWN, HostUnreachable},
	{syscall.ENETUNREACH, NetworkUnreachable},
	{syscall.ENETDOWN, NetworkUnreachable},
	{syscall.ETIMEDOUT, TimedOut},
	{syscall.EACCES, NotAllowed},
	{syscall.EPERM, NotAllowed},
	{syscall.EAFNOSUPPORT, AddressNotSupported},
}
