package socks

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
)

// Error is a failure whose code is already known.
type Error struct {
	Code Code
	Err  error
}

func (e *Error) Error() string { return e.Err.Error() }

// Unwrap gives the code and the cause, so that errors.Is finds either.
func (e *Error) Unwrap() []error { return []error{e.Code, e.Err} }

// Error says in words what the code means. A code is an error of its own.
func (c Code) Error() string {
	switch c {
	case Succeeded:
		return "succeeded"
	case GeneralFailure:
		return "general failure"
	case NotAllowed:
		return "not allowed by the rules"
	case NetworkUnreachable:
		return "network unreachable"
	case HostUnreachable:
		return "host unreachable or unknown"
	case ConnectionRefused:
		return "connection refused"
	case TTLExpired:
		return "TTL expired"
	case CommandNotSupported:
		return "command not supported"
	case AddressNotSupported:
		return "address type not supported"
	case TimedOut:
		return "timed out"
	}
	return fmt.Sprintf("failed with code %d", byte(c))
}

// errnoCodes gives the codes of system errors. If an error holds several, as
// after attempts at several addresses, the one further up says most.
var errnoCodes = []struct {
	code   Code
	errnos []syscall.Errno
}{
	{ConnectionRefused, connectionRefused},
	{HostUnreachable, hostUnreachable},
	{NetworkUnreachable, networkUnreachable},
	{TimedOut, timedOut},
	{NotAllowed, notAllowed},
	{AddressNotSupported, addressNotSupported},
}

// CodeOf says how a request that ended in err ended: by the code that err
// carries, as [Code] or [*Error], or by the system's or resolver's error in it.
// It is Succeeded for nil alone.
func CodeOf(err error) Code {
	if err == nil {
		return Succeeded
	}
	if code, ok := errors.AsType[Code](err); ok {
		if code == Succeeded {
			return GeneralFailure // an error is none
		}
		return code
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		if dns.IsTimeout {
			return TimedOut
		}
		return HostUnreachable
	}
	for _, known := range errnoCodes {
		for _, errno := range known.errnos {
			if errors.Is(err, errno) {
				return known.code
			}
		}
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		return TimedOut
	}
	if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
		return TimedOut
	}
	if _, ok := errors.AsType[*net.AddrError](err); ok {
		return AddressNotSupported
	}
	return GeneralFailure
}
