package socks

import (
	"context"
	"errors"
	"net"
	"os"
)

// Error is a failure with the code that the app is told.
type Error struct {
	Code Code
	Err  error
}

func (e *Error) Error() string { return e.Err.Error() }

func (e *Error) Unwrap() error { return e.Err }

// Error says what the code means. A Code is an error in its own right.
func (c Code) Error() string {
	switch c {
	case Succeeded:
		return "succeeded"
	case NotAllowed:
		return "not allowed by the rules"
	case NetworkUnreachable:
		return "network unreachable"
	case HostUnreachable:
		return "host unreachable"
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
	return "general failure"
}

// CodeOf gives the code for an error: the one that an [Error] or a [Code]
// in it carries, else what the operating system's error means.
func CodeOf(err error) Code {
	if err == nil {
		return Succeeded
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	if c, ok := errors.AsType[Code](err); ok {
		return c
	}
	for _, row := range errnoCodes {
		if errors.Is(err, row.errno) {
			return row.code
		}
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok && dns.IsNotFound {
		return HostUnreachable
	}
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) {
		return TimedOut
	}
	if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
		return TimedOut
	}
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return HostUnreachable
	}
	return GeneralFailure
}
