package gss

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"strings"
	"testing"
	"time"

	"github.com/jcmturner/gofork/encoding/asn1"
	"github.com/jcmturner/gokrb5/v8/asn1tools"
	"github.com/jcmturner/gokrb5/v8/crypto"
	"github.com/jcmturner/gokrb5/v8/iana/nametype"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/types"

	"github.com/adit-net/adit/crypto/gss/cfx"
)

const (
	realm   = "EXAMPLE.ORG"
	service = "rcmd/proxy.example.org"
)

// issuer makes tickets as a KDC does. Tests change what it puts in.
type issuer struct {
	service, realm string
	kind           int32
	version        int
	password       string // of the service
	ticket         messages.EncTicketPart
	auth           types.Authenticator
	flags          cfx.Flags
	options        asn1.BitString
	mechanism      mechanism
}

// newIssuer makes a ticket for alice that is good for an hour, with everything
// that apps ask for.
func newIssuer(t testing.TB) *issuer {
	t.Helper()
	now := time.Now().UTC()
	alice := types.NewPrincipalName(nametype.KRB_NT_PRINCIPAL, "alice")
	i := &issuer{
		service: service, realm: realm, kind: 18, version: 3, password: "of the service",
		flags:     cfx.Mutual | cfx.Replay | cfx.Sequence | cfx.Confidentiality | cfx.Integrity,
		options:   types.NewKrbFlags(),
		mechanism: kerberos,
	}
	i.ticket = messages.EncTicketPart{
		Flags: types.NewKrbFlags(), Key: freshKey(i.kind), CRealm: realm, CName: alice,
		AuthTime: now, StartTime: now, EndTime: now.Add(time.Hour),
	}
	var err error
	if i.auth, err = types.NewAuthenticator(realm, alice); err != nil {
		t.Fatal(err)
	}
	i.auth.SubKey = freshKey(i.kind)
	return i
}

// keySizes are in bytes. Type 23 is RC4.
var keySizes = map[int32]int{17: 16, 18: 32, 19: 16, 20: 32, 23: 16}

func freshKey(kind int32) types.EncryptionKey {
	value := make([]byte, keySizes[kind])
	rand.Read(value)
	return types.EncryptionKey{KeyType: kind, KeyValue: value}
}

// keyOf is a service's key, which stands for its password.
func keyOf(password, service string, kind int32) types.EncryptionKey {
	sum := sha256.Sum256([]byte(password + service))
	return types.EncryptionKey{KeyType: kind, KeyValue: sum[:keySizes[kind]]}
}

// keytabOf gives a keytab with a key of each type for each service.
func keytabOf(version uint8, password string, services ...string) []byte {
	b := []byte{5, 2}
	for _, s := range services {
		for _, kind := range []int32{17, 18, 19, 20, 23} {
			parts, key := strings.Split(s, "/"), keyOf(password, s, kind)
			e := binary.BigEndian.AppendUint16(nil, uint16(len(parts)))
			for _, part := range append([]string{realm}, parts...) {
				e = append(binary.BigEndian.AppendUint16(e, uint16(len(part))), part...)
			}
			e = append(e, 0, 0, 0, 1, 0x60, 0, 0, 0, version) // type of name, time stamp, version
			e = append(e, 0, byte(kind), 0, byte(len(key.KeyValue)))
			e = append(e, key.KeyValue...)
			b = append(binary.BigEndian.AppendUint32(b, uint32(len(e))), e...)
		}
	}
	return b
}

// token gives the app's token.
func (i *issuer) token(t testing.TB) []byte {
	t.Helper()
	i.auth.Cksum = types.Checksum{CksumType: 0x8003, Checksum: make([]byte, 24)}
	binary.LittleEndian.PutUint32(i.auth.Cksum.Checksum, 16)
	binary.LittleEndian.PutUint32(i.auth.Cksum.Checksum[20:], uint32(i.flags))
	return i.tokenAsIs(t)
}

