package main

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/adit-net/adit/tunnel"
)

// ipsecPlace is where a server takes carriers over IPsec: where the config says, or else where the
// server itself has said last, perhaps to an earlier process. Safe for concurrent use.
type ipsecPlace struct {
	fixed string // by the config; empty: it does not say
	host  string // of the server's own address
	file  string // remembers what the server has said

	mu   sync.Mutex
	said string // empty: that it takes none
}

var errNoIPsecPlace = hint(errors.New("the server has not said where it takes carriers over IPsec"),
	"set listen under [ipsec] in server.toml, or ipsec_address in client.toml; another carrier asks the server")

func newIPsecPlace(cfg remoteConfig, file string) *ipsecPlace {
	p := &ipsecPlace{fixed: cfg.IPsecAddress, file: file}
	p.host, _, _ = net.SplitHostPort(cfg.Address) // which is valid
	if text, err := os.ReadFile(file); err == nil {
		if address := strings.TrimSpace(string(text)); !badAddress(address) {
			p.said = address
		}
	}
	return p
}

// address gives it as HOST:PORT.
func (p *ipsecPlace) address() (string, error) {
	if p.fixed != "" {
		return p.fixed, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.said == "" {
		return "", errNoIPsecPlace
	}
	return p.said, nil
}

// hear notes what the server says.
func (p *ipsecPlace) hear(w tunnel.Welcome) {
	address := announcedBy(w, p.host)
	p.mu.Lock()
	defer p.mu.Unlock()
	if address == p.said {
		return
	}
	p.said = address
	// Without the file it is only learned again.
	if address == "" {
		_ = os.Remove(p.file)
		return
	}
	_ = os.WriteFile(p.file, []byte(address+"\n"), 0o600)
}

// announcedBy gives where a server with a host takes carriers over IPsec; empty if nowhere.
func announcedBy(w tunnel.Welcome, host string) string {
	if w.IPsec.Port() == 0 {
		return ""
	}
	if at := w.IPsec.Addr(); at.IsValid() {
		host = at.String()
	}
	return net.JoinHostPort(host, strconv.Itoa(int(w.IPsec.Port())))
}

// ipsecAnnounced is where the server tells devices that it takes carriers over IPsec; port 0 is
// nowhere.
func (p *serverProcess) ipsecAnnounced() netip.AddrPort {
	if len(p.ipsecListeners) == 0 {
		return netip.AddrPort{}
	}
	at := ownPorts(p.ipsecListeners)[0]
	if at.Addr().IsUnspecified() {
		return netip.AddrPortFrom(netip.Addr{}, at.Port())
	}
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
}
