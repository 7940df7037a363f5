package tunnel

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/adit-net/adit/tunnel/socks"
)

// loginExamples gives those of logins.
func loginExamples(t *testing.T) map[string][]byte {
	t.Helper()
	data := func(a socks.AuthData6, err error) socks.AuthData6 {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	noop := func(o socks.Options6) []byte { return encode(t, socks.Request6{Command: socks.Noop, Options: o}) }
	says := func(o socks.Options6) []byte {
		return encode(t, socks.AuthReply6{OK: true, Options: o}, socks.OperationReply6{})
	}
	with := func(all ...socks.AuthData6) socks.Options6 { return socks.Options6{Auth: all} }
	reference := socks.AuthData6{Method: byte(socks.MethodLogin6), Data: bytes.Repeat([]byte{0xd1}, socks.LoginID6)}
	yes := socks.AuthData6{Method: byte(socks.MethodPassword), Data: []byte{1, 0}}
	grant := socks.TokenGrant6{User: "alice", Protection: socks.GSSSigned, Reply: []byte("reply"), Context: []byte("context")}
	return map[string][]byte{
		"request: NOOP, which of the methods 1 and 2 is good?": noop(socks.Options6{Offer: &socks.MethodOffer6{Methods: []byte{1, 2}}}),
		"replies: method 2": says(socks.Options6{Selected: new(byte(socks.MethodPassword))}),
		"request: NOOP, user alice with password secret":                                           noop(with(data(socks.PasswordLogin6("alice", "secret")))),
		"replies: it is right, and she is the device's user":                                       says(with(yes)),
		"replies: it is right, and she is another user, login d1…d1":                               says(with(yes, reference)),
		"reply: nobody is let in":                                                                  encode(t, socks.AuthReply6{}),
		`request: NOOP, the token "token"`:                                                         noop(with(data(socks.TokenLogin6([]byte("token"))))),
		`replies: it is alice's, "reply" is the answer; at least signed from now on, by "context"`: says(with(data(grant.Data()))),
		"request: CONNECT example.com:443, for the user of login d1…d1": encode(t, socks.Request6{
			Command: socks.Connect, Dst: socks.Addr{Name: "example.com", Port: 443}, Options: with(reference),
		}),
		"request: UDP ASSOCIATE, for the user of login d1…d1": encode(t, socks.Request6{
			Command: socks.Associate, Dst: socks.Addr{IP: netip.IPv4Unspecified()}, Options: with(reference),
		}),
	}
}
