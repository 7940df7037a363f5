package mmsg

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// socket opens a UDP socket of this host.
func socket(t testing.TB, network, address string) (*net.UDPConn, *Conn) {
	t.Helper()
	pc, err := net.ListenPacket(network, net.JoinHostPort(address, "0"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close() })
	c := pc.(*net.UDPConn)
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	return c, New(raw)
}

// room is where n messages can be read to.
func room(n int) []ipv4.Message {
	messages := make([]ipv4.Message, n)
	for i := range messages {
		messages[i].Buffers = [][]byte{make([]byte, 2048)}
	}
	return messages
}

// readAll reads n messages, and gives what they are and where they come from.
func readAll(t *testing.T, c *Conn, n int) (all []string) {
	t.Helper()
	messages := room(4)
	for len(all) < n {
		if _, err := c.Wait(); err != nil {
			t.Fatal(err)
		}
		k, err := c.ReadBatch(messages, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range messages[:k] {
			all = append(all, fmt.Sprintf("%s from %v", m.Buffers[0][:m.N], m.Addr))
		}
	}
	return all
}

func TestPacketsArriveAsTheyWereSent(t *testing.T) {
	for _, test := range []struct{ network, from, to string }{
		{"udp4", "127.0.0.1", "127.0.0.1"},
		{"udp6", "::1", "::1"},
		{"udp", "::", "127.0.0.1"}, // both in one socket
	} {
		t.Run(test.network+test.to, func(t *testing.T) {
			out, sender := socket(t, test.network, test.from)
			in, receiver := socket(t, "udp", test.to)
			from := &net.UDPAddr{IP: net.ParseIP(test.to), Port: out.LocalAddr().(*net.UDPAddr).Port}
			var messages []ipv4.Message
			var want []string
			for i := range 10 {
				text := strings.Repeat("x", 100*i)
				messages = append(messages, ipv4.Message{
					Buffers: [][]byte{[]byte(text), nil, []byte(text)},
					Addr:    in.LocalAddr(),
				})
				want = append(want, fmt.Sprintf("%s%s from %v", text, text, from))
			}
			if n, err := sender.WriteBatch(messages, 0); n != len(messages) || err != nil {
				t.Fatalf("%d messages were sent, %v", n, err)
			}
			for i, got := range readAll(t, receiver, len(want)) {
				if got != want[i] {
					t.Errorf("message %d is %q, not %q", i, got, want[i])
				}
			}
		})
	}
}

func TestReaderFindsWhatIsThereAndNeverWaits(t *testing.T) {
	_, c := socket(t, "udp4", "127.0.0.1")
	if n, err := c.ReadBatch(room(3), 0); n != 0 || !errors.Is(err, unix.EAGAIN) {
		t.Errorf("reading nothing gives %d and %v", n, err)
	}
}

func TestWhatHasNoPlaceIsLeft(t *testing.T) {
	in, receiver := socket(t, "udp4", "127.0.0.1")
	_, sender := socket(t, "udp4", "127.0.0.1")
	messages := make([]ipv4.Message, 2*MaxBatch)
	for i := range messages {
		messages[i] = ipv4.Message{Buffers: [][]byte{{byte(i)}, {byte(i)}, {byte(i)}}, Addr: in.LocalAddr()}
	}
	sent, err := sender.WriteBatch(messages, 0)
	if sent != MaxBatch/3 || err != nil {
		t.Fatalf("%d messages of three buffers were sent, %v", sent, err)
	}
	readAll(t, receiver, sent)
	if n, err := receiver.ReadBatch(room(1), 0); n != 0 || !errors.Is(err, unix.EAGAIN) {
		t.Errorf("and %d more, %v", n, err)
	}
}

func TestErrorIsAboutTheFirstMessage(t *testing.T) {
	in, receiver := socket(t, "udp4", "127.0.0.1")
	_, sender := socket(t, "udp4", "127.0.0.1")
	good := ipv4.Message{Buffers: [][]byte{[]byte("good")}, Addr: in.LocalAddr()}
	long := ipv4.Message{Buffers: [][]byte{make([]byte, 1<<16)}, Addr: in.LocalAddr()}
	messages := []ipv4.Message{good, long, good}
	if n, err := sender.WriteBatch(messages, 0); n != 1 || err != nil {
		t.Errorf("%d messages before a bad one were sent, %v", n, err)
	}
	if n, err := sender.WriteBatch(messages[1:], 0); n != 0 || !errors.Is(err, unix.EMSGSIZE) {
		t.Errorf("a message that is too long gives %d and %v", n, err)
	}
	readAll(t, receiver, 1)
}

func TestWaitEndsWithItsDeadlineAndWithItsSocket(t *testing.T) {
	socket, c := socket(t, "udp4", "127.0.0.1")
	socket.SetReadDeadline(time.Now().Add(time.Millisecond))
	if _, err := c.Wait(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after the deadline: %v", err)
	}
	socket.SetReadDeadline(time.Time{})
	ended := make(chan error)
	go func() {
		_, err := c.Wait()
		ended <- err
	}()
	socket.Close()
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if _, err := c.WriteBatch([]ipv4.Message{{Addr: socket.LocalAddr()}}, 0); !errors.Is(err, net.ErrClosed) {
		t.Errorf("writing after Close: %v", err)
	}
}

// TestClosedSocketTakesNothing has batches come back from the pool, with what they did last.
func TestClosedSocketTakesNothing(t *testing.T) {
	in, _ := socket(t, "udp4", "127.0.0.1")
	_, sender := socket(t, "udp4", "127.0.0.1")
	shut, closed := socket(t, "udp4", "127.0.0.1")
	shut.Close()
	messages := make([]ipv4.Message, 10)
	for i := range messages {
		messages[i].Addr = in.LocalAddr()
	}
	for range 10 { // the pool may lose a batch
		if n, err := sender.WriteBatch(messages, 0); n == 0 || err != nil {
			t.Fatalf("%d messages were sent, %v", n, err)
		}
		if n, err := closed.WriteBatch(messages[:1], 0); n != 0 || !errors.Is(err, net.ErrClosed) {
			t.Fatalf("a closed socket takes %d messages, %v", n, err)
		}
	}
}

func TestOnlyReaderWhoHasRestedGoesUnwatched(t *testing.T) {
	in, receiver := socket(t, "udp4", "127.0.0.1")
	out, _ := socket(t, "udp4", "127.0.0.1")
	send := func() {
		if _, err := out.WriteTo([]byte("x"), in.LocalAddr()); err != nil {
			t.Error(err)
		}
	}
	send()
	readAll(t, receiver, 1)
	if receiver.rested {
		t.Error("a reader who found something at once has rested")
	}
	for !receiver.rested { // the packet may be there before anybody waits for it
		time.AfterFunc(time.Millisecond, send)
		readAll(t, receiver, 1)
	}
}

func BenchmarkBatch(b *testing.B) {
	in, receiver := socket(b, "udp4", "127.0.0.1")
	_, sender := socket(b, "udp4", "127.0.0.1")
	out, back := make([]ipv4.Message, 8), room(8)
	for i := range out {
		out[i] = ipv4.Message{Buffers: [][]byte{make([]byte, 64)}, Addr: in.LocalAddr()}
	}
	b.ReportAllocs()
	for b.Loop() {
		if n, err := sender.WriteBatch(out, 0); n < len(out) {
			b.Fatal(n, err)
		}
		for got := 0; got < len(out); {
			n, err := receiver.ReadBatch(back, 0)
			if err != nil {
				b.Fatal(err)
			}
			got += n
		}
	}
}
