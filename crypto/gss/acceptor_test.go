package gss

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jcmturner/gofork/encoding/asn1"
	"github.com/jcmturner/gokrb5/v8/asn1tools"
	"github.com/jcmturner/gokrb5/v8/iana/nametype"
	"github.com/jcmturner/gokrb5/v8/types"

	"github.com/adit-net/adit/crypto/gss/cfx"
)

// talk sends messages both ways.
func talk(t testing.TB, app, server *cfx.Context) {
	t.Helper()
	for _, seal := range []bool{false, true} {
		for _, way := range [][2]*cfx.Context{{app, server}, {server, app}} {
			got, sealed, err := way[1].Unwrap(way[0].Wrap(nil, []byte("message"), seal))
			if err != nil || sealed != seal || string(got) != "message" {
				t.Errorf("message arrives as %q, sealed: %t (%v)", got, sealed, err)
			}
		}
	}
}

func TestGoodTicketsAreAccepted(t *testing.T) {
	for _, kind := range []int32{17, 18, 19, 20} {
		for name, change := range map[string]func(*issuer){
			"with everything":        func(*issuer) {},
			"for another service":    func(i *issuer) { i.service = "socks/proxy.example.org" },
			"with Windows' OID":      func(i *issuer) { i.mechanism = kerberosWindows },
			"without mutual":         func(i *issuer) { i.flags &^= cfx.Mutual },
			"without the app's key":  func(i *issuer) { i.auth.SubKey = types.EncryptionKey{} },
			"neither of them":        func(i *issuer) { i.flags = 0; i.auth.SubKey = types.EncryptionKey{} },
			"with delegation":        func(i *issuer) { i.flags |= cfx.Delegation },
			"with no key version":    func(i *issuer) { i.version = 0 },
			"with a long version":    func(i *issuer) { i.version = 0x70003 },
			"counting from zero":     func(i *issuer) { i.auth.SeqNumber = 0 },
			"counting far":           func(i *issuer) { i.auth.SeqNumber = 1<<32 - 2 },
			"with no start":          func(i *issuer) { i.ticket.StartTime = time.Time{} },
			"with addresses":         func(i *issuer) { i.ticket.CAddr = types.HostAddresses{{AddrType: 2, Address: []byte{192, 0, 2, 1}}} },
			"expired 4 min ago":      func(i *issuer) { i.ticket.EndTime = time.Now().Add(-4 * time.Minute) },
			"by a clock 4 min slow":  func(i *issuer) { i.auth.CTime = i.auth.CTime.Add(-4 * time.Minute) },
			"by a clock 4 min ahead": func(i *issuer) { i.auth.CTime = i.auth.CTime.Add(4 * time.Minute) },
		} {
			i := newIssuer(t)
			i.kind, i.ticket.Key, i.auth.SubKey = kind, freshKey(kind), freshKey(kind)
			change(i)
			server, reply, err := newAcceptor(t, Config{}).Accept(i.token(t))
			if err != nil {
				t.Errorf("type %d, %s: %v", kind, name, err)
				continue
			}
			if (len(reply) > 0) != (i.flags&cfx.Mutual != 0) {
				t.Errorf("type %d, %s: reply of %d bytes", kind, name, len(reply))
			}
			want := cfx.Peer{Principal: "alice", Realm: realm, Expires: i.ticket.EndTime.UTC().Truncate(time.Second), Flags: i.flags}
			if p := server.Peer(); p != want || server.EncType() != cfx.EncType(kind) {
				t.Errorf("type %d, %s: %+v with %v, want %+v", kind, name, p, server.EncType(), want)
			}
			talk(t, i.initiator(t, reply), server)
		}
	}
}

