//go:build !windows

package socks

import "syscall"

// The system's errors behind each code.
var (
	notAllowed          = []syscall.Errno{syscall.EACCES, syscall.EPERM}
	connectionRefused   = []syscall.Errno{syscall.ECONNREFUSED, syscall.ECONNRESET}
	hostUnreachable     = []syscall.Errno{syscall.EHOSTUNREACH, syscall.EHOSTDOWN}
	networkUnreachable  = []syscall.Errno{syscall.ENETUNREACH, syscall.ENETDOWN}
	timedOut            = []syscall.Errno{syscall.ETIMEDOUT}
	addressNotSupported = []syscall.Errno{syscall.EAFNOSUPPORT, syscall.EPROTONOSUPPORT}
)

// exhausted are the errors after which accepting works again, but later.
var exhausted = []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED}
