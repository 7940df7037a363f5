//go:build unix

package server

import (
	"slices"
	"testing"

	"github.com/adit-net/adit/tunnel/socks"
)

func TestConnectReportsWhatTheKernelMadeOfIt(t *testing.T) {
	for _, at := range []struct{ listen, host string }{{"127.0.0.1:0", "127.0.0.1"}, {"[::1]:0", "::1"}, {"127.0.0.1:0", "x.example"}} {
		port, _ := echo(t, at.listen)
		e := &Exit{Allow: Allow{Loopback: true}, Resolver: &answers{addrs: addrs("127.0.0.1")}}
		r := connectTo(t, at.host, port)
		r.Stack = []socks.StackOption6{
			wish(socks.StackTOS6, 0xb8), wish(socks.StackTTL6, 33), wish(socks.StackHappyEyeballs6, socks.StackOff6),
			{Leg: socks.ClientLeg6, Kind: socks.StackTTL6, Value: 9},
			wish(socks.StackUDPErrors6, socks.StackOn6), wish(socks.StackBacklog6, 4),
		}
		conn, reply, err := e.Connect(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		want := r.Stack[:2:2]
		if at.host == "x.example" {
			want = r.Stack[:3]
		}
		if !slices.Equal(reply.Stack, want) {
			t.Errorf("%s: %v, want %v", at.host, reply.Stack, want)
		}
		roundTrip(t, conn)
	}
}

func TestConnectLeavesOutWhatTheKernelRefuses(t *testing.T) {
	port, _ := echo(t, "127.0.0.1:0")
	r := connectTo(t, "127.0.0.1", port)
	r.Stack = []socks.StackOption6{wish(socks.StackTTL6, 0)} // no packet could leave
	conn, reply, err := (&Exit{Allow: Allow{Loopback: true}}).Connect(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if len(reply.Stack) != 1 || reply.Stack[0].Value == 0 {
		t.Errorf("reported as %v", reply.Stack)
	}
}
