package socks

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"testing"
)

func TestCodesComeFromWhatWentWrong(t *testing.T) {
	system := func(list int, of Code) error {
		for _, known := range errnoCodes {
			if known.code == of {
				return &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", known.errnos[list])}
			}
		}
		panic("no such row")
	}
	for _, test := range []struct {
		err  error
		want Code
	}{
		{nil, Succeeded},
		{errors.New("something"), GeneralFailure},
		{NotAllowed, NotAllowed},
		{fmt.Errorf("connect: %w", HostUnreachable), HostUnreachable},
		{&Error{ConnectionRefused, errors.New("why")}, ConnectionRefused},
		{fmt.Errorf("a: %w", &Error{NotAllowed, system(0, ConnectionRefused)}), NotAllowed},
		{Succeeded, GeneralFailure},
		{&Error{Succeeded, errors.New("no error at all")}, GeneralFailure},
		{system(0, ConnectionRefused), ConnectionRefused},
		{system(1, ConnectionRefused), ConnectionRefused},
		{system(0, HostUnreachable), HostUnreachable},
		{system(0, NetworkUnreachable), NetworkUnreachable},
		{system(0, NotAllowed), NotAllowed},
		{system(0, TimedOut), TimedOut},
		{system(0, AddressNotSupported), AddressNotSupported},
		{errors.Join(system(0, TimedOut), system(0, NetworkUnreachable), system(0, ConnectionRefused)), ConnectionRefused},
		{&net.DNSError{Err: "no such host", IsNotFound: true}, HostUnreachable},
		{&net.DNSError{Err: "server misbehaving"}, HostUnreachable},
		{&net.DNSError{Err: "i/o timeout", IsTimeout: true}, TimedOut},
		{context.DeadlineExceeded, TimedOut},
		{context.Canceled, GeneralFailure},
		{&net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}, TimedOut},
		{&net.OpError{Op: "dial", Err: &net.AddrError{Err: "no suitable address"}}, AddressNotSupported},
	} {
		if got := CodeOf(test.err); got != test.want {
			t.Errorf("%v has code %d, want %d", test.err, got, test.want)
		}
	}
}

func TestErrorsGiveTheirCodeAndTheirCause(t *testing.T) {
	cause := errors.New("the cause")
	err := fmt.Errorf("connect: %w", &Error{NotAllowed, cause})
	if !errors.Is(err, NotAllowed) || !errors.Is(err, cause) || err.Error() != "connect: the cause" {
		t.Errorf("%v: its code or cause is not in it", err)
	}
}

func TestEveryDialectKnowsEveryCode(t *testing.T) {
	for _, test := range []struct {
		code   Code
		v4, v5 byte
		status int
	}{
		{Succeeded, 90, 0, 200},
		{GeneralFailure, 91, 1, 502},
		{NotAllowed, 91, 2, 403},
		{NetworkUnreachable, 91, 3, 502},
		{HostUnreachable, 91, 4, 502},
		{ConnectionRefused, 91, 5, 502},
		{TTLExpired, 91, 6, 504},
		{CommandNotSupported, 91, 7, 502},
		{AddressNotSupported, 91, 8, 502},
		{TimedOut, 91, 6, 504},
		{10, 91, 1, 502},
		{255, 91, 1, 502},
	} {
		if v4, v5, status := test.code.socks4(), test.code.socks5(), test.code.status(); v4 != test.v4 || v5 != test.v5 || status != test.status {
			t.Errorf("code %d is %d in SOCKS 4, %d in SOCKS 5, %d in HTTP", test.code, v4, v5, status)
		}
		if test.code.Error() == "" {
			t.Errorf("code %d has no words", test.code)
		}
	}
}
