package socks

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"golang.org/x/net/nettest"

	"github.com/adit-net/adit/tunnel/relay"
)

// tcpPair gives two ends of a connection.
func tcpPair(t testing.TB) (a, b relay.Conn) {
	t.Helper()
	ln := listen(t, "127.0.0.1:0")
	c := dial(t, ln.Addr().String())
	d := accept(t, ln)
	c.SetDeadline(time.Time{})
	d.SetDeadline(time.Time{})
	return relay.TCP(c), relay.TCP(d)
}

// gssPair gives two ends that have agreed on a level.
func gssPair(t testing.TB, level GSSLevel) (app, door relay.Conn) {
	t.Helper()
	a, b := tcpPair(t)
	return (&GSSChannel{Level: level, context: &paperGSS{}}).Conn(a), (&GSSChannel{Level: level, context: &paperGSS{}}).Conn(b)
}

func TestProtectedConnsAreNetConns(t *testing.T) {
	for _, level := range []GSSLevel{1, 2, 3} {
		nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
			a, b := gssPair(t, level)
			return a, b, func() { a.Close(); b.Close() }, nil
		})
	}
}

func TestLevelZeroIsTheConnItself(t *testing.T) {
	a, _ := tcpPair(t)
	if got := (&GSSChannel{}).Conn(a); got != a {
		t.Errorf("it is a %T", got)
	}
}

// said gives what a conn writes.
func said(t testing.TB, level GSSLevel, writes ...string) []byte {
	t.Helper()
	a, b := tcpPair(t)
	c := (&GSSChannel{Level: level, context: &paperGSS{}}).Conn(a)
	got := make(chan []byte)
	go func() {
		b, _ := io.ReadAll(b)
		got <- b
	}()
	for _, s := range writes {
		send(t, c, s)
	}
	if err := c.CloseWrite(); err != nil {
		t.Error(err)
	}
	return <-got
}

func TestEachSOCKSMessageIsAMessageOfItsOwn(t *testing.T) {
	for level, sealed := range map[GSSLevel]byte{1: 0, 2: 1, 3: 1} {
		in := bytes.NewReader(said(t, level, "a reply", "", strings.Repeat("x", 40_000), "the end"))
		var payloads []string
		app := &paperGSS{}
		for in.Len() > 0 {
			token, err := readGSS(in, gssData)
			if err != nil {
				t.Fatal(err)
			}
			if token[8] != sealed {
				t.Errorf("level %d: sealed: %d", level, token[8])
			}
			payload, _, err := app.Unwrap(token)
			if err != nil {
				t.Fatal(err)
			}
			payloads = append(payloads, string(payload))
		}
		x := strings.Repeat("x", gssPayload)
		if want := []string{"a reply", x, x, x[:40_000-2*gssPayload], "the end"}; !slices.Equal(payloads, want) {
			t.Errorf("level %d: %d messages", level, len(payloads))
		}
	}
}

// stream is a conn that has been sent some bytes.
type stream struct {
	relay.Conn
	io.Reader
}

func (s stream) Read(p []byte) (int, error) { return s.Reader.Read(p) }

// heard gives what a door reads of some bytes.
func heard(level GSSLevel, in io.Reader) ([]byte, error) {
	c := (&GSSChannel{Level: level, context: &paperGSS{}}).Conn(stream{Reader: in})
	return io.ReadAll(c)
}

func TestStreamsEndCleanlyOnlyBetweenMessages(t *testing.T) {
	whole := said(t, 2, "one", "two", "three")
	for n := range len(whole) + 1 {
		got, err := heard(2, iotest.OneByteReader(bytes.NewReader(whole[:n])))
		clean := map[int]string{0: "", 20: "one", 40: "onetwo", 62: "onetwothree"}
		if want, between := clean[n]; between && (err != nil || string(got) != want) {
			t.Errorf("%d of %d bytes: %q (%v)", n, len(whole), got, err)
		} else if !between && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d of %d bytes: %q (%v)", n, len(whole), got, err)
		}
	}
}

func TestStreamsTakeNothingThatIsNotTheirs(t *testing.T) {
	app := &paperGSS{}
	first, second := gssMessage(t, gssData, app.Wrap(nil, []byte("first"), true)), gssMessage(t, gssData, app.Wrap(nil, []byte("second"), true))
	for name, bytes := range map[string]string{
		"again":       first + first,
		"skipped":     second,
		"in clear":    first + "GET / HTTP/1.1",
		"not sealed":  gssMessage(t, gssData, (&paperGSS{}).Wrap(nil, []byte("open"), false)),
		"empty token": first + gssMessage(t, gssData, nil),
		"another":     first + gssMessage(t, gssProtection, []byte("token")),
		"abort":       first + "\x01\xff",
		"version 5":   "\x05" + first[1:],
		"changed":     strings.Replace(first, "first", "third", 1),
	} {
		got, err := heard(2, strings.NewReader(bytes))
		if err == nil || errors.Is(err, io.EOF) || string(got) != "" && string(got) != "first" {
			t.Errorf("%s: %q (%v)", name, got, err)
		}
	}
	if got, err := heard(1, strings.NewReader(first+second)); err != nil || string(got) != "firstsecond" {
		t.Errorf("sealed although that is not asked for: %q (%v)", got, err)
	}
}

