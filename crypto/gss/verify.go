package gss

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/types"

	"github.com/adit-net/adit/crypto/gss/cfx"
)

// Key usages of RFC 4120 section 7.5.1.
const (
	usageTicket        = 2
	usageAuthenticator = 11
	usageReply         = 12
)

// Bits of RFC 4120 sections 5.3 and 5.5.1.
const (
	ticketInvalid   = 7  // postdated, and not validated yet
	ticketTransited = 12 // the KDC has checked the realms in between
	useSessionKey   = 1  // user-to-user
)

// request is what a verified AP-REQ says.
type request struct {
	peer     cfx.Peer
	session  cfx.Key // the ticket's
	key      cfx.Key // the one that the app proposes, or else the ticket's
	sequence uint64  // of the app's first message
	time     time.Time
	micros   int
}

// verify reads an AP-REQ and lets it pass once.
func (a *Acceptor) verify(message []byte, now time.Time) (request, error) {
	var r messages.APReq
	if err := r.Unmarshal(message); err != nil {
		return request{}, fmt.Errorf("read AP-REQ: %w", ErrToken) // the cause repeats what it has read
	}
	if r.APOptions.At(useSessionKey) != 0 {
		return request{}, fmt.Errorf("%w: it is a user-to-user one", ErrTicket)
	}
	ticket, err := a.openTicket(r.Ticket)
	if err != nil {
		return request{}, err
	}
	if err := a.checkTicket(ticket, r.Ticket.Realm, now); err != nil {
		return request{}, err
	}
	session, err := cfx.NewKey(cfx.EncType(ticket.Key.KeyType), ticket.Key.KeyValue)
	if err != nil {
		return request{}, fmt.Errorf("session key: %w", err)
	}
	sum := sha256.Sum256(r.EncryptedAuthenticator.Cipher)
	auth, err := openAuthenticator(r.EncryptedAuthenticator, session)
	if err != nil {
		return request{}, err
	}
	if err := checkAuthenticator(auth, ticket, now); err != nil {
		return request{}, err
	}
	accepted, err := describe(auth, ticket, session)
	if err != nil {
		return request{}, err
	}
	return accepted, a.replays.take(digest(sum[:]), accepted.peer.Name(), now)
}

// openTicket decrypts a ticket with the one key that fits.
func (a *Acceptor) openTicket(t messages.Ticket) (part messages.EncTicketPart, err error) {
	keys, err := a.keys.find(t)
	if err != nil {
		return part, err
	}
	for _, key := range keys {
		b, err := key.Decrypt(usageTicket, slices.Clone(t.EncPart.Cipher))
		if err != nil {
			continue
		}
		if err := part.Unmarshal(b); err != nil {
			return part, fmt.Errorf("read ticket: %w", ErrTicket)
		}
		return part, nil
	}
	return part, fmt.Errorf("%w: no key in the keytab fits", ErrTicket)
}

// checkTicket says whether a ticket's user may come, and now. Its realm is that
// of the service.
func (a *Acceptor) checkTicket(t messages.EncTicketPart, realm string, now time.Time) error {
	start := t.StartTime
	if start.IsZero() {
		start = t.AuthTime
	}
	switch {
	case t.Flags.At(ticketInvalid) != 0:
		return fmt.Errorf("%w: it is postdated", ErrTicket)
	case start.After(now.Add(Skew)):
		return fmt.Errorf("%w: the ticket is for %s on", ErrSkew, start.UTC().Format(time.RFC3339))
	case now.Add(-Skew).After(t.EndTime):
		return fmt.Errorf("%w: it was good until %s", ErrExpired, t.EndTime.UTC().Format(time.RFC3339))
	case !slices.Contains(a.realms, t.CRealm):
		return fmt.Errorf("%w: the user is of %.64q", ErrRealm, t.CRealm)
	case t.CRealm != realm && len(t.Transited.Contents) > 0 && t.Flags.At(ticketTransited) == 0:
		return fmt.Errorf("%w: the user of %.64q comes through realms that no KDC has checked", ErrRealm, t.CRealm)
	}
	return nil
}

func openAuthenticator(e types.EncryptedData, session cfx.Key) (auth types.Authenticator, err error) {
	b, err := session.Decrypt(usageAuthenticator, e.Cipher)
	if err != nil {
		return auth, fmt.Errorf("%w: the authenticator does not belong to it", ErrTicket)
	}
	if err := auth.Unmarshal(b); err != nil {
		return auth, fmt.Errorf("read authenticator: %w", ErrToken)
	}
	return auth, nil
}

// checkAuthenticator says whether an authenticator is of the ticket's user, and
// new.
func checkAuthenticator(auth types.Authenticator, t messages.EncTicketPart, now time.Time) error {
	if auth.CRealm != t.CRealm || !slices.Equal(auth.CName.NameString, t.CName.NameString) {
		return fmt.Errorf("%w: the authenticator is another user's", ErrTicket)
	}
	if auth.Cusec < 0 || auth.Cusec > 999_999 {
		return fmt.Errorf("read authenticator: %w", ErrToken)
	}
	made := auth.CTime.Add(time.Duration(auth.Cusec) * time.Microsecond)
	if now.Sub(made).Abs() > Skew {
		return fmt.Errorf("%w: the app's says %s", ErrSkew, made.UTC().Format(time.RFC3339))
	}
	return nil
}

// describe gives what there is to know of a user who may come in.
func describe(auth types.Authenticator, t messages.EncTicketPart, session cfx.Key) (request, error) {
	flags, err := readFlags(auth.Cksum)
	if err != nil {
		return request{}, err
	}
	name, err := principal(t.CName.NameString, t.CRealm)
	if err != nil {
		return request{}, err
	}
	r := request{
		peer:    cfx.Peer{Principal: name, Realm: t.CRealm, Expires: t.EndTime.UTC(), Flags: flags},
		session: session, key: session,
		sequence: uint64(uint32(auth.SeqNumber)), // some take it for a signed number
		time:     auth.CTime, micros: auth.Cusec,
	}
	if proposed := auth.SubKey; len(proposed.KeyValue) > 0 {
		if r.key, err = cfx.NewKey(cfx.EncType(proposed.KeyType), proposed.KeyValue); err != nil {
			return request{}, fmt.Errorf("the app's key: %w", err)
		}
	}
	return r, nil
}

// readFlags takes the flags out of what an initiator sends in place of a
// checksum (RFC 4121 section 4.1.1). Behind them may be credentials.
func readFlags(sum types.Checksum) (cfx.Flags, error) {
	const ofGSS, bindings, size = 0x8003, 16, 24
	b := sum.Checksum
	if sum.CksumType != ofGSS || len(b) < size || binary.LittleEndian.Uint32(b) != bindings {
		return 0, fmt.Errorf("%w: the authenticator is not one of GSS-API", ErrToken)
	}
	return cfx.Flags(binary.LittleEndian.Uint32(b[20:])), nil
}

// principal joins the parts of a name. What could be mistaken for another name,
// in a table of users or in a log, is refused.
func principal(parts []string, realm string) (string, error) {
	name := strings.Join(parts, "/")
	whole := name + "@" + realm
	switch {
	case slices.Contains(parts, "") || len(parts) == 0 || realm == "",
		strings.Count(name, "/") != len(parts)-1, strings.Count(whole, "@") != 1,
		strings.ContainsFunc(whole, func(r rune) bool { return r == '\\' || !unicode.IsPrint(r) }),
		!utf8.ValidString(whole), len(name) > 255, len(realm) > 255:
		return "", fmt.Errorf("%w: the user's name is strange", ErrTicket)
	}
	return name, nil
}