func TestBadTicketsAreRefused(t *testing.T) {
	for name, v := range map[string]struct {
		change func(*issuer)
		want   error
	}{
		"expired":              {func(i *issuer) { i.ticket.EndTime = time.Now().Add(-6 * time.Minute) }, ErrExpired},
		"not valid yet":        {func(i *issuer) { i.ticket.StartTime = time.Now().Add(6 * time.Minute) }, ErrSkew},
		"issued in the future": {func(i *issuer) { i.ticket.StartTime, i.ticket.AuthTime = time.Time{}, time.Now().Add(time.Hour) }, ErrSkew},
		"postdated":            {func(i *issuer) { types.SetFlag(&i.ticket.Flags, ticketInvalid) }, ErrTicket},
		"clock slow":           {func(i *issuer) { i.auth.CTime = i.auth.CTime.Add(-6 * time.Minute) }, ErrSkew},
		"clock ahead":          {func(i *issuer) { i.auth.CTime = i.auth.CTime.Add(6 * time.Minute) }, ErrSkew},
		"clock out of reach":   {func(i *issuer) { i.auth.CTime = time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC) }, ErrSkew},
		"service's realm":      {func(i *issuer) { i.realm = "ELSEWHERE.ORG" }, ErrRealm},
		"user's realm": {func(i *issuer) {
			i.ticket.CRealm, i.auth.CRealm = "ELSEWHERE.ORG", "ELSEWHERE.ORG"
		}, ErrRealm},
		"another service": {func(i *issuer) { i.service = "imap/proxy.example.org" }, ErrService},
		"another host":    {func(i *issuer) { i.service = "rcmd/other.example.org" }, ErrService},
		"the KDC's own":   {func(i *issuer) { i.service = "krbtgt/" + realm }, ErrService},
		"another key":     {func(i *issuer) { i.password = "of somebody else" }, ErrTicket},
		"a newer key":     {func(i *issuer) { i.version = 4 }, ErrTicket},
		"RC4 ticket":      {func(i *issuer) { i.kind = 23 }, cfx.ErrEncType},
		"RC4 session":     {func(i *issuer) { i.ticket.Key = freshKey(23) }, cfx.ErrEncType},
		"RC4 subkey":      {func(i *issuer) { i.auth.SubKey = freshKey(23) }, cfx.ErrEncType},
		"user-to-user":    {func(i *issuer) { types.SetFlag(&i.options, useSessionKey) }, ErrTicket},
		"another user":    {func(i *issuer) { i.auth.CName = types.NewPrincipalName(nametype.KRB_NT_PRINCIPAL, "bob") }, ErrTicket},
		"another's realm": {func(i *issuer) { i.auth.CRealm = "ELSEWHERE.ORG" }, ErrTicket},
		"microseconds":    {func(i *issuer) { i.auth.Cusec = 1_000_000 }, ErrToken},
		"no name":         {func(i *issuer) { i.ticket.CName.NameString = nil; i.auth.CName = i.ticket.CName }, ErrTicket},
		"name of two":     {func(i *issuer) { i.ticket.CName.NameString = []string{"alice/admin"}; i.auth.CName = i.ticket.CName }, ErrTicket},
		"name with realm": {func(i *issuer) {
			i.ticket.CName.NameString = []string{"root@EXAMPLE.ORG"}
			i.auth.CName = i.ticket.CName
		}, ErrTicket},
		"name with line": {func(i *issuer) { i.ticket.CName.NameString = []string{"a\nb"}; i.auth.CName = i.ticket.CName }, ErrTicket},
		"name too long": {func(i *issuer) {
			i.ticket.CName.NameString = []string{strings.Repeat("a", 256)}
			i.auth.CName = i.ticket.CName
		}, ErrTicket},
		"another protocol": {func(i *issuer) { i.mechanism = "\x2b\x06\x01\x05\x05\x02" }, ErrMechanism},
	} {
		i := newIssuer(t)
		v.change(i)
		if c, reply, err := newAcceptor(t, Config{}).Accept(i.token(t)); !errors.Is(err, v.want) || c != nil || reply != nil {
			t.Errorf("%s: %v, want %v", name, err, v.want)
		}
	}
}

