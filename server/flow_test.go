package server

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/adit-net/adit/tunnel"
	"github.com/adit-net/adit/tunnel/relay"
	"github.com/adit-net/adit/tunnel/socks"
)

func TestBadRequestIsResetAndCostsTheSessionInTheEnd(t *testing.T) {
	h := newHouse(t, func(c *Config) { c.SessionStreams = 100 })
	g := h.attach(h.device("anna"))
	for try := range 10_000 {
		stream, err := g.Open(t.Context())
		if err != nil {
			if try < 100 {
				t.Fatalf("the session has ended at try %d", try)
			}
			break
		}
		stream.SetDeadline(time.Now().Add(patience))
		_, _ = io.WriteString(stream, "GET / HTTP/1.1\r\n\r\n")
		if n, err := stream.Read(make([]byte, 1)); n != 0 || !errors.Is(err, tunnel.ErrReset) && !errors.Is(err, tunnel.ErrSessionLost) {
			t.Fatalf("Read gives %d, %v", n, err)
		}
		stream.Close()
	}
	receive(t, g.served, "the end of the session")
	h.stop() // the session ends after its carrier
	ended := h.log.find(t, "session ended")
	if reason, _ := ended[0]["reason"].(string); !strings.Contains(reason, "work for nothing") {
		t.Errorf("the session ended because of %q", reason)
	}
}

func TestUnknownCommandsAreNotSupported(t *testing.T) {
	h := newHouse(t, nil)
	g := h.attach(h.device("anna"))
	for _, command := range []socks.Command{98, 99} {
		stream, code := g.request(command, onLoopback(80))
		if code != socks.CommandNotSupported {
			t.Errorf("command %d: %v", command, code)
		}
		if n, err := stream.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Errorf("command %d: after the reply come %d bytes", command, n)
		}
		stream.Close()
	}
}

func TestFailureHasItsCode(t *testing.T) {
	h := newHouse(t, nil)
	g := h.attach(h.device("anna"))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	h.must(err)
	port := ln.Addr().(*net.TCPAddr).AddrPort().Port()
	ln.Close()
	for _, test := range []struct {
		dst  socks.Addr
		want socks.Code
	}{
		{onLoopback(port), socks.ConnectionRefused},
		{socks.Addr{IP: onLoopback(0).IP.Next(), Port: port}, socks.ConnectionRefused},
		{socks.Addr{Name: "169.254.169.254", Port: 80}, socks.NotAllowed},
		{socks.Addr{Name: "name.invalid", Port: 80}, socks.HostUnreachable},
	} {
		stream, code := g.request(socks.Connect, test.dst)
		if code != test.want {
			t.Errorf("%v: %v, want %v", test.dst, code, test.want)
		}
		stream.Close()
	}
}

func TestUserHasOnlySoManyStreams(t *testing.T) {
	h := newHouse(t, func(c *Config) { c.UserStreams = 2 })
	laptop, phone, other := h.attach(h.device("anna")), h.attach(h.device("anna")), h.attach(h.device("bob"))
	port := echoTarget(t)
	first, second := laptop.connect(port), phone.connect(port)
	for _, g := range []*guest{laptop, phone} {
		if _, code := g.request(socks.Connect, onLoopback(port)); code != socks.GeneralFailure {
			t.Errorf("the third stream: %v", code)
		}
	}
	exchange(t, other.connect(port), "hello")
	exchange(t, first, "hello")
	exchange(t, second, "hello")
	first.Close()
	// The server counts a stream until the target has ended too, and then tells
	// nobody.
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		if _, code := phone.request(socks.Connect, onLoopback(port)); code == socks.Succeeded {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the place is not given back")
		}
	}
}

// TestFlowIsOnRecordWithoutItsTarget reads the log at both levels.
func TestFlowIsOnRecordWithoutItsTarget(t *testing.T) {
	for _, level := range []slog.Level{slog.LevelInfo, slog.LevelDebug} {
		t.Run(level.String(), func(t *testing.T) {
			log := &journal{}
			h := newHouse(t, func(c *Config) {
				c.Log = slog.New(slog.NewJSONHandler(log, &slog.HandlerOptions{Level: level}))
			})
			key := h.device("anna")
			g := h.attach(key)
			port := target(t, func(c *net.TCPConn) {
				_, _ = io.Copy(io.Discard, c)
				_, _ = io.WriteString(c, "the answer is a secret too")
			})
			stream := g.connect(port)
			_, _ = io.WriteString(stream, "the payload is a secret")
			h.must(stream.CloseWrite())
			if _, err := io.ReadAll(stream); err != nil {
				t.Fatal(err)
			}
			g.Close(0)
			receive(t, g.served, "the end of the carrier")
			h.stop() // and all that was said is in the log
			flows := log.find(t, "flow ended")
			if len(flows) != 1 {
				t.Fatalf("%d lines", len(flows))
			}
			for name, want := range map[string]any{
				"user": "anna", "device": "laptop", "code": 0.0, "up": 23.0, "down": 26.0, "remote": "192.0.2.7:4711",
			} {
				if got := flows[0][name]; got != want {
					t.Errorf("%s is %v, want %v", name, got, want)
				}
			}
			for _, name := range []string{"duration", "session"} {
				if flows[0][name] == nil {
					t.Errorf("%s is missing", name)
				}
			}
			dst := "127.0.0.1:" + strconv.Itoa(int(port))
			if got := strings.Contains(log.String(), dst); got != (level == slog.LevelDebug) {
				t.Errorf("at level %v the target is named: %v", level, got)
			}
			if strings.Contains(log.String(), "secret") {
				t.Error("payload is in the log")
			}
		})
	}
}

// silent is a relay whose targets never answer.
type silent struct {
	socks.Unserved
	begun chan struct{}
	gone  chan error
}

func (r silent) Connect(ctx context.Context, _ socks.Request) (relay.Conn, socks.Reply, error) {
	r.begun <- struct{}{}
	<-ctx.Done()
	r.gone <- ctx.Err()
	return nil, socks.Reply{}, ctx.Err()
}

func TestRequestThatIsGivenUpIsGivenUpAtTheTarget(t *testing.T) {
	r := silent{begun: make(chan struct{}, 1), gone: make(chan error, 1)}
	h := newHouse(t, func(c *Config) { c.Relay = r })
	g := h.attach(h.device("anna"))
	stream, err := g.Open(t.Context())
	h.must(err)
	b, err := socks.Request6{Command: socks.Connect, Dst: onLoopback(80)}.AppendBinary(nil)
	h.must(err)
	_, err = stream.Write(b)
	h.must(err)
	receive(t, r.begun, "the request")
	stream.Reset()
	if err := receive(t, r.gone, "the end of the attempt"); !errors.Is(err, context.Canceled) {
		t.Errorf("it ended with %v", err)
	}
}
