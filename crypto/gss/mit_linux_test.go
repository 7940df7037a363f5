package gss

import (
	"context"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/adit-net/adit/crypto/gss/cfx"
	"github.com/adit-net/adit/tunnel/relay"
	"github.com/adit-net/adit/tunnel/socks"
)

const (
	anyType   = "aes256-cts-hmac-sha1-96:normal,aes128-cts-hmac-sha1-96:normal"
	localhost = "rcmd@localhost"
)

// door speaks no more of SOCKS than its method 01, and sends back what comes.
type door struct {
	acceptor   *Acceptor
	protection socks.GSSProtection
	nec        bool
	later      time.Duration // what its clock is ahead
	carried    bool          // verify elsewhere, and go on here with what was exported there
}

func (d door) accept(_ context.Context, token []byte) (socks.GSSGrant, error) {
	c, reply, err := d.acceptor.accept(token, time.Now().Add(d.later))
	if err != nil {
		return socks.GSSGrant{}, err
	}
	if d.carried {
		if c, err = cfx.Import(c.Export()); err != nil {
			return socks.GSSGrant{}, err
		}
	}
	return socks.GSSGrant{User: c.Name(), Context: c, Reply: reply, Protection: d.protection, NEC: d.nec}, nil
}

// visit is what a door makes of one app.
type visit struct {
	user string
	err  error
}

// open serves one app. It gives the port, and what came of the visit.
func (d door) open(t testing.TB) (port string, visits <-chan visit) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.(*net.TCPListener).SetDeadline(time.Now().Add(time.Minute))
	t.Cleanup(func() { ln.Close() })
	done := make(chan visit, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			done <- visit{err: err}
			return
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(time.Minute))
		user, err := d.serve(t.Context(), relay.TCP(c.(*net.TCPConn)))
		done <- visit{user, err}
	}()
	_, port, err = net.SplitHostPort(ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port, done
}

func (d door) serve(ctx context.Context, c relay.Conn) (user string, err error) {
	greeting := make([]byte, 3)
	if _, err := io.ReadFull(c, greeting); err != nil || string(greeting) != "\x05\x01\x01" {
		return "", err
	}
	if _, err := c.Write([]byte{5, 1}); err != nil {
		return "", err
	}
	channel, err := socks.NegotiateGSS(ctx, c, c, d.accept)
	if err != nil {
		return "", err
	}
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	echoed := make(chan struct{})
	go func() {
		defer close(echoed)
		echoDatagrams(channel, udp)
	}()
	defer func() { udp.Close(); <-echoed }()
	conn := channel.Conn(c)
	if _, err := io.ReadFull(conn, make([]byte, 10)); err != nil {
		return "", err
	}
	port := udp.LocalAddr().(*net.UDPAddr).Port
	if _, err := conn.Write([]byte{5, 0, 0, 1, 127, 0, 0, 1, byte(port >> 8), byte(port)}); err != nil {
		return "", err
	}
	if _, err := io.Copy(conn, conn); err != nil {
		return "", err
	}
	return channel.User, conn.CloseWrite()
}

func echoDatagrams(channel *socks.GSSChannel, udp net.PacketConn) {
	buf := make([]byte, 65536)
	for {
		n, from, err := udp.ReadFrom(buf)
		if err != nil {
			return
		}
		message, err := channel.OpenDatagram(buf[:n])
		if err != nil {
			continue
		}
		if b, err := channel.AppendDatagram(nil, message); err == nil {
			_, _ = udp.WriteTo(b, from) // datagrams get lost
		}
	}
}