func TestAuthenticatorsWithoutFlagsAreRefused(t *testing.T) {
	flags := make([]byte, 24)
	flags[0] = 16
	for name, sum := range map[string]types.Checksum{
		"none":          {},
		"another type":  {CksumType: 16, Checksum: flags},
		"short":         {CksumType: 0x8003, Checksum: flags[:23]},
		"long bindings": {CksumType: 0x8003, Checksum: append([]byte{17}, flags[1:]...)},
	} {
		i := newIssuer(t)
		i.auth.Cksum = sum
		if _, _, err := newAcceptor(t, Config{}).Accept(i.tokenAsIs(t)); !errors.Is(err, ErrToken) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOnlyTheNamedServicesAreServed(t *testing.T) {
	a := newAcceptor(t, Config{Services: []string{"rcmd", "socks"}})
	for service, want := range map[string]error{
		"rcmd/proxy.example.org": nil, "socks/proxy.example.org": nil, "host/proxy.example.org": ErrService,
		"RCMD/Proxy.Example.ORG": ErrTicket, // the name fits; the key is made of the name here
	} {
		i := newIssuer(t)
		i.service = service
		if _, _, err := a.Accept(i.token(t)); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", service, err, want)
		}
	}
}

func TestUsersOfNamedRealmsAreAccepted(t *testing.T) {
	a := newAcceptor(t, Config{Realms: []string{"PARTNER.ORG"}})
	from := func(realm string, change func(*issuer)) error {
		i := newIssuer(t)
		i.ticket.CRealm, i.auth.CRealm = realm, realm
		change(i)
		c, _, err := a.Accept(i.token(t))
		if err == nil && c.Name() != "alice@"+realm {
			t.Errorf("alice of %s is %s", realm, c.Name())
		}
		return err
	}
	if err := from("PARTNER.ORG", func(*issuer) {}); err != nil {
		t.Errorf("a partner: %v", err)
	}
	if err := from(realm, func(*issuer) {}); !errors.Is(err, ErrRealm) {
		t.Errorf("the service's realm, which is not named: %v", err)
	}
	through := func(i *issuer) { i.ticket.Transited.Contents = []byte("EVIL.ORG") }
	if err := from("PARTNER.ORG", through); !errors.Is(err, ErrRealm) {
		t.Errorf("through a realm that nobody has checked: %v", err)
	}
	checked := func(i *issuer) { through(i); types.SetFlag(&i.ticket.Flags, ticketTransited) }
	if err := from("PARTNER.ORG", checked); err != nil {
		t.Errorf("through a realm that the KDC has checked: %v", err)
	}
}

func TestNoTokenIsTakenTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAcceptor(t, Config{})
		i := newIssuer(t)
		i.auth.CTime = i.auth.CTime.Add(Skew - time.Second) // good for as long as can be
		token := i.token(t)
		if _, _, err := a.Accept(bytes.Clone(token)); err != nil {
			t.Fatal(err)
		}
		for range 2*Skew/time.Second - 2 {
			time.Sleep(time.Second)
			if _, _, err := a.Accept(bytes.Clone(token)); !errors.Is(err, ErrReplay) {
				t.Fatalf("again: %v", err)
			}
		}
		time.Sleep(2 * time.Second)
		if _, _, err := a.Accept(bytes.Clone(token)); !errors.Is(err, ErrSkew) {
			t.Fatalf("again, at last: %v", err)
		}
	})
}

