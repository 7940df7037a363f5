package wglink

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// hostileBound is by how much the heap may have grown when a guest has as many calls
// and associations as it can get, in bytes. Most of it are buffers that WireGuard
// waits with for packets, here at three ends; without these it is below 2 MiB.
const hostileBound = 32 << 20

// manyPorts gives sources for flows of a phone's.
func manyPorts(i int) netip.AddrPort { return netip.AddrPortFrom(phone4, uint16(1000+i)) }

func TestHostileGuestCostsLittleAndHoldsUpNobody(t *testing.T) {
	const flows = 10_000
	h := &fakeHost{
		connect: func(ctx context.Context, c *Call) {
			if c.Source.Addr() == other4 {
				echoTCP(ctx, c)
				return
			}
			<-ctx.Done() // the target does not answer
		},
		associate: associateEcho,
	}
	e := startHost(t, h)
	hostile, other := e.newPhone(t, phone4), e.newPhone(t, other4)
	c := other.mustDial(t, netip.AddrPortFrom(target4, 80))
	roundTrip(t, c, 1000)
	u := other.socket(t, other4, netip.AddrPortFrom(target4, 9))
	roundTrip(t, u, 1000)
	v := e.visitorOf(phone4)
	before, goroutines := heap(), runtime.NumGoroutine()
	for i := range flows {
		hostile.inject(t, tcpPacket(manyPorts(i), netip.AddrPortFrom(target4, 80), uint32(i), synFlag))
		from, to := manyPorts(i), netip.AddrPortFrom(target4, uint16(1+i))
		hostile.inject(t, ipPackets(defaultMTU, header.UDPProtocolNumber, phone4, target4, 1, udpMessage(from, to, []byte("x")))[0])
		if i%100 == 0 {
			roundTrip(t, c, 1000)
			roundTrip(t, u, 1000)
			more := other.mustDial(t, netip.AddrPortFrom(target4, 80))
			roundTrip(t, more, 100)
			reset(other, more)
		}
		if i%50 == 0 { // the phone's cable takes no more than it may hold
			eventually(t, "the packets have gone", func() bool {
				_, all := hostile.cable.passed()
				return all
			})
		}
	}
	v.hall.mu.RLock()
	ringing := v.ringing
	v.hall.mu.RUnlock()
	// The network may have lost some of the packets, but not most of them.
	if ringing > maxCalls || v.portCount() > maxPorts || ringing < maxCalls/2 || v.portCount() < maxPorts/2 || e.Dropped().Limit < flows/2 {
		t.Errorf("the guest has %d calls and %d associations", ringing, v.portCount())
	}
	eventually(t, "the other guest's connections have ended", func() bool { return e.visitorOf(other4).connections() == 1 })
	if more := runtime.NumGoroutine() - goroutines; more > 2*maxCalls {
		t.Errorf("there are %d more goroutines", more)
	}
	// Packets are still on their way inside WireGuard.
	eventually(t, "the heap is small", func() bool { return heap()-before < hostileBound })
	roundTrip(t, other.mustDial(t, netip.AddrPortFrom(target4, 80)), 1<<20)
}

func TestCallsOfAllGuestsAreBounded(t *testing.T) {
	h := &hall{waiting: map[stack.TransportEndpointID]*Call{}, drops: &drops{}}
	for i := range maxCallsInAll {
		var id stack.TransportEndpointID
		id.RemotePort, id.LocalPort = uint16(i), 1
		h.waiting[id] = &Call{}
	}
	if c := h.ring(&visitor{hall: h}, stack.TransportEndpointID{}, 1); c != nil || h.drops.limit.Load() != 1 {
		t.Error("there is room for one more")
	}
}

func TestConnectionsWorkWithoutRoomForLongBuffers(t *testing.T) {
	e := startHost(t, &fakeHost{connect: echoTCP})
	p := e.newPhone(t, phone4)
	v := e.visitorOf(phone4)
	if !v.room.take(guestRoom, guestRoom) || v.room.take(1, guestRoom) {
		t.Fatal("the room is not what it should be")
	}
	var all sync.WaitGroup
	for range 4 {
		c := p.mustDial(t, netip.AddrPortFrom(target4, 80))
		all.Go(func() { roundTrip(t, c, 256<<10) })
	}
	all.Wait()
	if used := v.room.used.Load(); used != guestRoom {
		t.Errorf("%d bytes are used, want %d", used, guestRoom)
	}
	v.room.give(guestRoom)
	c := p.mustDial(t, netip.AddrPortFrom(target4, 80))
	roundTrip(t, c, 2<<20)
	if used := v.room.used.Load(); used < 2*(firstGuestBuffer-guestBuffer) {
		t.Errorf("buffers have grown by %d bytes", used)
	}
}

