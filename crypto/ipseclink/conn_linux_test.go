package ipseclink

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// quickPair gives both ends of a connection, as carriers have it.
func quickPair(t *testing.T) (near, far *conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	a, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	for _, c := range []net.Conn{a, b} {
		c.SetDeadline(time.Now().Add(patience))
	}
	return quicken(a, nil), quicken(b, nil)
}

func random(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return b
}

// stuff writes to c until something is left, and gives all of it.
func stuff(t *testing.T, c *conn) []byte {
	t.Helper()
	var sent bytes.Buffer
	for left := false; !left; {
		b := random(1 + rand.IntN(64<<10))
		sent.Write(b)
		var err error
		cut := rand.IntN(len(b) + 1)
		if left, err = c.WriteNow(b[:cut], b[cut:]); err != nil {
			t.Fatal(err)
		}
		clear(b) // it is not c's
	}
	return sent.Bytes()
}

func TestWhatWriteNowLeavesGoesFirst(t *testing.T) {
	for name, end := range map[string]func(*conn) error{
		"before what Write writes": func(c *conn) error { _, err := c.Write([]byte("end")); return err },
		"by Flush": func(c *conn) error {
			if err := c.Flush(); err != nil {
				return err
			}
			left, err := c.WriteNow([]byte("end"), nil)
			if left {
				err = errors.Join(err, c.Flush())
			}
			return err
		},
	} {
		near, far := quickPair(t)
		want := append(stuff(t, near), "end"...)
		got := make([]byte, len(want))
		read := make(chan error, 1)
		go func() {
			_, err := io.ReadFull(far, got)
			read <- err
		}()
		if err := end(near); err != nil {
			t.Fatal(name, err)
		}
		if err := <-read; err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes have come as something else: %v", name, len(want), err)
		}
	}
}

func TestTimeOutLosesNothingOfWhatIsLeft(t *testing.T) {
	near, far := quickPair(t)
	want := stuff(t, near)
	near.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
	if err := near.Flush(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("to nobody who reads it flushes: %v", err)
	}
	if n, err := near.Write([]byte("too early")); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("before what is left it writes %d bytes, %v", n, err)
	}
	near.SetWriteDeadline(time.Now().Add(patience))
	got := make([]byte, len(want))
	read := make(chan error, 1)
	go func() {
		_, err := io.ReadFull(far, got)
		read <- err
	}()
	if err := near.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := <-read; err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes have come as something else: %v", len(want), err)
	}
}

func TestFlushOfAClosedConnectionFails(t *testing.T) {
	near, _ := quickPair(t)
	stuff(t, near)
	near.Close()
	if err := near.Flush(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("what is left of a closed connection is sent: %v", err)
	}
	if left, err := near.WriteNow([]byte("x"), nil); left || !errors.Is(err, net.ErrClosed) {
		t.Errorf("a closed connection takes more: %v, %v", left, err)
	}
}

// mark is how many bytes the kernel waits for.
func (c *conn) mark(t *testing.T) (n int) {
	t.Helper()
	if err := c.poll.Control(func(fd uintptr) {
		var err error
		if n, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVLOWAT); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

// waiting waits until somebody who reads from c sleeps, and is woken for n bytes.
func waiting(t *testing.T, c *conn, n int) {
	t.Helper()
	for end := time.Now().Add(patience); c.mark(t) != n || !readerSleeps(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("who reads is woken for %d bytes, want %d; it sleeps: %v", c.mark(t), n, readerSleeps())
		}
	}
}

// readerSleeps tells whether a goroutine waits in Read. Before it does, it gets
// whatever there is.
func readerSleeps() bool {
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	for goroutine := range bytes.SplitSeq(stacks, []byte("\n\n")) {
		if bytes.Contains(goroutine, []byte("[IO wait")) && bytes.Contains(goroutine, []byte("ipseclink.(*conn).Read(")) {
			return true
		}
	}
	return false
}

func TestReaderIsWokenOnceForManyPacketsThatAreToCome(t *testing.T) {
	const whole = 3*wakeMost + wakeLeast - 1
	near, far := quickPair(t)
	sizes := make(chan int, whole)
	far.Expect(whole)
	go func() {
		defer close(sizes)
		for b := make([]byte, 2*whole); ; {
			n, err := far.Read(b)
			if err != nil {
				return
			}
			sizes <- n
		}
	}()
	waiting(t, far, wakeMost)
	send := func(n int) {
		if _, err := near.Write(make([]byte, n)); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		waiting(t, far, wakeMost)
		send(wakeMost - 1)
		select {
		case n := <-sizes:
			t.Fatalf("it is woken for %d bytes", n)
		case <-time.After(20 * time.Millisecond): // nothing tells that somebody is not woken
		}
		send(1)
		if n := <-sizes; n != wakeMost {
			t.Errorf("it is woken for %d bytes, want %d", n, wakeMost)
		}
	}
	waiting(t, far, 1) // what is left is not worth it, and then nothing is known
	for range 3 {
		send(1)
		if n := <-sizes; n != 1 {
			t.Errorf("it is woken for %d bytes", n)
		}
	}
	near.Close()
	for range sizes {
	}
}

func TestReaderHearsOfAnEndAmongBytesThatAreToCome(t *testing.T) {
	near, far := quickPair(t)
	far.Expect(wakeMost)
	read := make(chan error, 1)
	got := 0
	go func() {
		for b := make([]byte, wakeMost); ; {
			n, err := far.Read(b)
			if got += n; err != nil {
				read <- err
				return
			}
		}
	}()
	waiting(t, far, wakeMost)
	if _, err := near.Write(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	near.Close()
	if err := <-read; err != io.EOF || got != 100 {
		t.Errorf("it reads %d bytes, and %v", got, err)
	}
	_, far = quickPair(t)
	far.Expect(wakeMost)
	go func() {
		_, err := far.Read(make([]byte, 1))
		read <- err
	}()
	waiting(t, far, wakeMost)
	far.SetReadDeadline(time.Unix(1, 0))
	if err := <-read; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after its deadline it reads %v", err)
	}
}
