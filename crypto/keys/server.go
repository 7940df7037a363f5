package keys

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"
)

// Server is a server's TLS key: ECDSA over P-256, which every TLS client can
// verify. Devices pin it, so it outlives all certificates made from it. A
// Server is safe for concurrent use.
type Server struct {
	key *ecdsa.PrivateKey
	pin Pin
}

// NewServer makes a server's key.
func NewServer() (*Server, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make server key: %w", err)
	}
	return newServer(key)
}

func newServer(key *ecdsa.PrivateKey) (*Server, error) {
	info, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("encode server key: %w", err)
	}
	return &Server{key: key, pin: sha256.Sum256(info)}, nil
}

// LoadServer reads a server's key file. It refuses a file that somebody else
// could have read or written.
func LoadServer(path string) (*Server, error) {
	blocks, err := readKeys(path, 1)
	if err != nil {
		return nil, fmt.Errorf("load server key: %w", err)
	}
	key, ok := blocks[0].(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, fmt.Errorf("load server key: %s holds a key of another kind; restore it from a backup, as devices pin it", path)
	}
	return newServer(key)
}

// Save writes the server's key file with mode 0600, whole or not at all, and
// makes its directory with mode 0700 if there is none. It replaces no file:
// the error is then an [io/fs.ErrExist].
func (s *Server) Save(path string) error {
	if err := writeKeys(path, s.key); err != nil {
		return fmt.Errorf("save server key: %w", err)
	}
	return nil
}

// Pin gives what devices pin: the hash of the key, which is the same in all of
// its certificates.
func (s *Server) Pin() Pin { return s.pin }

// Public gives the public half, as a point that is not compressed (SEC 1 section 2.3.3).
func (s *Server) Public() ([]byte, error) {
	b, err := s.key.PublicKey.Bytes()
	if err != nil {
		return nil, fmt.Errorf("encode server key: %w", err)
	}
	return b, nil
}

// Sign signs a message: ECDSA over its SHA-256 hash, in ASN.1. What is signed must begin with
// what no other use of the key has.
func (s *Server) Sign(message []byte) ([]byte, error) {
	digest := sha256.Sum256(message)
	signature, err := ecdsa.SignASN1(rand.Reader, s.key, digest[:])
	if err != nil {
		return nil, fmt.Errorf("sign with the server key: %w", err)
	}
	return signature, nil
}

// certificateLife is long because nothing depends on its end: devices go by
// the pin, and a server makes a new certificate whenever it starts.
const certificateLife = 10 * 365 * 24 * time.Hour

// Certificate makes a self-signed certificate for the key, valid from a day
// ago (clocks differ) for ten years, for the given host names and IP
// addresses, of which there is at least one. Its serial number is random.
func (s *Server) Certificate(names ...string) (tls.Certificate, error) {
	if len(names) == 0 {
		return tls.Certificate{}, errors.New("make certificate: no name to make it for")
	}
	now := time.Now()
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: names[0]},
		NotBefore:             now.Add(-24 * time.Hour),
		NotAfter:              now.Add(certificateLife),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &s.key.PublicKey, s.key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make certificate for %q: %w", names, err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make certificate for %q: %w", names, err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: s.key, Leaf: leaf}, nil
}

// Format prints the server's pin, whatever the verb: the key is secret.
func (s Server) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "server "+s.pin.String()) }

// LogValue is the server's pin.
func (s Server) LogValue() slog.Value { return slog.StringValue(s.pin.String()) }
