package wglink

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"github.com/adit-net/adit/crypto/keys"
)

// Addresses of the tests. Nobody outside is ever asked: the host is a fake.
var (
	inner4, inner6   = netip.MustParsePrefix("10.66.0.1/16"), netip.MustParsePrefix("fd66::1/64")
	phone4, phone6   = netip.MustParseAddr("10.66.0.2"), netip.MustParseAddr("fd66::2")
	other4, other6   = netip.MustParseAddr("10.66.0.3"), netip.MustParseAddr("fd66::3")
	target4, target6 = netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")
)

// fakeHost does what a test wants. What it does not say is refused.
type fakeHost struct {
	connect   func(ctx context.Context, c *Call)
	associate func(ctx context.Context, p *Port) (Association, error)
	resolve   func(ctx context.Context, q Query) ([]byte, error)
	echo      func(ctx context.Context, f Flow, payload []byte) error
	door      func(ctx context.Context, f Flow, conn Conn)

	mu    sync.Mutex
	flows []Flow
}

func (h *fakeHost) saw(f Flow) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.flows = append(h.flows, f)
}

func (h *fakeHost) seen() []Flow {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]Flow(nil), h.flows...)
}

func (h *fakeHost) Connect(ctx context.Context, c *Call) {
	h.saw(c.Flow)
	if h.connect == nil {
		c.Refuse(Refused)
		return
	}
	h.connect(ctx, c)
}

func (h *fakeHost) Associate(ctx context.Context, p *Port) (Association, error) {
	h.saw(p.Flow)
	if h.associate == nil {
		return nil, NotAllowed
	}
	return h.associate(ctx, p)
}

func (h *fakeHost) Resolve(ctx context.Context, q Query) ([]byte, error) {
	h.saw(q.Flow)
	if h.resolve == nil {
		return nil, NotAllowed
	}
	return h.resolve(ctx, q)
}

func (h *fakeHost) Echo(ctx context.Context, f Flow, payload []byte) error {
	h.saw(f)
	if h.echo == nil {
		return HostUnreachable
	}
	return h.echo(ctx, f, payload)
}

func (h *fakeHost) Door(ctx context.Context, f Flow, conn Conn) {
	h.saw(f)
	if h.door != nil {
		h.door(ctx, f, conn)
	}
}

// echoTCP accepts every call and gives back what comes.
func echoTCP(ctx context.Context, c *Call) {
	conn, err := c.Accept()
	if err != nil {
		return
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Reset() })
	defer stop()
	if _, err := io.Copy(conn, conn); err != nil {
		_ = conn.Reset()
		return
	}
	_ = conn.CloseWrite()
	_ = conn.Close()
}

// echoUDP gives back datagrams.
type echoUDP struct {
	port   *Port
	closed chan struct{} // nil: nobody asks
}

func (e echoUDP) Send(payload []byte, to netip.AddrPort) { e.port.Deliver(payload, to) }
func (e echoUDP) Close() {
	if e.closed != nil {
		close(e.closed)
	}
}

func associateEcho(_ context.Context, p *Port) (Association, error) { return echoUDP{port: p}, nil }

// startHost runs a server for guests until the test ends.
func startHost(t testing.TB, h Host) *exit {
	t.Helper()
	return startWith(t, genuine(echo), ServerConfig{Host: h, Inner: []netip.Prefix{inner4, inner6}})
}

// phone is a standard WireGuard peer with a standard stack.
type phone struct {
	key    keys.WireGuardKey
	device *device.Device
	stack  *stack.Stack
	cable  *cable
	close  func()
}

// newPhone makes a guest of the server. What it believes to have for addresses may
// be more than what the server gives it.
func (e *exit) newPhone(t testing.TB, addresses ...netip.Addr) *phone {
	t.Helper()
	key := deviceKey(t)
	e.admitGuest(t, Guest{Key: key.Public(), Addresses: addresses})
	return e.phone(t, key, addresses...)
}

// admitGuest adds a guest to those that are there.
func (e *exit) admitGuest(t testing.TB, g Guest) {
	t.Helper()
	e.guests = append(e.guests, g)
	if err := e.SetGuests(e.guests); err != nil {
		t.Fatal(err)
	}
}

func (e *exit) phone(t testing.TB, key keys.WireGuardKey, addresses ...netip.Addr) *phone {
	t.Helper()
	bind := newSocket(listen(t), clientInside)
	bind.aim.Store(&remotes{all: []netip.AddrPort{netip.MustParseAddrPort(e.endpoint)}})
	return e.phoneAt(t, bind, bind.sent, serverEndpoint, key, addresses...)
}

