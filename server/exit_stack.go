package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/adit-net/adit/tunnel/relay"
	"github.com/adit-net/adit/tunnel/socks"
)

// wishes are what a request asks of the protocols on the way to its target, besides
// the connection.
type wishes struct {
	options []socks.StackOption6
	initial []byte
	name    bool // the target was one
	fast    bool // initial may go with the SYN
}

// wishesOf reads a request. Data go with a SYN only where it is sent to one address:
// else several hosts could get them.
func wishesOf(r socks.Request, addresses int) wishes {
	w := wishes{options: r.Stack, initial: r.Initial, name: r.Dst.Name != ""}
	w.fast = canFastOpen && addresses == 1 && len(r.Initial) > 0 && w.has(socks.StackFastOpen6) && !w.multipath()
	return w
}

func (w wishes) find(kind socks.StackKind6) (value uint16, found bool) {
	return socks.FindStack6(w.options, kind)
}

func (w wishes) has(kind socks.StackKind6) bool {
	_, found := w.find(kind)
	return found
}

func (w wishes) multipath() bool {
	value, _ := w.find(socks.StackMultipath6)
	return value == socks.StackOn6
}

// happyEyeballs tells whether attempts at the addresses of a name may overlap.
func (w wishes) happyEyeballs() bool {
	value, _ := w.find(socks.StackHappyEyeballs6)
	return value != socks.StackOff6
}

// apply sets what has to be there before a socket connects. What cannot be had is
// left out: report tells.
func (w wishes) apply(raw syscall.RawConn, four bool) {
	for _, o := range w.options {
		if o.Leg&socks.TargetLeg6 != 0 {
			_ = setStack(raw, four, o.Kind, int(o.Value))
		}
	}
	if w.fast {
		_ = setFastOpen(raw)
	}
}

// dialledConn is what [relay.TCP] gives.
type dialledConn interface {
	net.Conn
	syscall.Conn
	MultipathTCP() (bool, error)
}

// report tells what there is of what was asked for, by what the system says of the
// connection.
func (w wishes) report(c relay.Conn) (done []socks.StackOption6) {
	conn, ok := c.(dialledConn)
	if !ok {
		return nil
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil
	}
	for _, o := range w.options {
		if o.Leg&socks.TargetLeg6 == 0 {
			continue
		}
		if value, err := w.outcome(conn, raw, o); err == nil {
			done = append(done, socks.StackOption6{Leg: socks.TargetLeg6, Kind: o.Kind, Value: uint16(value)})
		}
	}
	return done
}

// outcome tells what became of one option.
func (w wishes) outcome(conn dialledConn, raw syscall.RawConn, o socks.StackOption6) (int, error) {
	switch o.Kind {
	case socks.StackHappyEyeballs6:
		if w.name {
			return int(o.Value), nil
		}
	case socks.StackMultipath6:
		on, err := conn.MultipathTCP()
		if on {
			return socks.StackOn6, err
		}
		return socks.StackOff6, err
	case socks.StackFastOpen6:
		if n := fastOpened(raw, w.inSYN()); w.fast && n > 0 {
			return n, nil
		}
	default:
		return getStack(raw, addrPort(conn.RemoteAddr()).Addr().Is4(), o.Kind)
	}
	return 0, errors.ErrUnsupported
}

// inSYN is how many of the first bytes may go with the SYN.
func (w wishes) inSYN() int {
	if most, _ := w.find(socks.StackFastOpen6); most > 0 {
		return min(len(w.initial), int(most))
	}
	return len(w.initial)
}

// say sends what the app has said already. If it fails, the connection is of no use
// any more.
func (w wishes) say(ctx context.Context, c relay.Conn) error {
	if len(w.initial) == 0 {
		return nil
	}
	stop := context.AfterFunc(ctx, func() { c.SetWriteDeadline(time.Unix(1, 0)) })
	err := w.send(c)
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("send the first bytes: %w", err)
	}
	return nil
}

func (w wishes) send(c relay.Conn) error {
	if !w.fast {
		_, err := c.Write(w.initial)
		return err
	}
	n := w.inSYN()
	if _, err := c.Write(w.initial[:n]); err != nil {
		return err
	}
	if err := awaitPeer(c); err != nil {
		return err
	}
	_, err := c.Write(w.initial[n:])
	return err
}

// inTurn connects to the first of the targets that answers, and begins with none
// before the last one has failed. There is at least one target.
func inTurn(ctx context.Context, targets []netip.AddrPort, dial func(context.Context, netip.AddrPort) (relay.Conn, error)) (relay.Conn, error) {
	var errs []error
	for _, target := range targets {
		conn, err := dial(ctx, target)
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
	}
	return nil, mostTelling(errs)
}

func addrPort(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	at := tcp.AddrPort()
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
}
