package socks

import (
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/adit-net/adit/tunnel/relay"
)

// What apps say to be connected to example.com:443, and hear then.
var asks443 = map[Dialect]struct{ ask, answer string }{
	SOCKS4a:     {"\x04\x01\x01\xbb\x00\x00\x00\x01\x00example.com\x00", "\x00\x5a\x00\x00\x00\x00\x00\x00"},
	SOCKS5:      {"\x05\x01\x00\x05\x01\x00\x03\x0bexample.com\x01\xbb", "\x05\x00\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00"},
	HTTPConnect: {"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com\r\n\r\n", "HTTP/1.1 200 Connection established\r\n\r\n"},
}

func TestFirstWordsTravelWithARequestThatIsAnsweredEarly(t *testing.T) {
	for dialect, says := range asks443 {
		t.Run(dialect.String(), func(t *testing.T) {
			p := newPatient()
			app := dial(t, openDoor(t, &Door{Relay: p, EarlyReply: []uint16{80, 443}}))
			send(t, app, says.ask+"first words") // at once: nobody waits long for them
			expect(t, app, says.answer)
			app.CloseWrite() // which is no farewell
			r := receive(t, p.asked)
			if string(r.Initial) != "first words" || r.Dialect != dialect {
				t.Fatalf("the relay is asked for %+v", r)
			}
			target := listen(t, "127.0.0.1:0")
			p.connect <- relay.TCP(dial(t, target.Addr().String()))
			far := accept(t, target)
			expectEnd(t, far) // the words are not said again
			send(t, far, "an answer")
			far.CloseWrite()
			expect(t, app, "an answer")
			expectEnd(t, app)
		})
	}
}

func TestAnAppThatIsAnsweredEarlyMayLetTheTargetSpeakFirst(t *testing.T) {
	p := newPatient()
	app := dial(t, openDoor(t, &Door{Relay: p, EarlyReply: []uint16{443}}))
	send(t, app, asks443[SOCKS5].ask)
	expect(t, app, asks443[SOCKS5].answer)
	if r := receive(t, p.asked); len(r.Initial) > 0 {
		t.Fatalf("the relay is asked for %+v", r)
	}
	near, far := newDuplex()
	defer far.Close()
	p.connect <- near
	go io.WriteString(far, "220 hello")
	expect(t, app, "220 hello")
	send(t, app, "HELO")
	expect(t, far, "HELO")
}

// silent is an app who has no more to say than what is in words.
type silent struct {
	duplex
	words io.Reader
}

func (s silent) Read(b []byte) (int, error) { return s.words.Read(b) }

func TestAnAppThatIsAnsweredEarlyMayOnlyListen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPatient()
		d := &Door{Relay: p, EarlyReply: []uint16{443}}
		app, other := newDuplex()
		served := make(chan struct{})
		go func() { d.ServeConn(t.Context(), silent{other, strings.NewReader(asks443[SOCKS5].ask)}); close(served) }()
		expect(t, app, asks443[SOCKS5].answer)
		receive(t, p.asked)
		time.Sleep(2 * attendAfter)
		synctest.Wait()
		select {
		case err := <-p.gaveUp:
			t.Fatalf("the app's end is taken for a farewell: %v", err)
		default:
		}
		target := newSink(nil)
		p.connect <- target
		if said := target.all(); said != "" {
			t.Errorf("the target hears %q", said)
		}
		<-served
	})
}

func TestARefusalAfterAnEarlyAnswerIsAReset(t *testing.T) {
	for dialect, says := range asks443 {
		t.Run(dialect.String(), func(t *testing.T) {
			app := dial(t, openDoor(t, &Door{Relay: Unserved{}, EarlyReply: []uint16{443}}))
			send(t, app, says.ask)
			expect(t, app, says.answer)
			expectReset(t, app)
		})
	}
}

func TestRequestsForOtherPortsAndOfSOCKS6AreNotAnsweredEarly(t *testing.T) {
	door := openDoor(t, &Door{Relay: Unserved{}, EarlyReply: []uint16{80}})
	app := dial(t, door)
	send(t, app, asks443[SOCKS5].ask)
	expect(t, app, "\x05\x00\x05\x07")

	dst, err := NewAddr("example.com", 80)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Request6{Command: Connect, Dst: dst}.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	app = dial(t, door)
	send(t, app, string(b))
	if auth, err := ReadAuthReply6(app); err != nil || !auth.OK {
		t.Fatalf("%+v, %v", auth, err)
	}
	if op, err := ReadOperationReply6(app); err != nil || op.Code != CommandNotSupported {
		t.Errorf("%+v, %v", op, err)
	}
}

// TestLittleIsReadBeforeThereIsAConnection has an app in memory, from which nothing is
// taken unless the door reads it.
func TestLittleIsReadBeforeThereIsAConnection(t *testing.T) {
	p := newPatient()
	d := &Door{Relay: p, EarlyReply: []uint16{443}}
	app, other := newDuplex()
	served := make(chan struct{})
	go func() { d.ServeConn(t.Context(), other); close(served) }()
	greeting, request := asks443[SOCKS5].ask[:3], asks443[SOCKS5].ask[3:]
	send(t, app, greeting)
	expect(t, app, "\x05\x00")
	send(t, app, request)
	expect(t, app, asks443[SOCKS5].answer[2:])

	words := strings.Repeat("words ", 10_000)
	app.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
	n, err := io.WriteString(app, words)
	if !errors.Is(err, os.ErrDeadlineExceeded) || n > aheadBytes {
		t.Errorf("%d bytes are read, %v", n, err)
	}
	app.SetWriteDeadline(time.Time{})
	first := receive(t, p.asked).Initial
	near, far := newDuplex()
	p.connect <- near
	expect(t, far, words[len(first):n])
	far.Close()
	app.Close()
	<-served
}
