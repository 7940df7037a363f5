package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
)

// listen gets the listeners that the config names. Those that are there already
// are used.
func (p *serverProcess) listen(ctx context.Context) (err error) {
	if p.listeners != nil {
		return nil
	}
	have, err := systemdListeners()
	if err != nil {
		return err
	}
	if p.before != nil {
		have = p.before.listeners
	}
	var rest []net.Listener
	if p.listeners, rest, err = listenAmong(ctx, p.cfg.Listen, p.cfg.MPTCP && !p.cfg.RequireIPsec, have); err != nil {
		closeAll(have)
		return err
	}
	if p.doorListeners, rest, err = listenAmong(ctx, doorAddresses(p.cfg.Doors), p.cfg.MPTCP && !anyRequiresIPsec(p.cfg.Doors), rest); err != nil {
		closeAll(slices.Concat(p.listeners, have))
		return err
	}
	if p.metricsListeners, rest, err = listenAmong(ctx, p.cfg.Metrics.addresses(), false, rest); err != nil {
		closeAll(slices.Concat(p.listeners, p.doorListeners, have))
		return err
	}
	if p.ipsecListeners, rest, err = listenAmong(ctx, p.cfg.IPsec.addresses(), false, rest); err != nil {
		closeAll(slices.Concat(p.listeners, p.doorListeners, p.metricsListeners, have))
		return err
	}
	closeAll(rest)
	if len(rest) > 0 && p.before == nil {
		closeAll(p.allListeners())
		return hint(fmt.Errorf("systemd passes on a listener on %s, which listen in %s does not name", rest[0].Addr(), serverFile),
			"name it there, or remove it from the socket unit")
	}
	return nil
}

// allListeners gives those of the doors, of the metrics and over IPsec, too.
func (p *serverProcess) allListeners() []net.Listener {
	return slices.Concat(p.listeners, p.doorListeners, p.metricsListeners, p.ipsecListeners)
}

// listen opens all listeners, or none.
func listen(ctx context.Context, on []string) ([]net.Listener, error) {
	return listenMultipath(ctx, on, false)
}

// listenMultipath does the same. If it may, it lets whoever connects choose
// Multipath TCP, where this system has it.
func listenMultipath(ctx context.Context, on []string, may bool) ([]net.Listener, error) {
	all, _, err := listenAmong(ctx, on, may, nil)
	return all, err
}

// listenAmong does the same, but uses the listeners that there are already. It
// also gives those of them that fit no address.
func listenAmong(ctx context.Context, on []string, multipath bool, have []net.Listener) (all, rest []net.Listener, err error) {
	var config net.ListenConfig
	config.SetMultipathTCP(multipath)
	if !multipath {
		inheritKeepAlive(&config)
	}
	var opened []net.Listener
	rest = slices.Clone(have)
	for _, address := range on {
		if i := slices.IndexFunc(rest, func(ln net.Listener) bool { return fits(ln, address) }); i >= 0 {
			all, rest = append(all, rest[i]), slices.Delete(rest, i, i+1)
			continue
		}
		ln, err := config.Listen(ctx, "tcp", address)
		if err != nil {
			closeAll(opened)
			return nil, nil, listenHint(err, address)
		}
		all, opened = append(all, ln), append(opened, ln)
	}
	return all, rest, nil
}

// fits tells whether a listener has an address that a config names. Port 0 fits
// them all.
func fits(ln net.Listener, address string) bool {
	want, err := net.ResolveTCPAddr("tcp", address)
	have, ok := ln.Addr().(*net.TCPAddr)
	if err != nil || !ok || want.Port != 0 && want.Port != have.Port {
		return false
	}
	if want.IP == nil {
		return have.IP.IsUnspecified()
	}
	return want.IP.Equal(have.IP) && want.Zone == have.Zone
}

func closeAll(listeners []net.Listener) {
	for _, ln := range listeners {
		_ = ln.Close() // whoever served it may have closed it
	}
}

func addresses(listeners []net.Listener) []string {
	all := make([]string, len(listeners))
	for i, ln := range listeners {
		all[i] = ln.Addr().String()
	}
	return all
}

// ownPort gives the address that a listener will have which the config names.
func ownPort(address string) (netip.AddrPort, error) {
	at, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return netip.AddrPort{}, err
	}
	if at.IP == nil {
		return netip.AddrPortFrom(netip.IPv6Unspecified(), uint16(at.Port)), nil
	}
	return at.AddrPort(), nil
}

// ownPorts gives the addresses that must not be targets.
func ownPorts(listeners []net.Listener) []netip.AddrPort {
	var own []netip.AddrPort
	for _, ln := range listeners {
		if tcp, ok := ln.Addr().(*net.TCPAddr); ok {
			own = append(own, tcp.AddrPort())
		}
	}
	return own
}
