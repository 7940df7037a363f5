package tlslink

import (
	"crypto/tls"
	"io"
	"net"
	"testing"
	"time"
)

// tapped gives a tap on the server's end of a connection, on which a client has
// sent something.
func tapped(t *testing.T, sent []byte, judge func([]byte) bool) (*tap, *tls.Conn) {
	t.Helper()
	_, cert := newCertificate(t, "exit.test")
	a, b := net.Pipe()
	client, server := tls.Client(a, &tls.Config{InsecureSkipVerify: true}), tls.Server(b, &tls.Config{Certificates: []tls.Certificate{cert}})
	t.Cleanup(func() {
		_ = a.Close()
		_ = b.Close()
	})
	_ = a.SetDeadline(time.Now().Add(patience))
	_ = b.SetDeadline(time.Now().Add(patience))
	go func() { _, _ = client.Write(sent) }()
	return newTap(server, judge), client
}

func TestTapLeavesWhatFollowsAnOpening(t *testing.T) {
	tap, _ := tapped(t, append(flightWith(opening()), "session"...), func([]byte) bool { return true })
	buf := make([]byte, 1<<10)
	for {
		if n, err := tap.Read(buf); err == io.EOF {
			break
		} else if err != nil || n == 0 {
			t.Fatalf("%d bytes, %v", n, err)
		}
	}
	if n, err := tap.Read(buf); n != 0 || err != io.EOF {
		t.Errorf("after the end, %d bytes, %v", n, err)
	}
	if err := readPing(tap.Conn); err != nil {
		t.Error(err)
	}
	if n, err := io.ReadFull(tap.Conn, buf[:7]); err != nil || string(buf[:n]) != "session" {
		t.Errorf("the session gets %q, %v", buf[:n], err)
	}
}

func TestTakenTapReachesNothing(t *testing.T) {
	tap, client := tapped(t, flightWith(opening()), func([]byte) bool { return true })
	if _, err := io.Copy(io.Discard, tap); err != nil {
		t.Fatal(err)
	}
	past := time.Unix(1, 0)
	if n, err := tap.Write([]byte("GOAWAY")); n != 6 || err != nil {
		t.Errorf("Write gives %d, %v", n, err)
	}
	for _, err := range []error{tap.SetDeadline(past), tap.SetReadDeadline(past), tap.SetWriteDeadline(past), tap.Close()} {
		if err != nil {
			t.Error(err)
		}
	}
	if err := readPing(tap.Conn); err != nil {
		t.Error(err)
	}
	go func() { _, _ = tap.Conn.Write([]byte("answer")) }()
	got := make([]byte, 6)
	if _, err := io.ReadFull(client, got); err != nil || string(got) != "answer" {
		t.Errorf("the client gets %q, %v", got, err)
	}
}

func TestTapThatHasEndedJudgesNothing(t *testing.T) {
	sent := flightWith(opening())
	tap, _ := tapped(t, sent, func([]byte) bool {
		t.Error("judged")
		return true
	})
	tap.end()
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(tap, got); err != nil || string(got) != string(sent) {
		t.Errorf("the web site gets %q, %v", got, err)
	}
}