func TestEmptyMessagesAreNoEnd(t *testing.T) {
	app := &paperGSS{}
	var in string
	for _, s := range []string{"", "a", "", "", "b", ""} {
		in += gssMessage(t, gssData, app.Wrap(nil, []byte(s), true))
	}
	if got, err := heard(2, strings.NewReader(in)); err != nil || string(got) != "ab" {
		t.Errorf("%q (%v)", got, err)
	}
}

func TestEachDirectionOfAProtectedConnEndsByItself(t *testing.T) {
	app, door := gssPair(t, 2)
	send(t, app, "last words")
	if err := app.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	expect(t, door, "last words")
	expectEnd(t, door)
	send(t, door, "goes on")
	expect(t, app, "goes on")
	if err := door.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	expectEnd(t, app)
}

func TestResetOfAProtectedConnComesThrough(t *testing.T) {
	for name, reset := range map[string]func(relay.Conn){
		"Reset": func(c relay.Conn) { c.Reset() },
		"Fail":  func(c relay.Conn) { relay.Fail(c, errors.New("over")) },
	} {
		app, door := gssPair(t, 1)
		send(t, door, "a word")
		expect(t, app, "a word")
		reset(door)
		if b, err := io.ReadAll(app); err == nil || len(b) > 0 {
			t.Errorf("%s: %q (%v)", name, b, err)
		}
	}
}

// lateReset is a connection whose reset a Write has got to know, and for which
// Read therefore reports a clean end.
type lateReset struct{ relay.Conn }

func (lateReset) Write([]byte) (int, error) { return 0, syscall.ECONNRESET }
func (lateReset) Read([]byte) (int, error)  { return 0, io.EOF }

func TestResetThatAWriteHasSeenIsNoCleanEnd(t *testing.T) {
	c := (&GSSChannel{Level: 2, context: &paperGSS{}}).Conn(lateReset{})
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("before: %v", err)
	}
	if _, err := c.Write([]byte("lost")); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("Write: %v", err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("after: %v", err)
	}
}

// What has timed out goes on at the very byte, in both directions.
func TestTimeOutsLoseNothingOfAStream(t *testing.T) {
	app, door := gssPair(t, 2)
	const size = 8 << 20
	var want, got []byte
	for len(want) < size {
		want = append(want, byte(len(want)>>8), byte(len(want)), byte(len(want)>>16))
	}
	var reading sync.WaitGroup
	reading.Go(func() {
		buf := make([]byte, 5000)
		for {
			door.SetReadDeadline(time.Now().Add(100 * time.Microsecond))
			n, err := door.Read(buf)
			got = append(got, buf[:n]...)
			if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
				if !errors.Is(err, io.EOF) {
					t.Error(err)
				}
				return
			}
		}
	})
	timeouts := 0
	for rest := want; ; {
		app.SetWriteDeadline(time.Now().Add(time.Millisecond))
		n, err := app.Write(rest)
		rest = rest[n:]
		if err == nil {
			break // and nothing is left over from earlier ones
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
		timeouts++
	}
	if err := app.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	reading.Wait()
	if !bytes.Equal(got, want) {
		t.Errorf("%d bytes of %d arrive, after %d time-outs", len(got), len(want), timeouts)
	}
}

func TestProtectedConnsAreRelayed(t *testing.T) {
	app, door := gssPair(t, 2)
	target, exit := tcpPair(t)
	done := make(chan relay.Result)
	go func() { done <- relay.Copy(t.Context(), door, exit) }()
	text := strings.Repeat("all of it", 100_000)
	var reading sync.WaitGroup
	reading.Go(func() {
		expect(t, target, text)
		expectEnd(t, target)
		send(t, target, text)
		if err := target.CloseWrite(); err != nil {
			t.Error(err)
		}
	})
	send(t, app, text)
	if err := app.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	expect(t, app, text)
	expectEnd(t, app)
	reading.Wait()
	if r := <-done; r.Err != nil || r.Up != int64(len(text)) || r.Down != int64(len(text)) {
		t.Errorf("relayed %+v", r)
	}
}

func TestWaitingConnsHoldNoBuffer(t *testing.T) {
	app, door := gssPair(t, 2)
	c := door.(*gssConn)
	waited := make(chan error)
	go func() { waited <- c.WaitRead() }()
	send(t, app, "word")
	if err := <-waited; err != nil {
		t.Fatal(err)
	}
	if c.body != nil {
		t.Error("it holds a buffer before there is a message")
	}
	expect(t, door, "wo")
	if err := c.WaitRead(); err != nil {
		t.Fatal(err) // there is more in the buffer
	}
	expect(t, door, "rd")
	if c.body != nil {
		t.Error("it holds a buffer after the message")
	}
	if err := app.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if err := c.WaitRead(); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
}

func FuzzGSSConn(f *testing.F) {
	f.Add(said(f, 2, "one", "two"), byte(2))
	f.Add([]byte("\x01\xff"), byte(1))
	f.Fuzz(func(t *testing.T, b []byte, level byte) {
		got, err := heard(GSSLevel(level%3+1), bytes.NewReader(b))
		if len(got) > len(b) {
			t.Fatalf("%d bytes come out of %d", len(got), len(b))
		}
		again, errAgain := heard(GSSLevel(level%3+1), iotest.OneByteReader(bytes.NewReader(b)))
		if !bytes.Equal(got, again) || (err == nil) != (errAgain == nil) {
			t.Fatalf("%q (%v), byte by byte %q (%v)", got, err, again, errAgain)
		}
	})
}
