package tlslink

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/crypto/cryptobyte"
)

// forger writes TLS 1.3 records of its own on a connection whose handshake a
// TLS library has done (RFC 8446 section 5.2), to send what no library would.
type forger struct {
	net.Conn
	tls    *tls.Conn // on a client, for what comes back
	hash   func() hash.Hash
	size   int // of the key
	seal   func(key []byte) (cipher.AEAD, error)
	secret []byte
	seq    uint64
	floods atomic.Int64
}

// keyLog catches traffic secrets in the NSS key log format.
type keyLog struct {
	mu sync.Mutex
	bytes.Buffer
}

func (l *keyLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Buffer.Write(p)
}

func (l *keyLog) secret(t *testing.T, label string) []byte {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.String()) {
		if f := strings.Fields(line); f[0] == label {
			secret, err := hex.DecodeString(f[2])
			if err != nil {
				t.Fatal(err)
			}
			return secret
		}
	}
	t.Fatalf("no %s in the key log", label)
	return nil
}

func newForger(t *testing.T, below net.Conn, suite uint16, secret []byte) *forger {
	t.Helper()
	gcm := func(key []byte) (cipher.AEAD, error) {
		block, err := aes.NewCipher(key)
		if err != nil {
			return nil, err
		}
		return cipher.NewGCM(block)
	}
	f := &forger{Conn: below, secret: secret}
	switch suite {
	case tls.TLS_AES_128_GCM_SHA256:
		f.hash, f.size, f.seal = sha256.New, 16, gcm
	case tls.TLS_AES_256_GCM_SHA384:
		f.hash, f.size, f.seal = sha512.New384, 32, gcm
	case tls.TLS_CHACHA20_POLY1305_SHA256:
		f.hash, f.size, f.seal = sha256.New, 32, chacha20poly1305.New
	default:
		t.Fatalf("unknown cipher suite %x", suite)
	}
	return f
}

// expand is HKDF-Expand-Label with no context (RFC 8446 section 7.1).
func (f *forger) expand(label string, n int) []byte {
	var b cryptobyte.Builder
	b.AddUint16(uint16(n))
	b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte("tls13 " + label)) })
	b.AddUint8(0)
	out, err := hkdf.Expand(f.hash, f.secret, string(b.BytesOrPanic()), n)
	if err != nil {
		panic(err)
	}
	return out
}

const (
	handshakeRecord   = 22
	applicationRecord = 23
)

// record gives the next record. Content types are those of section B.1.
func (f *forger) record(kind byte, content []byte) []byte {
	aead, err := f.seal(f.expand("key", f.size))
	if err != nil {
		panic(err)
	}
	nonce := f.expand("iv", 12)
	seq := binary.BigEndian.AppendUint64(make([]byte, 4), f.seq)
	for i := range nonce {
		nonce[i] ^= seq[i]
	}
	f.seq++
	n := len(content) + 1 + aead.Overhead()
	header := []byte{applicationRecord, 3, 3, byte(n >> 8), byte(n)}
	return aead.Seal(header, nonce, append(bytes.Clone(content), kind), header)
}

// update steps to the next key (section 7.2).
func (f *forger) update() { f.secret, f.seq = f.expand("traffic upd", f.hash().Size()), 0 }

var (
	updateRequested    = []byte{24, 0, 0, 1, 1} // section 4.6.3
	updateNotRequested = []byte{24, 0, 0, 1, 0}
)

// flood sends KeyUpdates, with some data before each if it is to look busy.
// It reads nothing and ends when the peer closes.
func (f *forger) flood(update []byte, busy bool) error {
	for {
		var b []byte
		if busy {
			b = f.record(applicationRecord, make([]byte, 2<<10))
		}
		b = append(b, f.record(handshakeRecord, update)...)
		f.update()
		if _, err := f.Write(b); err != nil {
			return err
		}
		f.floods.Add(1)
	}
}

// waitStuck waits until a flood does not get on any more. There is no event to
// wait for.
func (f *forger) waitStuck() {
	for last := int64(-1); last != f.floods.Load(); time.Sleep(300 * time.Millisecond) {
		last = f.floods.Load()
	}
}

// forgedClient opens a carrier and gives a forger for what the client sends
// next. Nothing has been sent by the TLS library since the handshake.
func forgedClient(t *testing.T, e *exit, opened bool) *forger {
	t.Helper()
	below, err := net.Dial("tcp", e.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = below.Close() })
	log := &keyLog{}
	c := tls.Client(below, &tls.Config{InsecureSkipVerify: true, NextProtos: alpn[:], KeyLogWriter: log})
	if err := c.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	f := newForger(t, below, c.ConnectionState().CipherSuite, log.secret(t, "CLIENT_TRAFFIC_SECRET_0"))
	f.tls = c
	if opened {
		if _, err := f.Write(f.record(applicationRecord, flight(opening()))); err != nil {
			t.Fatal(err)
		}
		if _, err := readAnswer(c); err != nil {
			t.Fatal(err)
		}
	}
	_ = below.SetDeadline(time.Now().Add(patience))
	return f
}

func TestForgedRecordsAreRead(t *testing.T) {
	read := make(chan string, 1)
	e := start(t, &Server{}, genuine(func(_ context.Context, c net.Conn) {
		b, err := io.ReadAll(io.LimitReader(c, 6))
		if err != nil {
			t.Error(err)
		}
		read <- string(b)
	}))
	f := forgedClient(t, e, true)
	var b []byte
	for _, part := range []string{"ab", "cd", "ef"} {
		b = append(b, f.record(applicationRecord, []byte(part))...)
		b = append(b, f.record(handshakeRecord, updateRequested)...)
		f.update()
	}
	if _, err := f.Write(b); err != nil {
		t.Fatal(err)
	}
	if got := <-read; got != "abcdef" {
		t.Errorf("the server read %q", got)
	}
}