// tokenAsIs leaves the authenticator's checksum alone.
func (i *issuer) tokenAsIs(t testing.TB) []byte {
	t.Helper()
	ticket, err := asn1.Marshal(i.ticket)
	if err != nil {
		t.Fatal(err)
	}
	auth, err := i.auth.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return i.assemble(t, asn1tools.AddASNAppTag(ticket, 3), auth)
}

// assemble makes a token of what is to be encrypted in it.
func (i *issuer) assemble(t testing.TB, ticket, auth []byte) []byte {
	t.Helper()
	r := messages.APReq{
		PVNO: 5, MsgType: 14, APOptions: i.options,
		Ticket: messages.Ticket{
			TktVNO: 5, Realm: i.realm, SName: types.NewPrincipalName(nametype.KRB_NT_SRV_INST, i.service),
			EncPart: encrypt(t, ticket, keyOf(i.password, i.service, i.kind), usageTicket, i.version),
		},
		EncryptedAuthenticator: encrypt(t, auth, i.ticket.Key, usageAuthenticator, 0),
	}
	b, err := r.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	token, err := frameToken(i.mechanism, b)
	if err != nil {
		t.Fatal(err)
	}
	return asRequest(token)
}

func encrypt(t testing.TB, b []byte, key types.EncryptionKey, usage uint32, version int) types.EncryptedData {
	t.Helper()
	e, err := crypto.GetEncryptedData(b, key, usage, version)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// asRequest makes an initial token of one that is framed as a reply.
func asRequest(token []byte) []byte {
	return []byte(strings.Replace(string(token), idReply+"\x6e", idRequest+"\x6e", 1))
}

// newAcceptor has the keytab that an issuer's tickets are for.
func newAcceptor(t testing.TB, c Config) *Acceptor {
	t.Helper()
	if c.Keytab == nil {
		c.Keytab = keytabOf(3, "of the service", service, "socks/proxy.example.org", "host/proxy.example.org")
	}
	a, err := NewAcceptor(c)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// initiator is the app's side of a context that has been accepted.
func (i *issuer) initiator(t testing.TB, reply []byte) *cfx.Context {
	t.Helper()
	s := cfx.State{Initiator: true, Send: uint64(i.auth.SeqNumber), Receive: uint64(i.auth.SeqNumber)}
	switch {
	case len(reply) == 0 && len(i.auth.SubKey.KeyValue) > 0:
		s.Key = theKey(t, i.auth.SubKey)
	case len(reply) == 0:
		s.Key = theKey(t, i.ticket.Key)
	default:
		part := i.readReply(t, reply)
		s.Key, s.AcceptorKey, s.Receive = theKey(t, part.Subkey), true, uint64(part.SequenceNumber)
		if !part.CTime.Equal(i.auth.CTime.Truncate(time.Second)) || part.Cusec != i.auth.Cusec {
			t.Errorf("the reply says %v and %d, the authenticator %v and %d", part.CTime, part.Cusec, i.auth.CTime, i.auth.Cusec)
		}
	}
	c, err := cfx.New(s)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// readReply reads a reply by gokrb5's means.
func (i *issuer) readReply(t testing.TB, reply []byte) (part messages.EncAPRepPart) {
	t.Helper()
	_, b, found := strings.Cut(string(reply), string(i.mechanism)+idReply)
	if !found {
		t.Fatalf("reply is %x", reply)
	}
	var r messages.APRep
	if err := r.Unmarshal([]byte(b)); err != nil {
		t.Fatal(err)
	}
	plain, err := crypto.DecryptEncPart(r.EncPart, i.ticket.Key, usageReply)
	if err != nil {
		t.Fatal(err)
	}
	if err := part.Unmarshal(plain); err != nil {
		t.Fatal(err)
	}
	return part
}

func theKey(t testing.TB, k types.EncryptionKey) cfx.Key {
	t.Helper()
	key, err := cfx.NewKey(cfx.EncType(k.KeyType), k.KeyValue)
	if err != nil {
		t.Fatal(err)
	}
	return key
}