func accepting(t testing.TB, c Config) *Acceptor {
	t.Helper()
	a, err := NewAcceptor(c)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// visit lets a client in by a door, or not. Its arguments are the proposed level and
// what else client.py takes.
func (k *kdc) visit(d door, service string, args ...string) (says string, v visit, err error) {
	k.t.Helper()
	port, visits := d.open(k.t)
	says, err = k.client(append([]string{service, port}, args...)...)
	return says, <-visits, err
}

// expectUser runs a client that is served, and gets back all that it sends.
func (k *kdc) expectUser(user, granted string, d door, service string, args ...string) {
	k.t.Helper()
	want := "level " + granted + ", 5 datagrams, 932833 bytes"
	if says, v, err := k.visit(d, service, args...); err != nil || says != want || v.err != nil || v.user != user {
		k.t.Errorf("%s %v: client says %q (%v), door serves %q (%v)", service, args, says, err, v.user, v.err)
	}
}

// expectAlice is expectUser for alice.
func (k *kdc) expectAlice(granted string, d door, service string, args ...string) {
	k.t.Helper()
	k.expectUser("alice@"+home, granted, d, service, args...)
}

// expectRefusal runs a client that gets no further than its token or its level.
func (k *kdc) expectRefusal(want error, d door, service string, args ...string) {
	k.t.Helper()
	if says, v, err := k.visit(d, service, args...); err == nil || says != "refused" || v.err == nil || want != nil && !errors.Is(v.err, want) {
		k.t.Errorf("%s %v: client says %q (%v), door says %v, want %v", service, args, says, err, v.err, want)
	}
}

// One service each has keys of one type, so tickets and session keys are of it too.
func TestMITClientsComeInAtEveryLevel(t *testing.T) {
	k := startKDC(t)
	for _, encType := range []string{
		"aes128-cts-hmac-sha1-96", "aes256-cts-hmac-sha1-96", "aes128-cts-hmac-sha256-128", "aes256-cts-hmac-sha384-192",
	} {
		a := accepting(t, Config{Keytab: k.keytab(home, encType+":normal", encType+"/localhost")})
		k.login("alice")
		for _, level := range []string{"0", "1", "2"} {
			k.expectAlice(level, door{acceptor: a, protection: socks.GSSAsProposed}, encType+"@localhost", level)
		}
		k.expectAlice("2", door{acceptor: a, carried: true}, encType+"@localhost", "2")
	}
}

func TestMITClientsGetTheLevelThatThePolicyGives(t *testing.T) {
	k := startKDC(t)
	a := accepting(t, Config{Keytab: k.keytab(home, anyType, "rcmd/localhost")})
	k.login("alice")
	k.expectAlice("0", door{acceptor: a, protection: socks.GSSUnprotected}, localhost, "0") // as curl does up to 8.16
	k.expectAlice("0", door{acceptor: a, protection: socks.GSSUnprotected}, localhost, "2") // and from 8.17 on
	k.expectAlice("1", door{acceptor: a, protection: socks.GSSSigned}, localhost, "1")
	k.expectAlice("2", door{acceptor: a, protection: socks.GSSSealed}, localhost, "1")
	k.expectRefusal(nil, door{acceptor: a, protection: socks.GSSSigned}, localhost, "0")
	k.expectRefusal(nil, door{acceptor: a, protection: socks.GSSSealed}, localhost, "0")
}

func TestMITClientsMayKeepToTheOldWays(t *testing.T) {
	k := startKDC(t)
	a := accepting(t, Config{Keytab: k.keytab(home, anyType, "rcmd/localhost")})
	k.login("alice")
	k.expectRefusal(nil, door{acceptor: a}, localhost, "2", "nec")
	k.expectAlice("2", door{acceptor: a, nec: true}, localhost, "2", "nec")
	k.expectAlice("2", door{acceptor: a}, localhost, "2", "anonymous-server")
}

func TestMITClientsOfOtherRealmsAndServicesStayOutside(t *testing.T) {
	k := startKDC(t)
	keys := k.keytab(home, anyType, "rcmd/localhost", "imap/localhost")
	elsewhere := k.keytab(neighbor, anyType, "rcmd/localhost")

	k.login("alice")
	k.expectRefusal(ErrRealm, door{acceptor: accepting(t, Config{Keytab: elsewhere})}, localhost, "2")
	k.expectRefusal(ErrService, door{acceptor: accepting(t, Config{Keytab: keys, Services: []string{"rcmd", "socks"}})}, "imap@localhost", "2")

	k.login("bob@" + neighbor)
	k.expectRefusal(ErrRealm, door{acceptor: accepting(t, Config{Keytab: keys})}, localhost, "2")
	k.expectUser("bob@"+neighbor, "2", door{acceptor: accepting(t, Config{Keytab: keys, Realms: []string{neighbor}})}, localhost, "2")

	k.admin(home, "cpw -randkey rcmd/localhost")
	k.login("alice")
	k.expectRefusal(ErrTicket, door{acceptor: accepting(t, Config{Keytab: keys})}, localhost, "2")
}

func TestMITClientsWithoutAGoodTicketStayOutside(t *testing.T) {
	k := startKDC(t)
	a := accepting(t, Config{Keytab: k.keytab(home, anyType, "rcmd/localhost")})
	k.login("alice", "-l", "1h")
	k.expectRefusal(ErrExpired, door{acceptor: a, later: 2 * time.Hour}, localhost, "2")
	k.expectRefusal(ErrSkew, door{acceptor: a, later: 6 * time.Minute}, localhost, "2")
	k.expectRefusal(ErrSkew, door{acceptor: a, later: -6 * time.Minute}, localhost, "2")
	k.logout()
	says, v, err := k.visit(door{acceptor: a}, localhost, "2")
	if err == nil || !strings.HasPrefix(says, "GSS-API:") || !errors.Is(v.err, io.ErrUnexpectedEOF) {
		t.Errorf("no ticket: client says %q (%v), door says %v", says, err, v.err)
	}
}

func TestMITTokensAreGoodOnce(t *testing.T) {
	k := startKDC(t)
	a := accepting(t, Config{Keytab: k.keytab(home, anyType, "rcmd/localhost")})
	k.login("alice", "-l", "1h")
	token, err := hex.DecodeString(k.run("", "/usr/bin/python3", "testdata/client.py", localhost))
	if err != nil {
		t.Fatal(err)
	}
	c, reply, err := a.Accept(token)
	if err != nil || len(reply) == 0 {
		t.Fatalf("reply of %d bytes (%v)", len(reply), err)
	}
	left := time.Until(c.Peer().Expires)
	if c.Name() != "alice@"+home || left > time.Hour || left < 50*time.Minute || c.Peer().Flags&cfx.Confidentiality == 0 {
		t.Errorf("%+v", c.Peer())
	}
	if _, _, err := a.Accept(token); !errors.Is(err, ErrReplay) {
		t.Errorf("again: %v", err)
	}
}
