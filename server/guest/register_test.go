package guest

import (
	"context"
	"crypto/rand"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/adit-net/adit/server"
	"github.com/adit-net/adit/server/users"
	"github.com/adit-net/adit/tunnel/socks"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var outside = netip.MustParseAddrPort("192.0.2.1:51820")

// inn is a register with all that it works with.
type inn struct {
	*Register
	t       *testing.T
	store   *users.Store
	present map[[32]byte]Presence
}

// newInn runs a server and a register until the test ends.
func newInn(t *testing.T) *inn {
	t.Helper()
	store, err := users.Create(t.Context(), filepath.Join(t.TempDir(), "adit.db"))
	if err != nil {
		t.Fatal(err)
	}
	i := &inn{t: t, store: store, present: map[[32]byte]Presence{}}
	i.must(store.AddUser(t.Context(), "anna"))
	log := slog.New(slog.DiscardHandler)
	s := server.New(server.Config{Users: store, Relay: &server.Exit{Allow: server.Allow{Loopback: true}}, Log: log})
	i.Register = NewRegister(Config{Server: s, Users: store, Present: func() map[[32]byte]Presence { return i.present }, Log: log})
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := s.Serve(ctx); err != nil {
			t.Error(err)
		}
	})
	serving.Go(func() { i.Serve(ctx) })
	t.Cleanup(func() {
		cancel()
		serving.Wait()
		i.must(store.Close())
	})
	return i
}

func (i *inn) must(err error) {
	i.t.Helper()
	if err != nil {
		i.t.Fatal(err)
	}
}

// add enrols a guest of anna's.
func (i *inn) add() users.Device {
	i.t.Helper()
	var key [32]byte
	_, _ = rand.Read(key[:])
	d, err := i.store.AddGuest(i.t.Context(), "anna", "phone", key, netip.MustParsePrefix("10.83.0.0/16"))
	i.must(err)
	return d
}

// at is where a guest is that stays there.
func at(place netip.AddrPort) func() netip.AddrPort {
	return func() netip.AddrPort { return place }
}

// visit has a guest begin something that it may.
func (i *inn) visit(d users.Device) *server.Visit {
	i.t.Helper()
	v, err := i.Visit(i.t.Context(), d.WireGuard, at(outside))
	i.must(err)
	return v
}

// connect opens a connection to a target that keeps it open until the test ends.
func (i *inn) connect(v *server.Visit) net.Conn {
	i.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	i.must(err)
	i.t.Cleanup(func() { ln.Close() })
	dst, err := socks.ParseAddr(ln.Addr().String())
	i.must(err)
	c, _, err := v.Connect(i.t.Context(), socks.Request{Command: socks.Connect, Dst: dst, Dialect: socks.WireGuard})
	i.must(err)
	i.t.Cleanup(func() { c.Close() })
	return c
}

// until waits for what nobody tells of.
func until(t *testing.T, what string, so func() bool) {
	t.Helper()
	for by := time.Now().Add(10 * time.Second); !so(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(by) {
			t.Fatal(what + " does not happen")
		}
	}
}

func over(v *server.Visit) bool {
	select {
	case <-v.Done():
		return true
	default:
		return false
	}
}

func TestGuestIsHereFromTheFirstThingThatItDoes(t *testing.T) {
	i := newInn(t)
	phone, tablet := i.add(), i.add()
	i.Set([]users.Device{phone, tablet})
	if here := i.Here(); len(here) != 0 {
		t.Errorf("before anything is done there are %+v", here)
	}
	v := i.visit(phone)
	if again := i.visit(phone); again != v || v.User() != "anna" {
		t.Errorf("it visits twice, or as %q", v.User())
	}
	i.connect(v)
	here := i.Here()
	if len(here) != 1 || here[0].Device.Address != phone.Address || here[0].Remote != outside || here[0].Usage.Flows != 1 {
		t.Errorf("there are %+v", here)
	}
	elsewhere := netip.MustParseAddrPort("192.0.2.2:1")
	i.present[phone.WireGuard] = Presence{Remote: elsewhere}
	if here := i.Here(); here[0].Remote != elsewhere {
		t.Errorf("it has moved, and is at %v", here[0].Remote)
	}
	until(t, "that the store is told", func() bool {
		d, _, err := i.store.Lookup(t.Context(), phone.Key)
		return err == nil && !d.LastSeen.IsZero()
	})
}

func TestNobodyVisitsWhoIsNotInTheRegister(t *testing.T) {
	i := newInn(t)
	phone := i.add()
	if _, err := i.Visit(t.Context(), phone.WireGuard, at(outside)); err == nil {
		t.Error("a guest visits before it may")
	}
	i.Set([]users.Device{phone})
	v := i.visit(phone)
	i.Set(nil)
	if !over(v) || len(i.Here()) != 0 {
		t.Error("a guest stays that may not")
	}
	if _, err := i.Visit(t.Context(), phone.WireGuard, at(outside)); err == nil {
		t.Error("it comes back")
	}
}

func TestRevokedGuestHasToGo(t *testing.T) {
	i := newInn(t)
	phone := i.add()
	i.Set([]users.Device{phone})
	v := i.visit(phone)
	c := i.connect(v)
	i.must(i.store.RevokeDevice(t.Context(), phone.ID().String()))
	until(t, "that its visit ends", func() bool { return over(v) })
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("its connection goes on")
	}
	until(t, "a refusal", func() bool {
		_, err := i.Visit(t.Context(), phone.WireGuard, at(outside))
		return err != nil
	})
	if here := i.Here(); len(here) != 0 {
		t.Errorf("there are %+v", here)
	}
}

func TestGuestOfADisabledUserMayComeBackWhenTheUserMay(t *testing.T) {
	i := newInn(t)
	phone := i.add()
	i.Set([]users.Device{phone})
	v := i.visit(phone)
	i.must(i.store.SetUserDisabled(t.Context(), "anna", true))
	until(t, "that its visit ends", func() bool { return over(v) })
	i.must(i.store.SetUserDisabled(t.Context(), "anna", false))
	until(t, "another visit", func() bool {
		again, err := i.Visit(t.Context(), phone.WireGuard, at(outside))
		return err == nil && again != v && !over(again)
	})
}

func TestGuestHasLeftWhenNothingIsHeardOfIt(t *testing.T) {
	i := newInn(t)
	idle, busy, heard := i.add(), i.add(), i.add()
	i.Set([]users.Device{idle, busy, heard})
	visits := []*server.Visit{i.visit(idle), i.visit(busy), i.visit(heard)}
	c := i.connect(visits[1])
	now := time.Now()
	i.present[idle.WireGuard] = Presence{Remote: outside, Heard: now}
	i.present[heard.WireGuard] = Presence{Remote: outside, Heard: now.Add(away)}

	i.sweep(now.Add(away - time.Second))
	if n := len(i.Here()); n != 3 {
		t.Errorf("%d are here, want 3", n)
	}
	i.sweep(now.Add(away + time.Minute))
	if !over(visits[0]) || over(visits[1]) || over(visits[2]) {
		t.Errorf("over are: %v, %v, %v", over(visits[0]), over(visits[1]), over(visits[2]))
	}
	i.must(c.Close())
	i.sweep(now.Add(away + time.Minute))
	if !over(visits[1]) || over(visits[2]) {
		t.Errorf("over are: %v, %v", over(visits[1]), over(visits[2]))
	}
	if again := i.visit(idle); over(again) {
		t.Error("it may not come back")
	}
}
