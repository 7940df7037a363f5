package socks

import (
	"syscall"

	"golang.org/x/sys/windows"
)

// The system's errors behind each code. Package syscall's names for them are
// numbers of its own here, which sockets never give.
var (
	notAllowed          = []syscall.Errno{windows.WSAEACCES}
	connectionRefused   = []syscall.Errno{windows.WSAECONNREFUSED, windows.WSAECONNRESET}
	hostUnreachable     = []syscall.Errno{windows.WSAEHOSTUNREACH, windows.WSAEHOSTDOWN}
	networkUnreachable  = []syscall.Errno{windows.WSAENETUNREACH, windows.WSAENETDOWN}
	timedOut            = []syscall.Errno{windows.WSAETIMEDOUT}
	addressNotSupported = []syscall.Errno{windows.WSAEAFNOSUPPORT, windows.WSAEPROTONOSUPPORT}
)

// exhausted are the errors after which accepting works again, but later.
var exhausted = []syscall.Errno{windows.WSAEMFILE, windows.WSAENOBUFS, windows.WSAECONNRESET, windows.WSAECONNABORTED}
