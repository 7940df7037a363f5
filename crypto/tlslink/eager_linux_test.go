package tlslink

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// arrived waits until so many bytes are in the kernel for c.
func arrived(t *testing.T, c net.Conn, n int) {
	t.Helper()
	raw, err := asConn(c).wire.Conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var have int
	if failed := raw.Read(func(fd uintptr) bool {
		have, err = unix.IoctlGetInt(int(fd), unix.TIOCINQ)
		return err != nil || have >= n
	}); failed != nil || err != nil {
		t.Fatal(failed, err)
	}
}

func TestReadGivesAllWholeRecordsThatHaveBeenReadAhead(t *testing.T) {
	for _, fingerprint := range []string{"chrome", "go"} {
		client, server, stop := pair(t, fingerprint)
		defer stop()
		for name, ends := range map[string][2]net.Conn{"up": {client, server}, "down": {server, client}} {
			sent := random(burst)
			if _, err := ends[0].Write(sent); err != nil {
				t.Fatal(err)
			}
			arrived(t, ends[1], burst+4*overhead)
			got := make([]byte, burst)
			n, err := ends[1].Read(got)
			if want := inSize / (record + overhead) * record; n != want || err != nil {
				t.Errorf("%s, %s: Read gives %d bytes, %v, want %d", fingerprint, name, n, err, want)
			}
			if _, err := io.ReadFull(ends[1], got[n:]); err != nil || !bytes.Equal(got, sent) {
				t.Errorf("%s, %s: what a record begins is lost: %v", fingerprint, name, err)
			}
		}
	}
}

func TestWhatWriteNowLeavesGoesFirst(t *testing.T) {
	client, server, stop := pair(t, "chrome")
	defer stop()
	for _, ends := range [][2]net.Conn{{client, server}, {server, client}} {
		conn, far := ends[0].(eagerConn), ends[1]
		var sent bytes.Buffer
		for left := false; !left; {
			b := random(1 + rand.IntN(burst))
			sent.Write(b)
			var err error
			cut := rand.IntN(len(b) + 1)
			if left, err = conn.WriteNow(b[:cut], b[cut:]); err != nil {
				t.Fatal(err)
			}
		}
		got := make([]byte, sent.Len()+1)
		read := make(chan error, 1)
		go func() {
			_, err := io.ReadFull(far, got)
			read <- err
		}()
		if err := conn.Flush(); err != nil {
			t.Fatal(err)
		}
		sent.WriteByte(1)
		if _, err := conn.WriteNow([]byte{1}, nil); err != nil {
			t.Fatal(err)
		}
		if err := conn.Flush(); err != nil { // the socket may still be full
			t.Fatal(err)
		}
		if err := <-read; err != nil || !bytes.Equal(got, sent.Bytes()) {
			t.Fatalf("%d bytes have come as something else: %v", sent.Len(), err)
		}
	}
}

func TestFlushOfAClosedConnectionFails(t *testing.T) {
	client, _, stop := pair(t, "chrome")
	defer stop()
	conn := client.(eagerConn)
	stuff(t, conn) // it leaves something, too
	conn.Close()
	if err := conn.Flush(); err == nil {
		t.Error("what is left of a closed connection is said to be sent")
	}
}

func random(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return b
}
