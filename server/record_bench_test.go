package server

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"testing"

	"github.com/adit-net/adit/server/audit"
	"github.com/adit-net/adit/tunnel/relay"
	"github.com/adit-net/adit/tunnel/socks"
)

// nothing is a target that costs nothing.
type nothing struct{ net.Conn }

func (nothing) Close() error         { return nil }
func (nothing) CloseWrite() error    { return nil }
func (nothing) Reset() error         { return nil }
func (nothing) RemoteAddr() net.Addr { return nil }

type nowhere struct{ socks.Relay }

func (nowhere) Connect(context.Context, socks.Request) (relay.Conn, socks.Reply, error) {
	return nothing{}, socks.Reply{}, nil
}

// What a flow costs beside its sockets, on record and not.
func BenchmarkFlow(b *testing.B) {
	for _, name := range []string{"off", "on"} {
		b.Run(name, func(b *testing.B) {
			var w *audit.Writer
			if name == "on" {
				var err error
				if w, err = audit.Open(b.Context(), audit.Config{Dir: filepath.Join(b.TempDir(), "audit"), Log: slog.New(slog.DiscardHandler)}); err != nil {
					b.Fatal(err)
				}
			}
			h := newHouse(b, func(c *Config) { c.Relay, c.Audit, c.Log = nowhere{}, w, slog.New(slog.DiscardHandler) })
			if w != nil {
				h.running.Go(func() { h.must(w.Serve(h.ctx)) })
			}
			v, err := h.Visit(b.Context(), Visitor{User: "anna"})
			h.must(err)
			b.ReportAllocs()
			for b.Loop() {
				conn, _, err := v.Connect(b.Context(), socks.Request{Command: socks.Connect, Dst: onLoopback(80)})
				h.must(err)
				conn.Close()
			}
			b.StopTimer()
			v.Close()
			h.stop()
			if w != nil {
				h.must(w.Close())
			}
		})
	}
}
