package socks

import (
	"bytes"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// listenUDPAs opens a UDP socket that belongs to another user.
func listenUDPAs(t *testing.T, uid int, ip netip.Addr) *net.UDPConn {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("only root can make sockets of another user: run this test as root")
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if _, err := unix.SetfsuidRetUid(uid); err != nil {
		t.Fatal(err)
	}
	defer unix.SetfsuidRetUid(0)
	return listenUDP(t, ip, 0)
}

func TestSendersOfOtherUsersAreForeign(t *testing.T) {
	for name, admission := range map[string]Admission{
		"own user": {},
		"anyone":   {Anyone: true},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEchoes()
			a := associate(t, openDoor(t, &Door{Relay: e, Admission: admission}), e, anySource)
			other := listenUDPAs(t, anotherUser, a.relay.Addr())
			for range 100 {
				sendTo(t, other, a.relay, packet5("192.0.2.53:53", "foreign"))
			}
			a.echoed(t, "own")
			sendTo(t, other, a.relay, packet5("192.0.2.53:53", "foreign"))
			a.echoed(t, "own")
			if n := len(a.echo.sent); n != 2 {
				t.Errorf("%d datagrams were relayed, want 2", n)
			}
		})
	}
}

func TestOwnersOfUDPSocketsAreFound(t *testing.T) {
	loopback4, loopback6 := netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()
	for _, where := range []struct{ network, listen, door string }{
		{"udp4", "127.0.0.1:0", "127.0.0.1:1080"},
		{"udp4", "0.0.0.0:0", "127.0.0.1:1080"},
		{"udp", "[::]:0", "127.0.0.1:1080"}, // IPv4 through an IPv6 socket
		{"udp6", "[::1]:0", "[::1]:1080"},
		{"udp6", "[::]:0", "[::1]:1080"},
	} {
		pc, err := net.ListenPacket(where.network, where.listen)
		if err != nil {
			t.Fatal(err)
		}
		defer pc.Close()
		door := netip.MustParseAddrPort(where.door)
		source := netip.AddrPortFrom(loopback4, pc.LocalAddr().(*net.UDPAddr).AddrPort().Port())
		if door.Addr().Is6() {
			source = netip.AddrPortFrom(loopback6, source.Port())
		}
		if err := checkOwner(source, door, uint32(os.Geteuid())); err != nil {
			t.Errorf("%+v: %v", where, err)
		}
		if err := checkOwner(source, door, uint32(os.Geteuid()+1)); err == nil {
			t.Errorf("%+v belongs to another user, too", where)
		}
		pc.Close()
		if err := checkOwner(source, door, uint32(os.Geteuid())); err == nil {
			t.Errorf("%+v still belongs to us when it is closed", where)
		}
	}
}

func TestConnectedSocketsHaveOwners(t *testing.T) {
	e := newEchoes()
	a := associate(t, openDoor(t, &Door{Relay: e}), e, anySource)
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(a.relay))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte(packet5("192.0.2.53:53", "hello"))); err != nil {
		t.Fatal(err)
	}
	if d := receive(t, a.echo.sent); string(d.Payload) != "hello" {
		t.Errorf("relayed %q", d.Payload)
	}
}

func TestPacketsThatGoOutAsOneArriveApart(t *testing.T) {
	e := newEchoes()
	a := associate(t, openDoor(t, &Door{Relay: e}), e, anySource)
	raw, err := a.udp.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if !segments(raw, a.relay.Addr()) {
		t.Fatal("this kernel does not know UDP segmentation offload")
	}
	a.echoed(t, "hello")
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var batch []Datagram
		for total := 0; len(batch) < 2*packetsOut; {
			size := random.IntN(1500)
			for range 1 + random.IntN(8) { // runs of the same size, and some longer than others
				total += size
				batch = append(batch, Datagram{here, bytes.Repeat([]byte{byte(len(batch))}, size)})
			}
			if total > 60000 {
				break // the app's queue is not endless
			}
		}
		a.echo.deliver(batch...)
		for _, d := range batch {
			expectPacket(t, a.udp, packet5("192.0.2.53:53", string(d.Payload)))
		}
	}
}
