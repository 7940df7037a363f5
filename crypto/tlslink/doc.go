// Package tlslink carries sessions over TLS, and looks like a web site to
// everybody else: the client's ClientHello is a browser's, and the server's
// port is that of an ordinary HTTPS server with a site behind it.
//
// # How a carrier opens
//
// Both sides do a TLS 1.3 handshake. The client offers the ALPN protocols h2
// and http/1.1, as browsers do, and requires h2. It knows the server by a pin
// or by a public CA. Then it writes one flight, which is HTTP/2 (RFC 9113):
//
//	connection preface           24 octets                 section 3.4
//	SETTINGS                     values of Chrome          section 6.5
//	frame of type 0xad           stream 0, no flags; the payload is the opening, 256 octets
//	PING                         8 random octets           section 6.7
//
// Receivers of HTTP/2 ignore frames of types that they do not know (section
// 5.5), and type 0xad is unregistered. What an opening says is no matter of
// this package; see the package tunnel. It is bound to the server's key and to
// this TLS connection's exporter value (RFC 8446 section 7.5, label
// [ExporterLabel], no context, 32 octets), so that it is worth nothing on any other.
//
// The server gives everything it reads to a real HTTP/2 server. It asks an
// [Admit] function for its judgement when it has seen, on a TLS 1.3 connection
// that is not resumed, nothing but the preface, one SETTINGS frame of at most
// 256 octets, and a frame as above.
//
// If the opening is not genuine, nothing has happened: the HTTP/2 server gets
// to see the frame, ignores it, and acknowledges SETTINGS and PING, as any
// site does. So a client whose opening was refused in this silent way knows at
// once: the PING's acknowledgement comes without an answer before it.
//
// If the opening is genuine, the HTTP/2 server sees the end of its connection
// and writes nothing more. The server reads the PING and writes
//
//	frame of type 0xad           stream 0, no flags; the payload is the answer, 64 octets
//
// behind whatever HTTP/2 frames it has sent before. The client skips those, at
// most 64 frames and 64 KiB of them. After the answer both sides speak raw bytes
// until the TLS connection ends, with a close_notify alert if it is not cut.
//
// # Who can tell
//
// Only who holds an enrolled device's key or an unused invite can tell the
// server from a web site: the same TLS stack, the same HTTP server and the same
// time-outs serve everybody until an opening has been judged genuine. The site
// speaks TLS 1.2 as well, since a site that does not would stand out. Carriers
// do not.
package tlslink

// ExporterLabel is the TLS exporter label (RFC 8446 section 7.5) of the value
// that an opening is bound to.
const ExporterLabel = "EXPORTER-adit-attach"

// Sizes of what opens a carrier, in bytes.
const (
	OpeningSize = 256
	AnswerSize  = 128
)

// Protection says what keeps a carrier's bytes secret, in words for people and
// for the record.
type Protection struct {
	Version     string // "TLS 1.3"
	Cipher      string // "TLS_AES_128_GCM_SHA256"
	KeyExchange string // "X25519MLKEM768"
	Fingerprint string // whose ClientHello the client imitates; empty on the server
}