func TestClosedConnectionsLeaveNothing(t *testing.T) {
	e := startHost(t, &fakeHost{connect: echoTCP, associate: associateEcho})
	p := e.newPhone(t, phone4)
	v := e.visitorOf(phone4)
	for i := range 20 {
		c := p.mustDial(t, netip.AddrPortFrom(target4, 80))
		roundTrip(t, c, 300_000)
		if i%2 == 0 {
			reset(p, c)
		} else {
			_ = c.Close()
		}
	}
	eventually(t, "nothing is left", func() bool {
		v.sweepConns(time.Now())
		v.hall.mu.RLock()
		defer v.hall.mu.RUnlock()
		return v.connections() == 0 && v.ringing == 0 && len(v.hall.waiting) == 0 && v.room.used.Load() == 0 && v.peer.flows.Load() == 0
	})
}

// A guest that takes no more when its connection is closed does not keep it.
func TestGuestThatAcknowledgesNothingLosesWhatIsClosed(t *testing.T) {
	closed := make(chan struct{}, 1)
	e := startHost(t, &fakeHost{connect: func(_ context.Context, c *Call) {
		conn, err := c.Accept()
		if err == nil {
			_, _ = conn.Write(make([]byte, 60_000))
			_ = conn.Close()
		}
		closed <- struct{}{}
	}})
	p := e.newPhone(t, phone4)
	v := e.visitorOf(phone4)
	gone := false
	var mu sync.Mutex
	p.cable.attached.Lock()
	p.cable.guests = p.cable.stack
	p.cable.filter = func(b []byte) verdict {
		mu.Lock()
		defer mu.Unlock()
		if gone || len(b) > 1000 { // the phone has no more network
			gone = true
			return dropped
		}
		return toStack
	}
	p.cable.attached.Unlock()
	p.mustDial(t, netip.AddrPortFrom(target4, 80))
	<-closed
	if n := v.connections(); n != 1 {
		t.Errorf("%d connections are left", n)
	}
	v.sweepConns(time.Now().Add(closingTimeout + time.Second))
	if v.connections() != 0 || v.room.used.Load() != 0 {
		t.Errorf("%d connections are left, with %d bytes", v.connections(), v.room.used.Load())
	}
}

func TestRoamingGuestKeepsItsConnections(t *testing.T) {
	e := startHost(t, &fakeHost{connect: echoTCP, associate: associateEcho})
	key := deviceKey(t)
	e.admitGuest(t, Guest{Key: key.Public(), Addresses: []netip.Addr{phone4}})
	p := e.phoneAt(t, conn.NewStdNetBind(), newCounter(), e.endpoint, key, phone4)
	c, u := p.mustDial(t, netip.AddrPortFrom(target4, 80)), p.socket(t, phone4, netip.AddrPortFrom(target4, 9))
	port := func() string {
		state, err := p.device.IpcGet()
		if err != nil {
			t.Fatal(err)
		}
		_, at, _ := strings.Cut(state, "listen_port=")
		at, _, _ = strings.Cut(at, "\n")
		return at
	}
	for range 3 {
		roundTrip(t, c, 100_000)
		roundTrip(t, u, 100)
		before := port()
		if err := p.device.IpcSet("listen_port=0\n"); err != nil {
			t.Fatal(err)
		}
		if port() == before {
			t.Fatal("the phone has not moved")
		}
	}
	roundTrip(t, c, 100_000)
	roundTrip(t, u, 100)
}

// coarse is how far two handshakes must be apart so that their timestamps differ.
const coarse = 20 * time.Millisecond