// phoneAt makes a phone with a bind of its own, which counts what it sends.
func (e *exit) phoneAt(t testing.TB, bind conn.Bind, sent *counter, endpoint string, key keys.WireGuardKey, addresses ...netip.Addr) *phone {
	t.Helper()
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocolCUBIC, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
		HandleLocal:        true,
	})
	c := newCable(defaultMTU, sent, clientInside)
	if err := tuneTCP(s, firstBuffer, maxBuffer); err != nil {
		t.Fatal(err)
	}
	if err := s.CreateNIC(nic, stackEnd{c}); err != nil {
		t.Fatal(err)
	}
	for _, a := range addresses {
		if err := s.AddProtocolAddress(nic, tcpip.ProtocolAddress{
			Protocol: version(a), AddressWithPrefix: toStackAddr(a).WithPrefix(),
		}, stack.AddressProperties{}); err != nil {
			t.Fatal(err)
		}
	}
	s.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: nic}, {Destination: header.IPv6EmptySubnet, NIC: nic}})
	d := device.NewDevice(deviceEnd{c}, bind, device.NewLogger(device.LogLevelSilent, ""))
	p := &phone{key: key, device: d, stack: s, cable: c}
	p.close = sync.OnceFunc(func() {
		d.Close()
		s.Destroy()
	})
	t.Cleanup(p.close)
	private := key.Reveal()
	server := e.key.Public()
	if err := d.IpcSet(fmt.Sprintf("private_key=%s\npublic_key=%x\nendpoint=%s\nallowed_ip=0.0.0.0/0\nallowed_ip=::/0\n",
		hex.EncodeToString(private[:]), server[:], endpoint)); err != nil {
		t.Fatal(err)
	}
	if err := d.Up(); err != nil {
		t.Fatal(err)
	}
	return p
}

func version(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return ipv4.ProtocolNumber
	}
	return ipv6.ProtocolNumber
}

func full(at netip.AddrPort) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: nic, Addr: toStackAddr(at.Addr()), Port: at.Port()}
}

// dial opens a TCP connection from the phone.
func (p *phone) dial(t testing.TB, to netip.AddrPort) (*gonet.TCPConn, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := gonet.DialContextTCP(ctx, p.stack, full(to), version(to.Addr()))
	if err == nil {
		_ = c.SetDeadline(time.Now().Add(patience))
		t.Cleanup(func() { _ = c.Close() })
	}
	return c, err
}

func (p *phone) mustDial(t testing.TB, to netip.AddrPort) *gonet.TCPConn {
	t.Helper()
	c, err := p.dial(t, to)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// socket opens a UDP socket on the phone; to may be zero.
func (p *phone) socket(t testing.TB, from netip.Addr, to netip.AddrPort) *gonet.UDPConn {
	t.Helper()
	local := full(netip.AddrPortFrom(from, 0))
	var remote *tcpip.FullAddress
	if to.IsValid() {
		at := full(to)
		remote = &at
	}
	c, err := gonet.DialUDP(p.stack, &local, remote, version(from))
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(patience))
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// roundTrip sends bytes and reads them back.
func roundTrip(t testing.TB, c net.Conn, n int) {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(patience))
	want := randomBytes(n)
	var sending sync.WaitGroup
	defer sending.Wait()
	sending.Go(func() {
		if _, err := c.Write(want); err != nil {
			t.Errorf("write: %v", err)
		}
	})
	got := make([]byte, n)
	if _, err := io.ReadFull(c, got); err != nil || string(got) != string(want) {
		t.Errorf("other bytes came back, or: %v", err)
	}
}

// eventually waits until something is so, where there is no event to wait for.
func eventually(t testing.TB, what string, so func() bool) {
	t.Helper()
	for by := time.Now().Add(patience); !so(); time.Sleep(time.Millisecond) {
		if time.Now().After(by) {
			t.Fatalf("it does not come to be: %s", what)
		}
	}
}

const (
	synFlag = header.TCPFlagSyn
	rstFlag = header.TCPFlagRst
)

// inject sends a packet that the phone's stack knows nothing of.
func (p *phone) inject(t testing.TB, packet []byte) {
	t.Helper()
	b := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(packet)})
	defer b.DecRef()
	if !p.cable.offer(b) {
		t.Error("the phone's cable is full")
	}
}

// tcpPacket makes a TCP segment without payload.
func tcpPacket(from, to netip.AddrPort, sequence uint32, flags header.TCPFlags) []byte {
	b := make(header.TCP, header.TCPMinimumSize)
	b.Encode(&header.TCPFields{
		SrcPort: from.Port(), DstPort: to.Port(), SeqNum: sequence, DataOffset: header.TCPMinimumSize, Flags: flags, WindowSize: 1000,
	})
	sum := header.PseudoHeaderChecksum(tcp.ProtocolNumber, toStackAddr(from.Addr()), toStackAddr(to.Addr()), uint16(len(b)))
	b.SetChecksum(^checksum.Checksum(b, sum))
	return ipPacket(tcp.ProtocolNumber, from.Addr(), to.Addr(), 1, b, 0, false)
}

// sniff has every packet looked at that comes to the phone, before its stack has it.
func (p *phone) sniff(look func(packet []byte)) {
	p.cable.attached.Lock()
	defer p.cable.attached.Unlock()
	p.cable.guests = p.cable.stack
	p.cable.filter = func(packet []byte) verdict {
		look(packet)
		return toStack
	}
}
