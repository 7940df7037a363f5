package door

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"testing"
	"time"
)

// ca issues certificates.
type ca struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newCA(t testing.TB) ca {
	t.Helper()
	c := ca{key: newKey(t)}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, c.key.Public(), c.key)
	if err == nil {
		c.cert, err = x509.ParseCertificate(der)
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (c ca) issue(t testing.TB, template x509.Certificate) tls.Certificate {
	t.Helper()
	key := newKey(t)
	template.SerialNumber, template.NotAfter = big.NewInt(2), time.Now().Add(time.Hour)
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	der, err := x509.CreateCertificate(rand.Reader, &template, c.cert, key.Public(), c.key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func (c ca) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(c.cert)
	return p
}

func named(cn string) x509.Certificate {
	return x509.Certificate{Subject: pkix.Name{CommonName: cn}}
}

// alternativeNames encodes a user principal name behind an address.
func alternativeNames(t testing.TB, upn string) []byte {
	t.Helper()
	type otherName struct {
		ID    asn1.ObjectIdentifier
		Value string `asn1:"tag:0,explicit,utf8"`
	}
	inner, err := asn1.Marshal(otherName{idUPN, upn})
	if err != nil {
		t.Fatal(err)
	}
	inner[0] = 0xa0
	der, err := asn1.Marshal([]asn1.RawValue{{Class: 2, Tag: 1, Bytes: []byte("anna@example.org")}, {FullBytes: inner}})
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestCertificatesStandForUsers(t *testing.T) {
	c := newCA(t)
	template := named("anna")
	template.ExtraExtensions = []pkix.Extension{{Id: idAlternativeNames, Value: alternativeNames(t, "anna@CORP.EXAMPLE")}}
	full, bare := c.issue(t, template).Leaf, c.issue(t, named("no name of a user")).Leaf
	for _, test := range []struct {
		names Names
		cert  *x509.Certificate
		want  string
	}{
		{Names{}, full, "anna"},
		{Names{Field: Email}, full, "anna@example.org"},
		{Names{Field: UPN}, full, "anna@CORP.EXAMPLE"},
		{Names{Field: UPN, Users: map[string]string{"anna@CORP.EXAMPLE": "anna"}}, full, "anna"},
		{Names{Users: map[string]string{"no name of a user": "bert"}}, bare, "bert"},
		{Names{}, bare, ""},
		{Names{Field: Email, Users: map[string]string{"": "bert"}}, bare, ""},
		{Names{Field: UPN}, bare, ""},
	} {
		if got := test.names.User(test.cert); got != test.want {
			t.Errorf("%+v of %q: %q, want %q", test.names, test.cert.Subject.CommonName, got, test.want)
		}
	}
}

func FuzzParseUPN(f *testing.F) {
	f.Add(alternativeNames(f, "anna@CORP.EXAMPLE"))
	f.Add([]byte{0x30, 0})
	f.Fuzz(func(t *testing.T, der []byte) {
		if name := parseUPN(der); len(name) > 3*len(der) {
			t.Errorf("%d bytes have come of %d", len(name), len(der))
		}
	})
}
