package server

import (
	"slices"
	"testing"

	"github.com/adit-net/adit/tunnel/socks"
)

func TestConnectSetsFragmentation(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "::1"} {
		port, _ := echo(t, "["+host+"]:0")
		for _, value := range []uint16{socks.StackOff6, socks.StackOn6} {
			r := connectTo(t, host, port)
			r.Stack = []socks.StackOption6{wish(socks.StackNoFragmentation6, value)}
			conn, reply, err := (&Exit{Allow: Allow{Loopback: true}}).Connect(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			conn.Close()
			if !slices.Equal(reply.Stack, r.Stack) {
				t.Errorf("%s, %d: %v", host, value, reply.Stack)
			}
		}
	}
}