func TestKeyUpdateFloodEndsTheConnection(t *testing.T) {
	for name, flood := range map[string]func(*forger) error{
		"one by one": func(f *forger) error { return f.flood(updateRequested, false) },
		"unasked":    func(f *forger) error { return f.flood(updateNotRequested, false) },
		"many in one record": func(f *forger) error {
			if _, err := f.Write(f.record(handshakeRecord, bytes.Repeat(updateRequested, 3000))); err != nil {
				return err
			}
			_, err := io.Copy(io.Discard, f)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, opened := range []bool{false, true} {
				e := start(t, &Server{}, genuine(echo))
				if err := flood(forgedClient(t, e, opened)); isTimeout(err) {
					t.Errorf("server, carrier %v: the connection goes on", opened)
				}
				e.stop()
			}
			for _, fingerprint := range fingerprints {
				e := rogue(t, func(f *forger) {
					if err := flood(f); isTimeout(err) {
						t.Errorf("client %s: the connection goes on", fingerprint)
					}
				})
				if _, _, err := e.dial(t, fingerprint).Attach(t.Context(), opening()); err == nil || errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("client %s: attach: %v", fingerprint, err)
				}
			}
		})
	}
}

// rogue runs a server that does the handshake and then forges.
func rogue(t *testing.T, serve func(*forger)) *exit {
	t.Helper()
	log := &keyLog{}
	return bare(t, &tls.Config{NextProtos: alpn[:], KeyLogWriter: log, SessionTicketsDisabled: true}, func(c *tls.Conn) {
		serve(newForger(t, c.NetConn(), c.ConnectionState().CipherSuite, log.secret(t, "SERVER_TRAFFIC_SECRET_0")))
	})
}

// A reply that TLS owes does not get out before the write deadline either. TLS
// must not take that for the end.
func TestReplyThatTimesOutDoesNotEndTheConnection(t *testing.T) {
	replied := make(chan struct{})
	e := start(t, &Server{}, genuine(func(_ context.Context, c net.Conn) {
		stuff(t, c)
		_ = c.SetWriteDeadline(time.Now())
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil { // with the KeyUpdate before it
			t.Error(err)
		}
		_ = c.SetWriteDeadline(time.Time{})
		close(replied)
		if _, err := c.Write([]byte("end")); err != nil {
			t.Error(err)
		}
		_ = c.Close()
	}))
	f := forgedClient(t, e, true)
	b := f.record(handshakeRecord, updateRequested)
	f.update()
	if _, err := f.Write(append(b, f.record(applicationRecord, []byte{1})...)); err != nil {
		t.Fatal(err)
	}
	<-replied
	if got, err := io.ReadAll(f.tls); err != nil || !bytes.HasSuffix(got, []byte("end")) {
		t.Errorf("%d bytes came, %v", len(got), err)
	}
}

// A peer that makes us owe replies and does not read them costs no memory, and
// does not outlive Close.
func TestBusyKeyUpdateFloodIsBoundedAndEndsWithClose(t *testing.T) {
	served, ended := make(chan net.Conn, 1), make(chan error, 1)
	e := start(t, &Server{}, genuine(func(_ context.Context, c net.Conn) {
		stuff(t, c) // the next reply will not get out
		served <- c
		_, err := io.Copy(io.Discard, c)
		ended <- err
	}))
	f := forgedClient(t, e, true)
	flooded := make(chan error, 1)
	go func() { flooded <- f.flood(updateRequested, true) }()
	c := <-served
	f.waitStuck()
	select {
	case err := <-flooded:
		t.Fatalf("the flood ended by itself: %v", err)
	case err := <-ended:
		t.Fatalf("the server ended by itself: %v", err)
	default:
	}
	begun := time.Now()
	_ = c.Close()
	<-ended
	if took := time.Since(begun); took > closeTimeout+time.Second {
		t.Errorf("Close took %v", took)
	}
	_ = f.Close()
	<-flooded

	for _, fingerprint := range fingerprints {
		done := make(chan error, 1)
		e := rogue(t, func(f *forger) { done <- f.flood(updateRequested, true) })
		c := e.dial(t, fingerprint)
		c.timeout = 300 * time.Millisecond
		if _, _, err := c.Attach(t.Context(), opening()); err == nil {
			t.Errorf("%s: attached", fingerprint)
		}
		if err := <-done; isTimeout(err) {
			t.Errorf("%s: the flood goes on after Attach has failed", fingerprint)
		}
	}
}

// TLS tells of a message that has no place here but once.
func TestAMessageThatHasNoPlaceEndsTheConnectionBehindWhatCameBefore(t *testing.T) {
	finished := []byte{20, 0, 0, 0} // RFC 8446 section 4.4.4
	type end struct {
		said string
		err  error
	}
	read := make(chan end, 1)
	e := start(t, &Server{}, genuine(func(_ context.Context, c net.Conn) {
		b, err := io.ReadAll(c)
		read <- end{string(b), err}
	}))
	f := forgedClient(t, e, true)
	b := f.record(applicationRecord, []byte("before"))
	b = append(b, f.record(handshakeRecord, finished)...)
	if _, err := f.Write(append(b, f.record(applicationRecord, make([]byte, record))...)); err != nil {
		t.Fatal(err)
	}
	_ = f.tls.NetConn().(*net.TCPConn).CloseWrite()
	if got := <-read; got.said != "before" || got.err == nil || errors.Is(got.err, io.ErrUnexpectedEOF) {
		t.Errorf("the server read %.20q, %d bytes, and then %v", got.said, len(got.said), got.err)
	}
}
