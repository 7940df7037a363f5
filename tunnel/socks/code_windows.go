package socks

import (
	"syscall"

	"golang.org/x/sys/windows"
)

// errnoCodes maps what connect and its kin report. WSAEACCES comes from a local
// firewall.
var errnoCodes = [...]struct {
	errno syscall.Errno
	code  Code
}{
	{windows.WSAECONNREFUSED, ConnectionRefused},
	{windows.WSAECONNRESET, ConnectionRefused},
	{windows.WSAEHOSTUNREACH, HostUnreachable},
	{windows.WSAEHOSTDOWN, HostUnreachable},
	{windows.WSAENETUNREACH, NetworkUnreachable},
	{windows.WSAENETDOWN, NetworkUnreachable},
	{windows.WSAETIMEDOUT, TimedOut},
	{windows.WSAEACCES, NotAllowed},
	{windows.WSAEAFNOSUPPORT, AddressNotSupported},
}
