package server

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/adit-net/adit/crypto/keys"
	"github.com/adit-net/adit/server/users"
	"github.com/adit-net/adit/tunnel"
	"github.com/adit-net/adit/tunnel/tunneltest"
)

// wantRefusal asserts how an opening is answered; 0 stands for a welcome.
func wantRefusal(t *testing.T, answer []byte, want tunnel.Refusal) {
	t.Helper()
	_, err := tunnel.ParseAnswer(answer)
	got, _ := errors.AsType[tunnel.Refusal](err)
	if got != want || (err == nil) != (want == 0) {
		t.Errorf("answer is %v, want %v", err, want)
	}
}

func TestStrangersGetNoAnswer(t *testing.T) {
	h := newHouse(t, nil)
	known, stranger := h.device("anna"), h.newKey()
	elsewhere := tunnel.Place{Server: here.Server, Carrier: [32]byte{99}}
	otherServer := tunnel.Place{Server: [32]byte{99}, Carrier: here.Carrier}
	forged := tunnel.Hello{Epoch: 1}.Sign(known, here)
	forged[60]++
	for name, opening := range map[string][]byte{
		"unknown device":                 tunnel.Hello{Epoch: 1}.Sign(stranger, here),
		"HELLO of another carrier":       tunnel.Hello{Epoch: 1}.Sign(known, elsewhere),
		"HELLO for another server":       tunnel.Hello{Epoch: 1}.Sign(known, otherServer),
		"HELLO that was changed":         forged,
		"HELLO that is cut off":          forged[:100],
		"nothing":                        nil,
		"JOIN with an unknown token":     join(h, stranger, keys.NewToken()),
		"JOIN of a device with no token": join(h, known, keys.Token{}),
	} {
		if answer, serve := h.come(opening); answer != nil || serve != nil {
			t.Errorf("%s is answered: %x", name, answer)
		}
	}
}

func TestRevokedDeviceAndDisabledUserAreRefused(t *testing.T) {
	h := newHouse(t, nil)
	first, second := h.device("anna"), h.device("anna")
	h.must(h.store.RevokeDevice(t.Context(), first.ID().String()))
	answer, serve := h.hello(first)
	wantRefusal(t, answer, tunnel.RefusedDeviceRevoked)
	if serve != nil {
		t.Error("the revoked device is served")
	}
	answer, _ = h.hello(second)
	wantRefusal(t, answer, 0)
	h.must(h.store.SetUserDisabled(t.Context(), "anna", true))
	answer, serve = h.hello(second)
	wantRefusal(t, answer, tunnel.RefusedUserDisabled)
	if serve != nil {
		t.Error("the disabled user is served")
	}
	h.must(h.store.SetUserDisabled(t.Context(), "anna", false))
	answer, _ = h.hello(second)
	wantRefusal(t, answer, 0)
	if n := len(h.log.find(t, "session refused")); n != 2 {
		t.Errorf("%d refusals in the log", n)
	}
}

func TestOldSessionIsNotKnown(t *testing.T) {
	h := newHouse(t, nil)
	answer, serve := h.come(tunnel.Hello{Epoch: 2, Session: [16]byte{1}}.Sign(h.device("anna"), here))
	wantRefusal(t, answer, tunnel.RefusedSession)
	if serve != nil {
		t.Error("it is served")
	}
}

func TestSessionMayBeKnownElsewhere(t *testing.T) {
	var asked []tunnel.Arrival
	var known []byte
	served := false
	h := newHouse(t, func(c *Config) {
		c.Elsewhere = func(_ context.Context, a tunnel.Arrival) ([]byte, func(context.Context, net.Conn)) {
			asked = append(asked, a)
			if known == nil {
				return nil, nil
			}
			return known, func(context.Context, net.Conn) { served = true }
		}
	})
	device := h.device("anna")
	opening := tunnel.Hello{Epoch: 2, Session: [16]byte{1}}.Sign(device, here)
	answer, serve := h.come(opening)
	wantRefusal(t, answer, tunnel.RefusedSession)
	if serve != nil || len(asked) != 1 || !bytes.Equal(asked[0].Opening, opening) || asked[0].Place != here {
		t.Errorf("asked %v", asked)
	}
	known = tunnel.Welcome{Session: [16]byte{1}, Epoch: 2}.Bytes()
	answer, serve = h.come(opening)
	wantRefusal(t, answer, 0)
	if serve(t.Context(), nil); !served {
		t.Error("it is not served elsewhere")
	}
	if n := len(h.log.find(t, "session refused")); n != 1 {
		t.Errorf("%d refusals in the log", n)
	}

	// Nobody is asked about what is new, nor for those who may not come.
	asked = nil
	answer, _ = h.hello(device)
	wantRefusal(t, answer, 0)
	if answer, _ := h.come(tunnel.Hello{Epoch: 2, Session: [16]byte{1}}.Sign(h.newKey(), here)); answer != nil {
		t.Error("a stranger gets an answer")
	}
	h.must(h.store.SetUserDisabled(t.Context(), "anna", true))
	answer, _ = h.come(opening)
	wantRefusal(t, answer, tunnel.RefusedUserDisabled)
	if len(asked) != 0 {
		t.Errorf("asked %v", asked)
	}
}

