package tlslink

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/adit-net/adit/crypto/keys"
)

// phonebook is a resolver with one name. Without addresses it fails.
type phonebook struct {
	addrs atomic.Pointer[[]netip.Addr]
	asked atomic.Int64
}

func (p *phonebook) set(list string) {
	all := addrs(list)
	p.addrs.Store(&all)
}

func (p *phonebook) LookupNetIP(_ context.Context, network, host string) ([]netip.Addr, error) {
	p.asked.Add(1)
	all := *p.addrs.Load()
	if host != "exit.test" || network != "ip4" || len(all) == 0 {
		return nil, errNoName
	}
	return all, nil
}

// named is a dialer that knows the exit by a name in a phone book.
func (e *exit) named(t *testing.T, fingerprint, list string) (*Dialer, *phonebook) {
	t.Helper()
	_, port, err := net.SplitHostPort(e.address)
	if err != nil {
		t.Fatal(err)
	}
	book := &phonebook{}
	book.set(list)
	d := e.dialer(fingerprint)
	d.Address, d.Resolver = net.JoinHostPort("exit.test", port), book
	return d, book
}

func reachable(t *testing.T, d *Dialer) {
	t.Helper()
	c, err := d.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
}

func TestDeadAddressesDoNotKeepFromTheLivingOne(t *testing.T) {
	e := start(t, &Server{}, nobody)
	d, _ := e.named(t, "chrome", "127.0.0.2 127.0.0.3 127.0.0.4 127.0.0.5 127.0.0.6 127.0.0.7 127.0.0.8 127.0.0.1")
	for range 2 { // the second time it knows where to go
		begun := time.Now()
		reachable(t, d)
		if took := time.Since(begun); took > 3*time.Second {
			t.Errorf("it took %v", took)
		}
		if d.known[0] != netip.MustParseAddr("127.0.0.1") || len(d.known) != 8 {
			t.Errorf("remembered: %v", d.known)
		}
	}
}

func TestAddressNeedsNoResolver(t *testing.T) {
	e := start(t, &Server{}, nobody)
	d, book := e.named(t, "chrome", "")
	d.Address = e.address
	reachable(t, d)
	if n := book.asked.Load(); n != 0 {
		t.Errorf("the resolver was asked %d times", n)
	}
}

func TestServerIsFoundAgainWithoutItsName(t *testing.T) {
	e := start(t, &Server{}, nobody)
	d, book := e.named(t, "chrome", "")
	if _, err := d.Dial(t.Context()); !errors.Is(err, errNoName) {
		t.Fatalf("it was found without ever having had an address: %v", err)
	}
	book.set("127.0.0.1")
	reachable(t, d)
	book.set("")
	reachable(t, d)
	reachable(t, d) // what was remembered is remembered
}

// Whoever answers at a remembered address must prove to be the server, as
// everywhere.
func TestRememberedAddressProvesNothing(t *testing.T) {
	ca := newAuthority(t)
	for _, fingerprint := range fingerprints {
		for _, useCA := range []bool{false, true} {
			good := ca.issue(t, "exit.test", time.Now().Add(time.Hour))
			_, impostor := newCertificate(t, "exit.test")
			var shown atomic.Pointer[tls.Certificate]
			shown.Store(good)
			var opened atomic.Bool
			e := start(t, &Server{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return shown.Load(), nil }},
				func(context.Context, Arrival) ([]byte, func(context.Context, net.Conn)) {
					opened.Store(true)
					return answer(), echo
				})
			d, book := e.named(t, fingerprint, "127.0.0.1")
			if d.Pin = [32]byte{}; useCA {
				d.UseCA, d.RootCAs = true, ca.pool()
			} else {
				leaf, err := leafOf(good)
				if err != nil {
					t.Fatal(err)
				}
				d.Pin = keys.PinOf(leaf)
			}
			reachable(t, d)

			book.set("")
			shown.Store(&impostor)
			for range 2 {
				asked := book.asked.Load()
				c, err := d.Dial(t.Context())
				if err == nil {
					_ = c.Close()
				}
				if err == nil || !useCA && !errors.Is(err, ErrWrongPin) {
					t.Errorf("%s, CA %v: an impostor at a remembered address: %v", fingerprint, useCA, err)
				}
				if book.asked.Load() == asked {
					t.Errorf("%s, CA %v: nobody has looked the name up", fingerprint, useCA)
				}
			}
			if s := d.search("exit.test"); s.patience != doubtful {
				t.Errorf("%s, CA %v: look-ups have %v, although memory is in doubt", fingerprint, useCA, s.patience)
			}
			shown.Store(good)
			reachable(t, d)
			if s := d.search("exit.test"); s.patience != headStart {
				t.Errorf("%s, CA %v: look-ups have %v, although the server is there", fingerprint, useCA, s.patience)
			}
			if opened.Load() {
				t.Errorf("%s, CA %v: a client has sent an opening", fingerprint, useCA)
			}
			e.stop()
		}
	}
}
