package socks

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
)

// Version numbers and address types of SOCKS 5.
const (
	version5 = 5
	login5   = 1 // the version of RFC 1929

	typeIPv4in5 = 1
	typeNameIn5 = 3
	typeIPv6in5 = 4
)

var (
	errMethods = errors.New("the app offers no way to say who it is that is good here")
	errLogin   = &Error{NotAllowed, errors.New("wrong user or password")}
)

// socks5 serves an app that speaks SOCKS 5.
func (a *app) socks5(ctx context.Context) error {
	g, err := a.negotiate5(ctx)
	if err != nil {
		return err
	}
	r, err := readRequest5(a.in)
	if err != nil {
		return a.refuse(err, answer5)
	}
	switch r.Command {
	case Associate:
		return a.associate(ctx, g, r, answer5)
	case enhancedUDP5:
		return a.enhance(ctx, g)
	}
	return a.carry(ctx, g, &r, answer5)
}

// negotiate5 settles on a method and goes through it. It has answered and
// ended the connection if there is an error.
func (a *app) negotiate5(ctx context.Context) (*guest, error) {
	offered, err := readMethods5(a.in)
	if err != nil {
		return nil, err
	}
	method := a.choose(offered)
	if method == noMethod {
		a.dismiss([]byte{version5, byte(noMethod)})
		return nil, fmt.Errorf("%w: it offers %d, wanted are %d", errMethods, offered, a.methods)
	}
	if _, err := a.conn.Write([]byte{version5, byte(method)}); err != nil {
		return nil, fmt.Errorf("answer with a SOCKS 5 method: %w", err)
	}
	switch method {
	case MethodNone:
		return a.enter(), nil
	case MethodGSSAPI:
		return a.loginGSS(ctx)
	}
	g, err := a.readLogin(ctx)
	if err != nil {
		if _, ok := errors.AsType[*Error](err); ok {
			a.dismiss([]byte{login5, 1})
		}
		return nil, err
	}
	if _, err := a.conn.Write([]byte{login5, 0}); err != nil {
		return nil, fmt.Errorf("answer a SOCKS 5 login: %w", err)
	}
	return g, nil
}

// readLogin lets an app in by the user and password that it sends. Its error is an
// [*Error] if the app is to be told.
func (a *app) readLogin(ctx context.Context) (*guest, error) {
	user, password, err := readLogin5(a.in)
	if err != nil {
		return nil, err
	}
	g := a.login(ctx, user, password)
	if g == nil {
		return nil, errLogin
	}
	return g, nil
}

// readMethods5 reads the methods that an app offers.
func readMethods5(in *bufio.Reader) ([]byte, error) {
	var b [2 + 255]byte
	if _, err := io.ReadFull(in, b[:2]); err != nil {
		return nil, fmt.Errorf("read SOCKS 5 methods: %w", err)
	}
	methods := b[2 : 2+int(b[1])]
	if _, err := io.ReadFull(in, methods); err != nil {
		return nil, fmt.Errorf("read SOCKS 5 methods: %w", noEOF(err))
	}
	return methods, nil
}

// readLogin5 reads a user and a password (RFC 1929). Its error is an [*Error]
// if the app is to be told.
func readLogin5(in *bufio.Reader) (user, password string, err error) {
	version, err := in.ReadByte()
	if err != nil {
		return "", "", fmt.Errorf("read SOCKS 5 login: %w", noEOF(err))
	}
	if version != login5 {
		return "", "", &Error{NotAllowed, fmt.Errorf("read SOCKS 5 login: its version is %d", version)}
	}
	if user, err = readString5(in); err != nil {
		return "", "", fmt.Errorf("read SOCKS 5 user: %w", err)
	}
	if password, err = readString5(in); err != nil {
		return "", "", fmt.Errorf("read SOCKS 5 password: %w", err)
	}
	return user, password, nil
}

// readString5 reads a length octet and as many bytes.
func readString5(in *bufio.Reader) (string, error) {
	n, err := in.ReadByte()
	if err != nil {
		return "", noEOF(err)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(in, b); err != nil {
		return "", noEOF(err)
	}
	return string(b), nil
}

// readRequest5 reads one request and not a byte more. Its error is an [*Error]
// if the app is to be told.
func readRequest5(in *bufio.Reader) (Request, error) {
	var b [4]byte
	if _, err := io.ReadFull(in, b[:1]); err != nil {
		return Request{}, fmt.Errorf("read SOCKS 5 request: %w", noEOF(err))
	}
	if b[0] != version5 {
		return Request{}, &Error{GeneralFailure, fmt.Errorf("read SOCKS 5 request: its version is %d", b[0])}
	}
	if _, err := io.ReadFull(in, b[1:]); err != nil {
		return Request{}, fmt.Errorf("read SOCKS 5 request: %w", noEOF(err))
	}
	kind := b[3]
	if Command(b[1]) == enhancedUDP5 && kind == 0 {
		kind = typeIPv4in5 // its draft wants zeros where no address has a meaning
	}
	dst, err := readAddr5(in, kind)
	if err != nil {
		return Request{}, fmt.Errorf("read SOCKS 5 address: %w", err)
	}
	return Request{Command: Command(b[1]), Dst: dst, Dialect: SOCKS5}, nil
}

// readAddr5 reads an address of a type, and its port. Many apps send IP
// addresses as names.
func readAddr5(in *bufio.Reader, kind byte) (Addr, error) {
	var b [16]byte
	var host string
	var ip netip.Addr
	var err error
	switch kind {
	case typeIPv4in5:
		_, err = io.ReadFull(in, b[:4])
		ip = netip.AddrFrom4([4]byte(b[:4]))
	case typeIPv6in5:
		_, err = io.ReadFull(in, b[:])
		ip = netip.AddrFrom16(b)
	case typeNameIn5:
		host, err = readString5(in)
	default:
		return Addr{}, &Error{AddressNotSupported, fmt.Errorf("type %d is not known", kind)}
	}
	if err != nil {
		return Addr{}, noEOF(err)
	}
	if _, err := io.ReadFull(in, b[:2]); err != nil {
		return Addr{}, noEOF(err)
	}
	port := binary.BigEndian.Uint16(b[:])
	if ip.IsValid() {
		return Addr{IP: ip, Port: port}, nil
	}
	dst, err := NewAddr(host, port)
	if err != nil {
		return Addr{}, &Error{GeneralFailure, err}
	}
	return dst, nil
}

// answer5 gives a reply with an address in bytes, never a name: some apps read
// a fixed number of bytes before they look at any.
func answer5(r Reply) []byte {
	return appendAddr5(append(make([]byte, 0, 22), version5, r.Code.socks5(), 0), r.Bound)
}

// socks5 is the code in SOCKS 5, whose clients take TTLExpired for a time-out.
func (c Code) socks5() byte {
	switch {
	case c == TimedOut:
		return byte(TTLExpired)
	case c > TimedOut:
		return byte(GeneralFailure)
	}
	return byte(c)
}
