package client_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"

	"github.com/adit-net/adit/crypto/keys"
	"github.com/adit-net/adit/crypto/tlslink"
	"github.com/adit-net/adit/tunnel"
	"github.com/adit-net/adit/tunnel/relay"
	"github.com/adit-net/adit/tunnel/socks"
)

// exitServer is a server on TLS that lets one device in and connects it to
// whatever is in its table of names, and to nothing else.
type exitServer struct {
	address string
	pin     keys.Pin
	stop    func() // and wait
}

// startExit starts a server. names has the TCP address of every target.
func startExit(device *keys.Device, names map[string]string) *exitServer {
	key, err := keys.NewServer()
	if err != nil {
		panic(err)
	}
	cert, err := key.Certificate("exit.example")
	if err != nil {
		panic(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	web := &tlslink.Server{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &cert, nil }}
	admit := func(_ context.Context, a tlslink.Arrival) ([]byte, func(context.Context, net.Conn)) {
		opening, err := tunnel.OpenAt(a.Opening, tunnel.Place{Server: a.Server, Carrier: a.Channel})
		if err != nil || opening.Hello == nil || !opening.Hello.Device.Equal(device.Public()) {
			return nil, nil
		}
		return tunnel.Welcome{Streams: 100}.Bytes(), func(ctx context.Context, conn net.Conn) {
			s := tunnel.New(false, tunnel.Config{
				Handle: func(ctx context.Context, s *tunnel.Stream) { connectByName(ctx, s, names) },
			})
			carrier, err := s.Attach(conn, opening.Hello.Epoch, 0)
			if err != nil {
				return
			}
			var carrying sync.WaitGroup
			defer carrying.Wait()
			carrying.Go(func() { _ = carrier.Serve(context.Background()) })
			_ = s.Serve(ctx)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := web.Serve(ctx, ln, admit); err != nil {
			panic(err)
		}
	})
	return &exitServer{
		address: ln.Addr().String(),
		pin:     key.Pin(),
		stop:    func() { cancel(); serving.Wait() },
	}
}

// connectByName serves a stream as a server does.
func connectByName(ctx context.Context, stream *tunnel.Stream, names map[string]string) {
	request, err := socks.ReadRequest6(stream)
	if err != nil {
		stream.Reset()
		return
	}
	target, err := dialName(ctx, names[request.Dst.String()])
	if err := answer(stream, socks.CodeOf(err)); err != nil || target == nil {
		return
	}
	relay.Copy(ctx, stream, target)
}

func dialName(ctx context.Context, address string) (relay.Conn, error) {
	if address == "" {
		return nil, socks.HostUnreachable
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return relay.TCP(c.(*net.TCPConn)), nil
}

// answer writes a server's two replies.
func answer(stream *tunnel.Stream, code socks.Code) error {
	b, err1 := socks.AuthReply6{OK: true}.AppendBinary(nil)
	b, err2 := socks.OperationReply6{Code: code}.AppendBinary(b)
	_, err3 := stream.Write(b)
	return errors.Join(err1, err2, err3)
}
