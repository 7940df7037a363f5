package door

import (
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	cryptobyte_asn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/adit-net/adit/server/users"
)

// Field is what of a certificate says whose it is.
type Field byte

// The fields.
const (
	CommonName Field = iota // of the subject
	Email                   // the first address among the alternative names
	UPN                     // the user principal name, as Active Directory has it there
)

var fields = [...]string{"cn", "email", "upn"}

func (f Field) String() string {
	if int(f) < len(fields) {
		return fields[f]
	}
	return fmt.Sprintf("field %d", byte(f))
}

// UnmarshalText reads cn, email or upn.
func (f *Field) UnmarshalText(text []byte) error {
	for i, word := range fields {
		if word == string(text) {
			*f = Field(i)
			return nil
		}
	}
	return fmt.Errorf("field %q of a certificate is none of %q", text, fields)
}

// Names says which users certificates stand for.
type Names struct {
	Field Field

	// Users gives the users of names. A name that is not among them stands for the user
	// who is called so, if there is one.
	Users map[string]string
}

// User gives the user whom a certificate stands for, whether there is one or not, or "".
// Somebody must have verified the certificate.
func (n Names) User(c *x509.Certificate) string {
	name := ""
	switch n.Field {
	case CommonName:
		name = c.Subject.CommonName
	case Email:
		if len(c.EmailAddresses) > 0 {
			name = c.EmailAddresses[0]
		}
	case UPN:
		name = upn(c)
	}
	if user := n.Users[name]; name != "" && user != "" {
		return user
	}
	if users.ValidName(name) != nil {
		return ""
	}
	return name
}

var (
	idAlternativeNames = asn1.ObjectIdentifier{2, 5, 29, 17}
	idUPN              = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 20, 2, 3}
)

func upn(c *x509.Certificate) string {
	for _, e := range c.Extensions {
		if e.Id.Equal(idAlternativeNames) {
			return parseUPN(e.Value)
		}
	}
	return ""
}

// parseUPN reads the first user principal name among alternative names (RFC 5280
// section 4.2.1.6), or "".
func parseUPN(der []byte) string {
	input := cryptobyte.String(der)
	var names cryptobyte.String
	if !input.ReadASN1(&names, cryptobyte_asn1.SEQUENCE) || !input.Empty() {
		return ""
	}
	otherName := cryptobyte_asn1.Tag(0).ContextSpecific().Constructed()
	for !names.Empty() {
		var name cryptobyte.String
		var tag cryptobyte_asn1.Tag
		if !names.ReadAnyASN1(&name, &tag) {
			return ""
		}
		var id asn1.ObjectIdentifier
		if tag != otherName || !name.ReadASN1ObjectIdentifier(&id) || !id.Equal(idUPN) {
			continue
		}
		// The value stands in a tag of its own, whose number is 0, too.
		var value, text cryptobyte.String
		if !name.ReadASN1(&value, otherName) || !value.ReadASN1(&text, cryptobyte_asn1.UTF8String) {
			return ""
		}
		return strings.ToValidUTF8(string(text), "\uFFFD")
	}
	return ""
}
