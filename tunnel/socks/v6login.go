package socks

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// MethodLogin6 is what a request inside the tunnel refers by to an earlier login, when
// that was as another user than the device's: a private method (RFC 1928 section 3),
// whose data is what the login's answer had for it.
const MethodLogin6 Method = 0x80

// LoginID6 is how long a reference to a login is, in bytes.
const LoginID6 = 16

var errLogin6Data = errors.New("login data is malformed")

// PasswordLogin6 gives the data of [MethodPassword] in a request.
func PasswordLogin6(user, password string) (AuthData6, error) {
	if user == "" || len(user) > math.MaxUint8 || password == "" || len(password) > math.MaxUint8 {
		return AuthData6{}, errLogin6Data
	}
	b := append([]byte{login5, byte(len(user))}, user...)
	return AuthData6{byte(MethodPassword), append(append(b, byte(len(password))), password...)}, nil
}

// ParsePasswordLogin6 reads it.
func ParsePasswordLogin6(data []byte) (user, password string, err error) {
	in := bufio.NewReader(bytes.NewReader(data))
	user, password, err = readLogin5(in)
	if rest := readAhead(in); err != nil || !padding6(rest) || user == "" || password == "" {
		return "", "", errLogin6Data
	}
	return user, password, nil
}

// padding6 tells whether bytes are what may be behind the data of an option.
func padding6(b []byte) bool { return len(b) <= 3 && len(bytes.Trim(b, "\x00")) == 0 }

// TokenLogin6 gives the data of [MethodGSSAPI] in a request: a message of RFC 1961. All
// options have 20 KiB together, which bounds the token.
func TokenLogin6(token []byte) (AuthData6, error) {
	b, err := appendGSS(nil, gssToken, token)
	if err != nil {
		return AuthData6{}, err
	}
	return AuthData6{byte(MethodGSSAPI), b}, nil
}

// ParseTokenLogin6 reads it. The token aliases the data.
func ParseTokenLogin6(data []byte) (token []byte, err error) {
	if len(data) < gssHead || gssError(gssToken, data[0], data[1]) != nil {
		return nil, errLogin6Data
	}
	token, rest, ok := cut6(data[2:], 2)
	if !ok || !padding6(rest) {
		return nil, errLogin6Data
	}
	return token, nil
}

// TokenGrant6 is what the server answers to a token: all that a [GSSGrant] has, with the
// context as its own package exports it.
type TokenGrant6 struct {
	User       string
	Protection GSSProtection
	NEC        bool
	Reply      []byte // for the app; may be empty
	Context    []byte // a secret
}

// String leaves the context out.
func (g TokenGrant6) String() string { return fmt.Sprintf("grant for %s, %s", g.User, g.Protection) }

// Data gives the data of [MethodGSSAPI] in an authentication reply:
//
//	protection  1 octet    0 require-conf, 1 require-integ, 2 prefer-client, 3 none
//	bits        1 octet    1: NEC
//	user        1 octet of length, then as many
//	reply       2 octets of length, then as many
//	context     2 octets of length, then as many
func (g TokenGrant6) Data() (AuthData6, error) {
	if g.User == "" || len(g.User) > math.MaxUint8 || len(g.Reply) > math.MaxUint16 || len(g.Context) > math.MaxUint16 || g.Protection > GSSUnprotected {
		return AuthData6{}, errLogin6Data
	}
	b := []byte{byte(g.Protection), 0, byte(len(g.User))}
	if g.NEC {
		b[1] = 1
	}
	b = append(b, g.User...)
	b = append(binary.BigEndian.AppendUint16(b, uint16(len(g.Reply))), g.Reply...)
	b = append(binary.BigEndian.AppendUint16(b, uint16(len(g.Context))), g.Context...)
	return AuthData6{byte(MethodGSSAPI), b}, nil
}

// ParseTokenGrant6 reads it. The grant aliases the data.
func ParseTokenGrant6(data []byte) (TokenGrant6, error) {
	if len(data) < 2 || GSSProtection(data[0]) > GSSUnprotected || data[1] > 1 {
		return TokenGrant6{}, errLogin6Data
	}
	g := TokenGrant6{Protection: GSSProtection(data[0]), NEC: data[1] == 1}
	user, rest, ok1 := cut6(data[2:], 1)
	reply, rest, ok2 := cut6(rest, 2)
	context, rest, ok3 := cut6(rest, 2)
	if !ok1 || !ok2 || !ok3 || len(user) == 0 || !padding6(rest) {
		return TokenGrant6{}, errLogin6Data
	}
	g.User, g.Reply, g.Context = string(user), reply, context
	return g, nil
}

// cut6 takes a length of 1 or 2 octets and as many bytes.
func cut6(b []byte, octets int) (part, rest []byte, ok bool) {
	if len(b) < octets {
		return nil, nil, false
	}
	n := int(b[0])
	if octets == 2 {
		n = int(binary.BigEndian.Uint16(b))
	}
	b = b[octets:]
	if len(b) < n {
		return nil, nil, false
	}
	return b[:n:n], b[n:], true
}

// AuthOf gives the data of a method among options, or nil.
func (o *Options6) AuthOf(m Method) []byte {
	for _, a := range o.Auth {
		if Method(a.Method) == m {
			return a.Data
		}
	}
	return nil
}
