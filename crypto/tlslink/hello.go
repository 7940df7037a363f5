package tlslink

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"

	utls "github.com/refraction-networking/utls"
)

// alpn is what both sides offer. The server prefers the first.
var alpn = [...]string{"h2", "http/1.1"}

// tlsClient is a TLS stack: crypto/tls or the fork that imitates browsers.
type tlsClient interface {
	net.Conn
	HandshakeContext(ctx context.Context) error
	facts() facts // after the handshake
}

// facts is what a handshake led to.
type facts struct {
	Protection
	tls13    bool
	protocol string
	peer     *x509.Certificate
	export   func(label string, context []byte, length int) ([]byte, error)
}

// client makes the TLS client that has the wanted fingerprint.
func (d *Dialer) client(w *wire, name string) (tlsClient, error) {
	switch d.Fingerprint {
	case "", "chrome":
		return d.imitate(w, name, "chrome", utls.HelloChrome_Auto)
	case "firefox":
		return d.imitate(w, name, "firefox", utls.HelloFirefox_Auto)
	case "safari":
		return d.imitate(w, name, "safari", utls.HelloSafari_Auto)
	case "random":
		id, err := randomHello()
		if err != nil {
			return nil, fmt.Errorf("make a random fingerprint: %w", err)
		}
		return d.imitate(w, name, "random", id)
	case "go":
		return d.plain(w, name), nil
	}
	return nil, fmt.Errorf("unknown fingerprint %q: want chrome, firefox, safari, random or go", d.Fingerprint)
}

// plain is crypto/tls.
func (d *Dialer) plain(w *wire, name string) tlsClient {
	c := &tls.Config{
		ServerName:                  name,
		RootCAs:                     d.RootCAs,
		MinVersion:                  tls.VersionTLS13,
		NextProtos:                  alpn[:],
		DynamicRecordSizingDisabled: true, // a burst is full records from the start
	}
	if !d.UseCA {
		c.InsecureSkipVerify = true // verifyPin does it
		c.VerifyPeerCertificate = d.verifyPin
	}
	return plainClient{tls.Client(w, c)}
}

type plainClient struct{ *tls.Conn }

func (c plainClient) facts() facts {
	s := c.ConnectionState()
	return facts{
		Protection: Protection{
			Version:     tls.VersionName(s.Version),
			Cipher:      tls.CipherSuiteName(s.CipherSuite),
			KeyExchange: s.CurveID.String(),
			Fingerprint: "go",
		},
		tls13:    s.Version == tls.VersionTLS13,
		protocol: s.NegotiatedProtocol,
		peer:     s.PeerCertificates[0],
		export:   s.ExportKeyingMaterial,
	}
}

// imitate is the fork of crypto/tls with the ClientHello of a browser.
func (d *Dialer) imitate(w *wire, name, fingerprint string, id utls.ClientHelloID) (tlsClient, error) {
	spec, err := helloSpec(id)
	if err != nil {
		return nil, fmt.Errorf("imitate %s: %w", fingerprint, err)
	}
	c := &utls.Config{
		ServerName:                  name,
		RootCAs:                     d.RootCAs,
		DynamicRecordSizingDisabled: true, // a burst is full records from the start
	}
	if !d.UseCA {
		c.InsecureSkipVerify = true // verifyPin does it
		c.VerifyPeerCertificate = d.verifyPin
	}
	conn := utls.UClient(w, c, utls.HelloCustom)
	if err := conn.ApplyPreset(&spec); err != nil {
		return nil, fmt.Errorf("imitate %s: %w", fingerprint, err)
	}
	return imitation{conn, fingerprint}, nil
}

// helloSpec gives the ClientHello to send for id. It is the preset's but for
// one thing that does not show on the wire: a client that is ready to
// renegotiate gets no exporter value.
func helloSpec(id utls.ClientHelloID) (utls.ClientHelloSpec, error) {
	spec, err := utls.UTLSIdToSpec(id)
	if err != nil {
		return utls.ClientHelloSpec{}, err
	}
	for _, e := range spec.Extensions {
		if r, ok := e.(*utls.RenegotiationInfoExtension); ok {
			r.Renegotiation = utls.RenegotiateNever
		}
	}
	return spec, nil
}

// randomHello gives a new ClientHello every time, one that always offers h2, TLS 1.3
// and X25519MLKEM768.
func randomHello() (utls.ClientHelloID, error) {
	seed, err := utls.NewPRNGSeed()
	if err != nil {
		return utls.ClientHelloID{}, err
	}
	weights := utls.DefaultWeights
	weights.TLSVersMax_Set_VersionTLS13 = 1
	weights.CurveIDs_Append_X25519 = 1
	weights.KeyShare_Append_RandomGroups = 1
	weights.FirstKeyShare_Set_CurveP256 = 0
	id := utls.HelloRandomizedALPN
	id.Seed, id.Weights = seed, &weights
	return id, nil
}

type imitation struct {
	*utls.UConn
	fingerprint string
}

func (c imitation) facts() facts {
	s := c.ConnectionState()
	var exchange string
	if hello := c.HandshakeState.ServerHello; hello != nil {
		exchange = tls.CurveID(hello.ServerShare.Group).String()
	}
	return facts{
		Protection: Protection{
			Version:     tls.VersionName(s.Version),
			Cipher:      tls.CipherSuiteName(s.CipherSuite),
			KeyExchange: exchange,
			Fingerprint: c.fingerprint,
		},
		tls13:    s.Version == tls.VersionTLS13,
		protocol: s.NegotiatedProtocol,
		peer:     s.PeerCertificates[0],
		export:   s.ExportKeyingMaterial,
	}
}