func join(h *house, key *keys.Device, token keys.Token) []byte {
	h.t.Helper()
	opening, err := tunnel.Join{Token: token.Bytes(), WireGuard: key.WireGuardPublic(), Name: "phone"}.Sign(key, here)
	h.must(err)
	return opening
}

func TestInviteEnrolsOneDeviceOnce(t *testing.T) {
	ways := tunnel.Welcome{WireGuard: [32]byte{9}, WireGuardPort: 51820, IPsec: netip.MustParseAddrPort("[fd00::1]:8444"), Key: [32]byte{8}}
	h := newHouse(t, func(c *Config) {
		c.WireGuard, c.WireGuardPort, c.IPsec, c.Key = ways.WireGuard, ways.WireGuardPort, ways.IPsec, ways.Key
	})
	key, token := h.newKey(), h.invite("anna", time.Hour)
	answer, serve := h.come(join(h, key, token))
	wantRefusal(t, answer, 0)
	if welcome, err := tunnel.ParseJoined(answer); err != nil || welcome != ways {
		t.Errorf("it is told %+v, %v", welcome, err)
	}
	if serve != nil {
		t.Error("a JOIN is served a session")
	}
	device, user, err := h.store.Lookup(t.Context(), key.Public())
	if err != nil || user.Name != "anna" || device.Name != "phone" || device.WireGuard != key.WireGuardPublic() {
		t.Errorf("enrolled %+v of %+v, %v", device, user, err)
	}
	answer, _ = h.come(join(h, key, token))
	wantRefusal(t, answer, tunnel.RefusedDeviceKnown)
	answer, _ = h.come(join(h, h.newKey(), token))
	wantRefusal(t, answer, tunnel.RefusedInviteUsed)
	answer, _ = h.come(join(h, key, h.invite("bob", time.Hour)))
	wantRefusal(t, answer, tunnel.RefusedDeviceKnown)

	expires := 20 * time.Millisecond
	late := h.invite("anna", expires)
	time.Sleep(expires)
	answer, _ = h.come(join(h, h.newKey(), late))
	wantRefusal(t, answer, tunnel.RefusedInviteExpired)

	disabled := h.invite("bob", time.Hour)
	h.must(h.store.SetUserDisabled(t.Context(), "bob", true))
	answer, _ = h.come(join(h, h.newKey(), disabled))
	wantRefusal(t, answer, tunnel.RefusedUserDisabled)

	answer, _ = h.hello(key)
	wantRefusal(t, answer, 0)
	for _, secret := range []keys.Token{token, late, disabled} {
		if strings.Contains(h.log.String(), secret.Reveal()) {
			t.Error("a token is in the log")
		}
	}
}

func TestSessionsAreLimited(t *testing.T) {
	h := newHouse(t, func(c *Config) { c.Sessions = 2 })
	first, second := h.device("anna"), h.device("bob")
	// Openings alone hold nothing.
	for range 10 {
		answer, _ := h.hello(first)
		wantRefusal(t, answer, 0)
	}
	_, late := h.hello(second)
	one, other := h.attach(first), h.attach(second)
	port := echoTarget(t)
	exchange(t, one.connect(port), "hello")
	exchange(t, other.connect(port), "hello")
	answer, serve := h.hello(second)
	wantRefusal(t, answer, tunnel.RefusedBusy)
	if serve != nil {
		t.Error("it is served")
	}
	// Whoever was admitted while there was room finds none.
	near, far := tunneltest.Link(tunneltest.Path{})
	late(h.ctx, far)
	if _, err := near.Read(make([]byte, 1)); err == nil {
		t.Error("a third session says something")
	}
	one.Close(0)
	receive(t, one.served, "the end of the first session")
	exchange(t, h.attach(second).connect(port), "hello")
}