func TestIdleGuestIsTakenFromWireGuardAndComesBack(t *testing.T) {
	e := startHost(t, &fakeHost{connect: echoTCP})
	p := e.newPhone(t, phone4)
	c := p.mustDial(t, netip.AddrPortFrom(target4, 80))
	e.roster.sweep(time.Now().Add(time.Hour))
	if !e.knows(p.key) {
		t.Error("a guest with a connection was taken away")
	}
	reset(p, c)
	eventually(t, "the guest is taken away", func() bool {
		e.roster.sweep(time.Now().Add(time.Hour))
		return !e.knows(p.key)
	})
	p.close()
	time.Sleep(coarse)
	p = e.phone(t, p.key, phone4)
	roundTrip(t, p.mustDial(t, netip.AddrPortFrom(target4, 80)), 100)
}

func TestGuestsAndDevicesLiveSideBySide(t *testing.T) {
	e := startHost(t, &fakeHost{connect: echoTCP})
	p, d := e.newPhone(t, phone4, phone6), e.dialer(t)
	carrier := attach(t, d)
	var both sync.WaitGroup
	both.Go(func() { roundTrip(t, carrier, 4<<20) })
	c := p.mustDial(t, netip.AddrPortFrom(target6, 80))
	both.Go(func() { roundTrip(t, c, 4<<20) })
	both.Wait()
	if err := e.SetPeers([][32]byte{d.Key.Public()}); err != nil {
		t.Fatal(err)
	}
	roundTrip(t, c, 100)
	if err := e.SetGuests(nil); err != nil {
		t.Fatal(err)
	}
	roundTrip(t, carrier, 100)
	// A guest that is a device now has a carrier, and the other way round not.
	if err := e.AddPeer(p.key.Public()); err != nil {
		t.Error(err)
	}
	if err := e.SetGuests(e.guests); !errors.Is(err, ErrKey) {
		t.Errorf("SetGuests gives %v", err)
	}
}

func TestGuestsWithAddressesOfOthersAreNotAdded(t *testing.T) {
	key := deviceKey(t)
	s := NewServer(ServerConfig{Key: key, Host: &fakeHost{}, Inner: []netip.Prefix{inner4, inner6}})
	device := deviceKey(t).Public()
	if err := s.AddPeer(device); err != nil {
		t.Fatal(err)
	}
	one, two := deviceKey(t).Public(), deviceKey(t).Public()
	good := Guest{Key: one, Addresses: []netip.Addr{phone4, phone6}}
	for text, want := range map[string]error{
		"10.66.0.1":                          ErrAddress,
		"fd66::1":                            ErrAddress,
		phone4.String():                      ErrAddress,
		serverAddress(key.Public()).String(): ErrAddress,
		deviceAddress(key.Public(), device).String(): ErrAddress,
		"127.0.0.1":        nil,
		"224.0.0.1":        nil,
		"0.0.0.0":          nil,
		"255.255.255.255":  nil,
		"169.254.0.1":      nil,
		"fe80::1":          nil,
		"::ffff:10.66.0.9": nil,
		"fd66::9%eth0":     nil,
	} {
		err := s.SetGuests([]Guest{good, {Key: two, Addresses: []netip.Addr{netip.MustParseAddr(text)}}})
		if err == nil || want != nil && !errors.Is(err, want) {
			t.Errorf("%s: %v", text, err)
		}
		// The map's order decides who of two with one address is first.
		if text != phone4.String() && s.roster.addresses[phone4] == nil {
			t.Errorf("%s: the other one was not added", text)
		}
		if err := s.SetGuests(nil); err != nil || len(s.roster.peers) != 1 {
			t.Errorf("guests are left, or: %v", err)
		}
	}
	for _, g := range []Guest{{Key: one}, {Addresses: good.Addresses}, {Key: one, Addresses: make([]netip.Addr, maxAddresses+1)}, {Key: one, Addresses: []netip.Addr{phone4, phone4}}, {Key: device, Addresses: good.Addresses}} {
		if err := s.SetGuests([]Guest{g}); err == nil {
			t.Errorf("%v was added", g)
		}
	}
	if err := NewServer(ServerConfig{Key: key}).SetGuests([]Guest{good}); err == nil {
		t.Error("a server without a host takes guests")
	}
}

