package socks

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"net/netip"
	"testing"
)

// ticketDoor lets in who has the ticket.
func ticketDoor(t testing.TB, d *Door, p GSSProtection) string {
	t.Helper()
	accept := paperGrant(p, false)
	d.Admission.GSSAPI = func(ctx context.Context, _ netip.AddrPort, token []byte) (GSSGrant, error) { return accept(ctx, token) }
	return openDoor(t, d)
}

func TestAppsComeInByTicket(t *testing.T) {
	for _, test := range []struct {
		demand          GSSProtection
		proposed, level GSSLevel
	}{
		{GSSAsProposed, 0, 0},
		{GSSAsProposed, 1, 1},
		{GSSSealed, 1, 2},
		{GSSSigned, 2, 2},
		{GSSUnprotected, 2, 0}, // curl 8.17 and later
	} {
		book := newGuestBook()
		door := ticketDoor(t, &Door{Enter: book.enter}, test.demand)
		target := listen(t, "127.0.0.1:0")
		c := dial(t, door)
		mine := &paperGSS{}
		send(t, c, "\x05\x03\x00\x01\x02")
		expect(t, c, "\x05\x01")
		send(t, c, proposal(t, mine, byte(test.proposed)))
		expect(t, c, gssMessage(t, gssToken, []byte("reply")))
		answer, err := readGSS(c, gssProtection)
		if err != nil {
			t.Fatal(err)
		}
		if b, _, err := mine.Unwrap(answer); err != nil || string(b) != string([]byte{byte(test.level)}) {
			t.Fatalf("to %d the door answers %x (%v), want %d", test.proposed, b, err, test.level)
		}
		app := (&GSSChannel{Level: test.level, context: mine}).Conn(asRelay(t, c))
		send(t, app, request5(t, target.Addr().String()))
		expect(t, app, "\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00")
		if v := receive(t, book.came); v.user != "alice" {
			t.Errorf("%q came", v.user)
		}
		far := accept(t, target)
		send(t, app, "hello")
		expect(t, far, "hello")
		send(t, far, "you")
		expect(t, app, "you")
		far.Close()
		expectEnd(t, app)
	}
}

// What an app sends with its proposal is not lost on the way to the protected
// stream.
func TestRequestMayFollowTheProposalAtOnce(t *testing.T) {
	book := newGuestBook()
	door := ticketDoor(t, &Door{Enter: book.enter}, GSSSealed)
	target := listen(t, "127.0.0.1:0")
	mine := &paperGSS{}
	all := "\x05\x01\x01" + proposal(t, mine, 2)
	all += gssMessage(t, gssData, mine.Wrap(nil, []byte(request5(t, target.Addr().String())), true))
	c := dial(t, door)
	send(t, c, all)
	accept(t, target)
}

func TestCurlIsTurnedAwayInPlainWordsWhereProtectionIsDemanded(t *testing.T) {
	logged := &lines{}
	book := newGuestBook()
	door := ticketDoor(t, &Door{Enter: book.enter, Log: slog.New(slog.NewTextHandler(logged, nil))}, GSSSigned)
	c := dial(t, door)
	send(t, c, "\x05\x02\x00\x01"+proposal(t, &paperGSS{}, 0))
	expect(t, c, "\x05\x01"+gssMessage(t, gssToken, []byte("reply"))+gssAborted)
	expectEnd(t, c)
	receive(t, book.came)
	for !logged.contain("protection is demanded and the app proposes none, as curl does") {
		if t.Context().Err() != nil {
			t.Fatal("the log says nothing of it")
		}
	}
}

func TestNobodyComesInWithoutATicket(t *testing.T) {
	book := newGuestBook()
	door := ticketDoor(t, &Door{Enter: book.enter}, GSSAsProposed)
	for said, heard := range map[string]string{
		"\x05\x02\x00\x02": "\x05\xff",
		"\x05\x01\x01" + gssMessage(t, gssToken, []byte("another ticket")):                 "\x05\x01" + gssAborted,
		"\x05\x01\x01\x05\x01\x00\x01":                                                     "\x05\x01" + gssAborted,
		"\x04\x01\x00\x50\x7f\x00\x00\x01\x00":                                             "\x00\x5b\x00\x00\x00\x00\x00\x00",
		"\x05\x01\x01" + proposal(t, &paperGSS{}, 9):                                       "\x05\x01" + gssMessage(t, gssToken, []byte("reply")) + gssAborted,
		"\x06\x01\x00\x08\x00\x50\x00\x01\x7f\x00\x00\x01\x00\x02\x00\x08\x00\x00\x01\x00": "\x06\x01",
	} {
		c := dial(t, door)
		send(t, c, said)
		expect(t, c, heard)
		c.Close()
	}
}

// FuzzDoorWithTicket checks that no bytes lead to the relay but through a ticket and
// a level that is good enough.
func FuzzDoorWithTicket(f *testing.F) {
	seedDoor(f)
	for level := range byte(4) {
		mine := &paperGSS{}
		b := "\x05\x01\x01" + proposal(f, mine, level)
		f.Add([]byte(b+gssMessage(f, gssData, mine.Wrap(nil, []byte("\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x50"), true))), uint16(3))
		f.Add([]byte(b+"\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x50"), uint16(9))
	}
	accept := paperGrant(GSSSealed, true)
	f.Fuzz(func(t *testing.T, b []byte, split uint16) {
		good := false
		d := &Door{Relay: &recorder{allowed: func() bool { return good }}}
		d.Admission.GSSAPI = func(ctx context.Context, _ netip.AddrPort, token []byte) (GSSGrant, error) {
			grant, err := accept(ctx, token)
			good = err == nil
			return grant, err
		}
		// The other ways of a server's door are there, too, and lead nowhere.
		d.Admission.Authenticate = func(context.Context, netip.AddrPort, string, string) bool { return false }
		d.Admission.Identify = func(context.Context, net.Conn) (string, error) { return "", nil }
		d.Admission.Methods = func(context.Context, netip.AddrPort) []Method {
			return []Method{MethodGSSAPI, MethodPassword, MethodNone}
		}
		pieces := [][]byte{bytes.Clone(b)}
		if i := int(split); 0 < i && i < len(b) {
			pieces = [][]byte{b[:i:i], b[i:]}
		}
		o := run(t, d, newScript(pieces...)) // the recorder panics if not good
		for _, q := range o.asked {
			if q.User != "alice" {
				t.Errorf("%q: the door asks for %+v", b, q)
			}
		}
	})
}