func TestDeviceDoesNotTakeAllSessions(t *testing.T) {
	h := newHouse(t, nil)
	greedy, modest := h.device("anna"), h.device("anna")
	for range deviceSessions {
		g := h.attach(greedy)
		if _, err := g.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for len(h.Status()) < deviceSessions { // each is booked when it begins, and then tells nobody
		time.Sleep(time.Millisecond)
	}
	answer, _ := h.hello(greedy)
	wantRefusal(t, answer, tunnel.RefusedBusy)
	answer, _ = h.hello(modest)
	wantRefusal(t, answer, 0)
}

// TestNobodyIsServedOnceTheStoreIsGone leaves the sessions' own context alone:
// it is the server that ends them.
func TestNobodyIsServedOnceTheStoreIsGone(t *testing.T) {
	h := newHouse(t, nil)
	key := h.device("anna")
	g := h.attach(key)
	port := echoTarget(t)
	stream := g.connect(port)
	h.must(os.Rename(h.path, h.path+".away"))
	if err := receive(t, h.ended, "the end of Serve"); err == nil {
		t.Error("Serve has ended without an error")
	}
	receive(t, g.served, "the end of the session")
	if _, err := stream.Read(make([]byte, 1)); !errors.Is(err, tunnel.ErrSessionLost) {
		t.Errorf("Read gives %v", err)
	}
	answer, serve := h.hello(key)
	wantRefusal(t, answer, tunnel.RefusedBusy)
	if serve != nil {
		t.Error("a session is served after the end")
	}
	h.must(os.Rename(h.path+".away", h.path))
}

func TestChangeBetweenAdmissionAndBeginIsSeen(t *testing.T) {
	for name, change := range map[string]func(*house, *keys.Device) error{
		"revoked": func(h *house, key *keys.Device) error {
			return h.store.RevokeDevice(h.t.Context(), key.ID().String())
		},
		"removed": func(h *house, _ *keys.Device) error { return h.store.RemoveUser(h.t.Context(), "anna") },
		"given to another user": func(h *house, key *keys.Device) error {
			if err := h.store.RemoveUser(h.t.Context(), "anna"); err != nil {
				return err
			}
			_, err := h.store.Join(h.t.Context(), h.invite("bob", time.Hour).Bytes(), users.Device{Key: key.Public(), Name: "laptop"})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, nil)
			key := h.device("anna")
			_, serve := h.hello(key)
			h.must(change(h, key))
			near, far := tunneltest.Link(tunneltest.Path{})
			serve(h.ctx, far) // it returns at once, or never
			if _, err := near.Read(make([]byte, 1)); err == nil {
				t.Error("the session has begun")
			}
			if n := len(h.Status()); n != 0 {
				t.Errorf("%d sessions are booked", n)
			}
		})
	}
}

// TestHelloThatCannotBeginLeavesNothingBehind has a device say what no session
// begins with, more often than it may have sessions.
func TestHelloThatCannotBeginLeavesNothingBehind(t *testing.T) {
	h := newHouse(t, nil)
	key := h.device("anna")
	for _, hello := range []tunnel.Hello{{Epoch: 0}, {Epoch: 1, Received: 7}} {
		for range deviceSessions + 1 {
			_, serve := h.come(hello.Sign(key, here))
			if serve == nil {
				t.Fatalf("%+v: no room", hello)
			}
			_, far := tunneltest.Link(tunneltest.Path{})
			serve(h.ctx, far) // it returns at once
		}
	}
	if n := len(h.Status()); n != 0 {
		t.Errorf("%d sessions are booked", n)
	}
	exchange(t, h.attach(key).connect(echoTarget(t)), "hello")
}

// TestOpeningThatComesThroughAnotherDevicesTunnelIsNotGenuine has a device use a
// WireGuard key that is not its own.
func TestOpeningThatComesThroughAnotherDevicesTunnelIsNotGenuine(t *testing.T) {
	ipsec := netip.MustParseAddrPort("10.8.0.1:8444")
	h := newHouse(t, func(c *Config) { c.WireGuard, c.WireGuardPort, c.IPsec, c.Key = [32]byte{9}, 51820, ipsec, [32]byte{8} })
	key, other := h.device("anna"), h.device("bob")
	for _, test := range []struct {
		through [32]byte
		taken   bool
	}{{[32]byte{}, true}, {key.WireGuardPublic(), true}, {other.WireGuardPublic(), false}} {
		answer, _ := h.Admit(h.ctx, tunnel.Arrival{
			Opening:   tunnel.Hello{Epoch: 1}.Sign(key, here),
			Place:     here,
			Remote:    netip.MustParseAddrPort("192.0.2.7:4711"),
			WireGuard: test.through,
		})
		if (answer != nil) != test.taken {
			t.Errorf("through %x: answer %x", test.through[:4], answer)
		}
		if answer == nil {
			continue
		}
		welcome, err := tunnel.ParseAnswer(answer)
		if err != nil || welcome.WireGuard != [32]byte{9} || welcome.WireGuardPort != 51820 || welcome.IPsec != ipsec || welcome.Key != [32]byte{} {
			t.Errorf("welcome %+v, %v", welcome, err)
		}
	}
}

// A guest's key is one of WireGuard. Somebody may have had one enrolled that is a
// device's key in truth.
func TestGuestGetsNoSession(t *testing.T) {
	h := newHouse(t, nil)
	key := h.newKey()
	guest, err := h.store.AddGuest(t.Context(), "anna", "phone", [32]byte(key.Public()), netip.MustParsePrefix("10.83.0.0/16"))
	h.must(err)
	if answer, serve := h.hello(key); answer != nil || serve != nil {
		t.Errorf("its HELLO is answered: %x", answer)
	}
	arrival := tunnel.Arrival{Opening: tunnel.Hello{Epoch: 1}.Sign(key, here), Place: here, WireGuard: guest.WireGuard}
	if answer, serve := h.Admit(t.Context(), arrival); answer != nil || serve != nil {
		t.Errorf("inside WireGuard its HELLO is answered: %x", answer)
	}
	v, err := h.Visit(t.Context(), Visitor{Device: guest.Key})
	if err != nil {
		t.Fatalf("it may not visit: %v", err)
	}
	defer v.Close()
	if v.User() != "anna" {
		t.Errorf("it visits as %q", v.User())
	}
}
