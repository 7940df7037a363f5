package wglink

import (
	"encoding/hex"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"golang.zx2c4.com/wireguard/device"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/adit-net/adit/crypto/keys"
)

const (
	// defaultMTU fits a path of 1500 bytes over IPv6 and IPv4.
	defaultMTU = 1420

	// minMTU is what IPv6 needs (RFC 8200 section 5), and maxMTU what the library
	// has buffers for on this system.
	minMTU = 1280
	maxMTU = device.MaxContentSize
)

// drainTimeout bounds how long an engine waits until what its stack has sent is
// on the wire.
const drainTimeout = 50 * time.Millisecond

// engine is a WireGuard device with a TCP/IP stack on it.
type engine struct {
	socket *socket
	cable  *cable
	stack  *stack.Stack
	device *device.Device
	survey *survey // to be run as long as the engine is used
}

// newEngine makes an engine that is up and knows no peer. Frames of datagrams come to
// it in one direction. It owns the UDP socket, also when it fails. The fields of s are set.
func newEngine(s *socket, key keys.WireGuardKey, address netip.Addr, in direction, mtu int, logger *device.Logger) (*engine, error) {
	c := newCable(mtu, s.sent, s.in.most)
	c.in, c.inboxes = s.in.out, newInboxes(in)
	ip, err := newStack(c, address)
	if err != nil {
		s.discard()
		return nil, err
	}
	e := &engine{socket: s, cable: c, stack: ip, survey: newSurvey(c, s.path)}
	s.tooLarge = e.survey.alarm
	e.device = device.NewDevice(deviceEnd{c}, s, logger)
	private := key.Reveal()
	if err := e.device.IpcSet("private_key=" + hex.EncodeToString(private[:])); err != nil {
		e.close()
		return nil, fmt.Errorf("set up wireguard: %w", err)
	}
	if err := e.device.Up(); err != nil {
		e.close()
		return nil, fmt.Errorf("start wireguard: %w", err)
	}
	return e, nil
}

// close ends the engine, whatever is under way in it, and waits for that.
func (e *engine) close() {
	// First the device, and with it the cable: then whoever waits in the stack
	// for room there comes free.
	e.device.Close()
	e.socket.discard()
	e.stack.Destroy()
}

// drain waits until what the stack has sent is on the wire, so that ends and
// resets get there before the engine is closed. WireGuard says nothing of that,
// so it is looked for.
func (e *engine) drain() {
	for by := time.Now().Add(drainTimeout); time.Now().Before(by); time.Sleep(time.Millisecond) {
		if n, all := e.cable.passed(); all && e.socket.sent.n.Load() >= n {
			return
		}
	}
}

// setPeer adds a peer with its inner addresses, unless it is there. WireGuard drops
// what a peer sends from any other. endpoint may be empty.
func (e *engine) setPeer(key [32]byte, addresses []netip.Addr, endpoint string) error {
	config := fmt.Sprintf("public_key=%x\n", key)
	for _, a := range addresses {
		config += fmt.Sprintf("allowed_ip=%s/%d\n", a, a.BitLen())
	}
	if endpoint != "" {
		config += "endpoint=" + endpoint + "\n"
	}
	return e.device.IpcSet(config)
}

// allow lets a peer, if it is there, send from more addresses and receive at them.
// Nobody else can then. forbid takes that back.
func (e *engine) allow(key [32]byte, addresses netip.Prefix) error {
	return e.device.IpcSet(fmt.Sprintf("public_key=%x\nupdate_only=true\nallowed_ip=%s\n", key, addresses))
}

func (e *engine) forbid(key [32]byte, addresses netip.Prefix) error {
	return e.device.IpcSet(fmt.Sprintf("public_key=%x\nupdate_only=true\nallowed_ip=-%s\n", key, addresses))
}

func (e *engine) removePeer(key [32]byte) { e.device.RemovePeer(key) }

// deviceLogger tells what WireGuard says of itself. None of it needs anybody's
// attention, as peers come and go and paths fail.
func deviceLogger(log *slog.Logger) *device.Logger {
	return &device.Logger{
		Verbosef: device.DiscardLogf,
		Errorf:   func(format string, args ...any) { log.Debug("wireguard", "error", fmt.Sprintf(format, args...)) },
	}
}

// udpSocket is what a packet connection has to be.
func udpSocket(pc net.PacketConn) (*net.UDPConn, error) {
	udp, ok := pc.(*net.UDPConn)
	if !ok {
		return nil, fmt.Errorf("want a UDP socket, not a %T", pc)
	}
	return udp, nil
}

// checkMTU gives the MTU to use.
func checkMTU(mtu int) (int, error) {
	if mtu == 0 {
		return defaultMTU, nil
	}
	if mtu < minMTU || mtu > maxMTU {
		return 0, fmt.Errorf("the MTU is %d, want %d to %d", mtu, minMTU, maxMTU)
	}
	return mtu, nil
}