func TestOfManyAtOnceOneIsAccepted(t *testing.T) {
	a := newAcceptor(t, Config{})
	token := newIssuer(t).token(t)
	var accepted atomic.Int32
	var wait sync.WaitGroup
	for range 16 {
		wait.Go(func() {
			if _, _, err := a.Accept(bytes.Clone(token)); err == nil {
				accepted.Add(1)
			} else if !errors.Is(err, ErrReplay) {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if n := accepted.Load(); n != 1 {
		t.Errorf("%d are accepted", n)
	}
}

// Another process has the same keytab and no memory of the token. The app's
// recorded messages are worth nothing there.
func TestRecordedMessagesAreWorthNothingElsewhere(t *testing.T) {
	i := newIssuer(t)
	token := i.token(t)
	first, reply, err := newAcceptor(t, Config{}).Accept(bytes.Clone(token))
	if err != nil {
		t.Fatal(err)
	}
	recorded := i.initiator(t, reply).Wrap(nil, []byte{0}, false)
	if _, _, err := first.Unwrap(bytes.Clone(recorded)); err != nil {
		t.Fatal(err)
	}
	second, _, err := newAcceptor(t, Config{}).Accept(token)
	if err != nil {
		t.Fatal(err)
	}
	if got, _, err := second.Unwrap(recorded); !errors.Is(err, cfx.ErrToken) {
		t.Errorf("%x (%v)", got, err)
	}
}

func TestReplaysAreBounded(t *testing.T) {
	var r replays
	at := time.Now()
	take := func(peer string, n uint64) error {
		var d digest
		binary.BigEndian.PutUint64(d[:], n)
		return r.take(d, peer, at)
	}
	for n := range uint64(maxReplays) {
		if err := take(strconv.Itoa(int(n/maxPeerReplays)), n); err != nil {
			t.Fatal(err)
		}
	}
	if err := take("another", maxReplays); !errors.Is(err, ErrBusy) {
		t.Errorf("one too many: %v", err)
	}
	if err := take("another", 5); !errors.Is(err, ErrReplay) {
		t.Errorf("a known one: %v", err)
	}
	at = at.Add(memory)
	if err := take("0", maxReplays); err != nil {
		t.Errorf("later: %v", err)
	}
	if err := take("0", 5); !errors.Is(err, ErrReplay) {
		t.Errorf("a known one, later: %v", err)
	}
	at = at.Add(2 * memory)
	if err := take("0", 5); err != nil || len(r.now) != 1 || r.old != nil {
		t.Errorf("much later: %v with %d and %d known", err, len(r.now), len(r.old))
	}
}

func TestOnePrincipalLeavesRoomToOthers(t *testing.T) {
	var r replays
	at, n := time.Now(), uint64(0)
	take := func(peer string) error {
		var d digest
		n++
		binary.BigEndian.PutUint64(d[:], n)
		return r.take(d, peer, at)
	}
	for range maxPeerReplays {
		if err := take("alice@ADIT.TEST"); err != nil {
			t.Fatal(err)
		}
	}
	if err := take("alice@ADIT.TEST"); !errors.Is(err, ErrBusy) {
		t.Errorf("one too many of alice's: %v", err)
	}
	if err := take("alice@OTHER.TEST"); err != nil {
		t.Errorf("another alice's: %v", err)
	}
	at = at.Add(memory)
	if err := take("alice@ADIT.TEST"); err != nil {
		t.Errorf("alice's, later: %v", err)
	}
}

func TestTokensMustBeWhole(t *testing.T) {
	token := newIssuer(t).token(t)
	a := newAcceptor(t, Config{})
	for n := range token {
		if _, _, err := a.Accept(bytes.Clone(token[:n])); !errors.Is(err, ErrToken) {
			t.Errorf("the first %d bytes: %v", n, err)
		}
	}
	if _, _, err := a.Accept(append(bytes.Clone(token), 0)); !errors.Is(err, ErrToken) {
		t.Errorf("a byte more: %v", err)
	}
}

// Not every bit of a token says something, but none makes it another one.
func TestNoBitMakesATokenGoodAgain(t *testing.T) {
	a := newAcceptor(t, Config{})
	token := newIssuer(t).token(t)
	if _, _, err := a.Accept(bytes.Clone(token)); err != nil {
		t.Fatal(err)
	}
	for bit := range 8 * len(token) {
		b := bytes.Clone(token)
		b[bit/8] ^= 1 << (bit % 8)
		if _, _, err := a.Accept(b); err == nil {
			t.Errorf("bit %d of %d changed: accepted", bit, 8*len(token))
		}
	}
}

func TestErrorsShowNoMoreOfATokenThanALine(t *testing.T) {
	i := newIssuer(t)
	i.service = "rcmd/" + strings.Repeat("x\n", 20_000)
	_, _, err := newAcceptor(t, Config{}).Accept(i.token(t))
	if !errors.Is(err, ErrService) || len(err.Error()) > 300 || strings.Contains(err.Error(), "\n") {
		t.Errorf("%d bytes: %.400v", len(err.Error()), err)
	}
}

func TestReplyIsThatOfTheVector(t *testing.T) {
	want, err := hex.DecodeString("606806092a864886f71201020202006f593057a003020105a10302010fa24b3049a003020112a242044067da39572c32295cd4acc37d0266a013d29731744de893a050362d2297d635dca3a6cd1487f335d81e3ef13074e69448acf73f2f54cbe3e760e7f8c4661287ac")
	if err != nil {
		t.Fatal(err)
	}
	value := make([]byte, 32)
	for i := range value {
		value[i] = byte(i)
	}
	key, err := cfx.NewKey(cfx.AES256SHA1, value)
	if err != nil {
		t.Fatal(err)
	}
	ciphertext := want[len(want)-64:]
	part, err := replyPart{time: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), micros: 123456, sequence: 0x2000}.encode()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := key.Decrypt(usageReply, bytes.Clone(ciphertext)); err != nil || !bytes.Equal(got, part) {
		t.Errorf("part is %x, want %x (%v)", part, got, err)
	}
	if got, err := encodeReply(kerberos, cfx.AES256SHA1, ciphertext); err != nil || !bytes.Equal(got, want) {
		t.Errorf("reply is %x (%v), want %x", got, err, want)
	}
}

func TestRepliesCountFromWhereNobodyIsConfused(t *testing.T) {
	var seen []uint32
	for range 100 {
		n := firstSequence()
		if n == 0 || n >= 1<<30 || slices.Contains(seen, n) {
			t.Errorf("starts at %d", n)
		}
		seen = append(seen, n)
	}
}

func TestKeytabsThatAreOfNoUseAreRefused(t *testing.T) {
	good := keytabOf(3, "of the service", service)
	for name, c := range map[string]Config{
		"no keytab":        {},
		"another file":     {Keytab: []byte("[libdefaults]")},
		"no keys":          {Keytab: []byte{5, 2, 0, 0, 0, 0}},
		"cut short":        {Keytab: good[:20]},
		"another service":  {Keytab: good, Services: []string{"imap"}},
		"a service's host": {Keytab: good, Services: []string{service}},
	} {
		_, err := NewAcceptor(c)
		if err == nil {
			t.Errorf("%s: accepted", name)
		} else if strings.Contains(err.Error(), "libdefaults") || len(err.Error()) > 100 {
			t.Errorf("%s: says too much: %v", name, err)
		}
	}
}

func FuzzAccept(f *testing.F) {
	i := newIssuer(f)
	f.Add(i.token(f))
	i.flags = 0
	i.mechanism = kerberosWindows
	f.Add(i.token(f))
	a := newAcceptor(f, Config{})
	f.Fuzz(func(t *testing.T, token []byte) {
		c, _, err := a.Accept(token)
		if (c == nil) == (err == nil) {
			t.Fatalf("context %v and error %v", c, err)
		}
	})
}

// What is encrypted comes from somebody who has a key. It may be anything
// nevertheless.
func FuzzEncryptedParts(f *testing.F) {
	i := newIssuer(f)
	ticket, err := asn1.Marshal(i.ticket)
	if err != nil {
		f.Fatal(err)
	}
	ticket = asn1tools.AddASNAppTag(ticket, 3)
	auth, err := i.auth.Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(ticket, auth)
	f.Add(asn1tools.AddASNAppTag([]byte{0x30, 0}, 3), asn1tools.AddASNAppTag([]byte{0x30, 0}, 2))
	a := newAcceptor(f, Config{})
	f.Fuzz(func(t *testing.T, ticket, auth []byte) {
		c, _, err := a.Accept(i.assemble(t, ticket, auth))
		if (c == nil) == (err == nil) {
			t.Fatalf("context %v and error %v", c, err)
		}
	})
}

func FuzzKeytab(f *testing.F) {
	f.Add(keytabOf(3, "of the service", service))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := NewAcceptor(Config{Keytab: b})
		if err == nil && (len(a.keys) == 0 || len(a.realms) == 0) {
			t.Fatal("an acceptor has no key")
		}
	})
}
