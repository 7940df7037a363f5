package main

import (
	"net"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/adit-net/adit/tunnel"
)

func announcing(at string) tunnel.Welcome {
	w := tunnel.Welcome{IPsec: netip.MustParseAddrPort(at)}
	if w.IPsec.Addr().IsUnspecified() {
		w.IPsec = netip.AddrPortFrom(netip.Addr{}, w.IPsec.Port())
	}
	back, err := tunnel.ParseAnswer(w.Bytes())
	if err != nil {
		panic(err)
	}
	return back
}

func TestClientLearnsWhereCarriersOverIPsecAreTaken(t *testing.T) {
	file := filepath.Join(t.TempDir(), ipsecPlaceFile)
	cfg := remoteConfig{Address: "vpn.example:443"}
	p := newIPsecPlace(cfg, file)
	for _, step := range []struct {
		welcome tunnel.Welcome
		want    string
	}{
		{tunnel.Welcome{}, ""}, // of an older server, too
		{announcing("10.8.0.1:8444"), "10.8.0.1:8444"},
		{announcing("[fd00::1]:8444"), "[fd00::1]:8444"},
		{announcing("0.0.0.0:8445"), "vpn.example:8445"},
		{tunnel.Welcome{}, ""},
		{announcing("10.8.0.1:8444"), "10.8.0.1:8444"},
	} {
		p.hear(step.welcome)
		for when, place := range map[string]*ipsecPlace{"now": p, "after a restart": newIPsecPlace(cfg, file)} {
			got, err := place.address()
			if got != step.want || (err == nil) != (step.want != "") {
				t.Errorf("%s: %q, %v; want %q", when, got, err, step.want)
			}
		}
	}
	cfg.IPsecAddress = "192.0.2.1:1"
	p = newIPsecPlace(cfg, file)
	p.hear(announcing("10.8.0.2:8444"))
	if got, err := p.address(); got != "192.0.2.1:1" || err != nil {
		t.Errorf("what the config says does not count: %q, %v", got, err)
	}
}

func TestServerSaysWhereItTakesCarriersOverIPsec(t *testing.T) {
	if got := new(serverProcess).ipsecAnnounced(); got.Port() != 0 {
		t.Errorf("one that takes none says %v", got)
	}
	for listen, addressed := range map[string]bool{"127.0.0.1:0": true, ":0": false} {
		ln, err := net.Listen("tcp", listen)
		if err != nil {
			t.Fatal(err)
		}
		p := &serverProcess{ipsecListeners: []net.Listener{ln}}
		got := p.ipsecAnnounced()
		if int(got.Port()) != ln.Addr().(*net.TCPAddr).Port || got.Addr().IsValid() != addressed {
			t.Errorf("on %s it says %v", ln.Addr(), got)
		}
		ln.Close()
	}
}