func TestGuestWhoseAddressChangesBeginsAnew(t *testing.T) {
	e := startHost(t, &fakeHost{connect: echoTCP})
	p := e.newPhone(t, phone4, other4)
	roundTrip(t, p.mustDial(t, netip.AddrPortFrom(target4, 80)), 100)
	if err := e.SetGuests([]Guest{{Key: p.key.Public(), Addresses: []netip.Addr{other4}}}); err != nil {
		t.Fatal(err)
	}
	if e.visitorOf(phone4) != nil || e.visitorOf(other4) == nil {
		t.Error("the guest is where it was")
	}
	p.close()
	time.Sleep(coarse)
	p = e.phone(t, p.key, other4)
	roundTrip(t, p.mustDial(t, netip.AddrPortFrom(target4, 80)), 100)
}

// The address can be another guest's as soon as the guest is out of the roster.
func TestRemovedGuestIsEndedThoughItsAddressIsTakenAtOnce(t *testing.T) {
	r := newRoster([32]byte{1})
	r.hall = &hall{ctx: t.Context(), visitors: map[netip.Addr]*visitor{}}
	for i := range 5000 {
		goes := Guest{Key: [32]byte{2, byte(i), byte(i >> 8)}, Addresses: []netip.Addr{phone4, phone6}}
		comes := Guest{Key: [32]byte{3, byte(i), byte(i >> 8)}, Addresses: goes.Addresses}
		if err := r.addGuest(goes); err != nil {
			t.Fatal(err)
		}
		before := r.hall.visitor(phone4)
		var removing sync.WaitGroup
		removing.Go(func() { r.remove(goes.Key) })
		for r.addGuest(comes) != nil {
		}
		removing.Wait()
		if before.ctx.Err() == nil {
			t.Fatalf("in round %d it goes on", i)
		}
		if v := r.hall.visitor(phone6); v == nil || v.peer.key != comes.Key || v.ctx.Err() != nil {
			t.Fatalf("in round %d the other one is not there", i)
		}
		r.remove(comes.Key)
	}
}

// floodTCP sends until that fails.
func floodTCP(ctx context.Context, c *Call) {
	conn, err := c.Accept()
	if err != nil {
		return
	}
	defer context.AfterFunc(ctx, func() { _ = conn.Reset() })()
	var both sync.WaitGroup
	both.Go(func() { _, _ = io.Copy(io.Discard, conn) })
	both.Go(func() { flood(conn) })
	both.Wait()
}

// What comes with the library can panic when it is closed under traffic.
func TestCloseUnderGuestsTrafficLeavesNothingBehind(t *testing.T) {
	before := runtime.NumGoroutine()
	for round := range 4 {
		ports := make(chan *Port, 100)
		e := startHost(t, &fakeHost{
			connect: floodTCP,
			associate: func(ctx context.Context, p *Port) (Association, error) {
				ports <- p
				return echoUDP{port: p}, nil
			},
		})
		var busy sync.WaitGroup
		var phones []*phone
		var sockets []net.Conn
		for i, a := range []netip.Addr{phone4, other4} {
			p := e.newPhone(t, a)
			phones = append(phones, p)
			sockets = append(sockets, p.socket(t, a, netip.AddrPortFrom(target4, 9)))
			roundTrip(t, sockets[i], 10)
		}
		for i, p := range phones {
			for range 3 {
				c := p.mustDial(t, netip.AddrPortFrom(target4, 80))
				busy.Go(func() { flood(c); _ = c.Close() })
				busy.Go(func() { _, _ = io.Copy(io.Discard, c) })
			}
			port := <-ports
			ctx, cancel := context.WithCancel(t.Context())
			busy.Go(func() {
				for ctx.Err() == nil {
					_, _ = sockets[i].Write(make([]byte, 5000))
				}
			})
			busy.Go(func() {
				defer cancel()
				for range 5000 {
					port.Deliver(make([]byte, 5000), netip.AddrPortFrom(target4, 9))
				}
			})
		}
		if round%2 == 0 {
			if err := e.SetGuests(nil); err != nil {
				t.Error(err)
			}
		}
		e.stop()
		for _, p := range phones {
			p.close()
		}
		busy.Wait()
	}
	for deadline := time.Now().Add(patience); runtime.NumGoroutine() > before; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines, before there were %d", runtime.NumGoroutine(), before)
		}
	}
}
