package tlslink

import (
	"cmp"
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/net/http2"
)

//lint:file-ignore SA1019 net/http takes HTTP/2 over TLS from a *tls.Conn alone; only this one takes a net.Conn above TLS.

const (
	// siteIdle is when the web site ends a connection on which nothing happens.
	siteIdle = time.Minute

	// maxHeaderBytes bounds a request's header, maxStreams the requests at a
	// time on one HTTP/2 connection, uploadBuffer what is buffered of their bodies.
	maxHeaderBytes = 16 << 10
	maxStreams     = 32
	uploadBuffer   = 64 << 10
)

// newHTTP sets up the web site, and gives what serves HTTP/2 to a connection.
// Nothing in here knows of carriers: this is what a stranger meets.
func (s *Server) newHTTP(site http.Handler, log *slog.Logger) (*http.Server, func(context.Context, net.Conn, http.Handler)) {
	h1 := &http.Server{
		Handler:           site,
		ReadHeaderTimeout: cmp.Or(max(s.HandshakeTimeout, 0), defaultTimeout), // bounds the TLS handshake too
		IdleTimeout:       siteIdle,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          newErrorLog(log),
		TLSConfig: &tls.Config{
			GetCertificate: s.showCertificate,
			NextProtos:     alpn[:],
			// A web site that refuses 1.2 would stand out. Carriers insist on 1.3 elsewhere.
			MinVersion: tls.VersionTLS12,
			// A burst is full records from the start.
			DynamicRecordSizingDisabled: true,
		},
	}
	h2 := &http2.Server{
		IdleTimeout:                  siteIdle,
		MaxConcurrentStreams:         maxStreams,
		MaxReadFrameSize:             16 << 10, // what RFC 9113 section 4.2 begins with
		MaxUploadBufferPerConnection: uploadBuffer,
		MaxUploadBufferPerStream:     uploadBuffer,
	}
	// It fails only for a list of cipher suites, which is not set.
	_ = http2.ConfigureServer(h1, h2)
	return h1, func(ctx context.Context, c net.Conn, site http.Handler) {
		h2.ServeConn(c, &http2.ServeConnOpts{Context: ctx, Handler: site, BaseConfig: h1})
	}
}
