package socks

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/adit-net/adit/tunnel/relay"
)

func TestDoorRelaysBothWaysUntilBothEnd(t *testing.T) {
	target := listen(t, "127.0.0.1:0")
	app := through(t, openDoor(t, &Door{Relay: direct{}}), target.Addr().String())
	far := accept(t, target)
	send(t, app, "up")
	expect(t, far, "up")
	app.CloseWrite()
	expectEnd(t, far)
	send(t, far, "down after the other end")
	expect(t, app, "down after the other end")
	far.CloseWrite()
	expectEnd(t, app)
}

func TestDoorPassesResetsOn(t *testing.T) {
	door := openDoor(t, &Door{Relay: direct{}})
	target := listen(t, "127.0.0.1:0")
	for _, appResets := range []bool{true, false} {
		app := through(t, door, target.Addr().String())
		far := accept(t, target)
		near, other := app, far
		if !appResets {
			near, other = far, app
		}
		near.SetLinger(0)
		near.Close()
		expectReset(t, other)
	}
}

func TestDoorServesUnixSockets(t *testing.T) {
	ln, err := ListenUnix(filepath.Join(t.TempDir(), "door"))
	if err != nil {
		t.Fatal(err)
	}
	serve(t, &Door{Relay: direct{}}, ln)
	target := listen(t, "127.0.0.1:0")
	app, err := net.Dial("unix", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer app.Close()
	app.SetDeadline(time.Now().Add(patience))
	send(t, app, "\x05\x01\x00"+request5(t, target.Addr().String())+"early")
	far := accept(t, target)
	expect(t, far, "early")
	app.(*net.UnixConn).CloseWrite()
	expectEnd(t, far)
	send(t, far, "late")
	far.CloseWrite()
	expect(t, app, "\x05\x00\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00late")
	expectEnd(t, app)
}

func TestAnswersToManyBytesArrive(t *testing.T) {
	door := openDoor(t, &Door{Relay: never{t: t}})
	for sends, want := range map[string]string{
		"\x05\x01\x00\x05\x0a\x00\x01\x00\x00\x00\x00\x00\x00": "\x05\x00\x05\x07\x00\x01\x00\x00\x00\x00\x00\x00",
		"\x05\x01\x09":                         "\x05\xff",
		"\x04\x0a\x00\x50\x01\x02\x03\x04\x00": "\x00\x5b\x00\x00\x00\x00\x00\x00",
	} {
		app := dial(t, door)
		// More than the door reads ahead: a close would reset the connection.
		send(t, app, sends+strings.Repeat("x", dismissBytes/2))
		expect(t, app, want)
		expectEnd(t, app)
		// Nor does the door close while the app may not have read the answer.
		for range 3 {
			send(t, app, "more")
		}
	}
}

// connecting starts requests that the relay does not answer, in each dialect.
var connecting = map[string]string{
	"SOCKS 4":      "\x04\x01\x00\x50\x01\x02\x03\x04\x00",
	"SOCKS 5":      "\x05\x01\x00\x05\x01\x00\x01\x01\x02\x03\x04\x00\x50",
	"HTTP CONNECT": "CONNECT 1.2.3.4:80 HTTP/1.1\r\n\r\n",
	"HTTP":         "GET http://1.2.3.4/ HTTP/1.1\r\nHost: 1.2.3.4\r\n\r\n",
}

func TestRequestsEndWithTheirApp(t *testing.T) {
	for dialect, request := range connecting {
		for _, reset := range []bool{true, false} {
			p := newPatient()
			app := dial(t, openDoor(t, &Door{Relay: p}))
			send(t, app, request)
			if q := receive(t, p.asked); q.Dialect.String() != dialect {
				t.Errorf("the relay is asked in %v, want %v", q.Dialect, dialect)
			}
			if reset {
				app.SetLinger(0)
			}
			app.Close()
			receive(t, p.gaveUp)
		}
	}
}

func TestRequestsEndWithTheDoor(t *testing.T) {
	for dialect, request := range connecting {
		p := newPatient()
		ln := listen(t, "127.0.0.1:0")
		ctx, cancel := context.WithCancel(t.Context())
		served := make(chan error, 1)
		go func() { served <- (&Door{Relay: p, Admission: Admission{Anyone: true}}).Serve(ctx, ln) }()
		app := dial(t, ln.Addr().String())
		send(t, app, request)
		receive(t, p.asked)
		cancel()
		receive(t, p.gaveUp)
		if err := receive(t, served); err != nil {
			t.Errorf("%s: Serve: %v", dialect, err)
		}
		if _, err := io.ReadAll(app); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: the app's connection is left open", dialect)
		}
	}
}

// settling is a relay that connects when nobody has anything left to do.
type settling struct{ recorder }

func (s *settling) Connect(ctx context.Context, r Request) (relay.Conn, Reply, error) {
	time.Sleep(time.Second) // of a bubble's time
	if err := context.Cause(ctx); err != nil {
		return nil, Reply{}, err
	}
	return s.recorder.Connect(ctx, r)
}

func TestAnEndBehindDataIsNoFarewell(t *testing.T) {
	for _, dialect := range []string{"SOCKS 4", "SOCKS 5", "HTTP CONNECT"} {
		for data, want := range map[string]int{"data": 1, "": 0} {
			synctest.Test(t, func(t *testing.T) {
				r := new(settling)
				app := newScript([]byte(connecting[dialect] + data))
				app.end()
				ln := newOneListener(app)
				ctx, cancel := context.WithCancel(t.Context())
				var served sync.WaitGroup
				served.Go(func() { _ = (&Door{Relay: r, Admission: Admission{Anyone: true}}).Serve(ctx, ln) })
				time.Sleep(2 * time.Second)
				if n := len(r.requests()); n != want {
					t.Errorf("%s with %q behind: %d connections, want %d", dialect, data, n, want)
				}
				cancel()
				served.Wait()
			})
		}
	}
}

func TestDataWithItsEndReachesTheTarget(t *testing.T) {
	for _, dialect := range []string{"SOCKS 4", "SOCKS 5", "HTTP CONNECT"} {
		p := newPatient()
		app := dial(t, openDoor(t, &Door{Relay: p}))
		send(t, app, connecting[dialect]+"data")
		app.CloseWrite()
		receive(t, p.asked)
		s := newSink(nil)
		p.connect <- s
		answer, err := io.ReadAll(app)
		if err != nil || s.all() != "data" {
			t.Errorf("%s: the app reads %q (%v), the target %q", dialect, answer, err, s.all())
		}
	}
}

func TestDataBeforeTheAnswerGoesToTheTargetFirst(t *testing.T) {
	early := strings.Repeat("early ", 50_000) // more than the door holds
	for _, dialect := range []string{"SOCKS 4", "SOCKS 5", "HTTP CONNECT"} {
		p := newPatient()
		app := dial(t, openDoor(t, &Door{Relay: p}))
		var sent sync.WaitGroup
		sent.Go(func() {
			_, _ = io.WriteString(app, connecting[dialect]+early+"late")
			app.CloseWrite()
		})
		receive(t, p.asked)
		s := newSink(nil)
		p.connect <- s
		_, err := io.ReadAll(app)
		sent.Wait()
		if err != nil || s.all() != early+"late" {
			t.Errorf("%s: the target gets %d bytes (%v), want %d", dialect, len(s.all()), err, len(early)+4)
		}
	}
}

// stuckAt are states in which an app may stop.
var stuckAt = map[string]string{
	"before the greeting":    "",
	"within the greeting":    "\x05\x02\x00",
	"after the greeting":     "\x05\x01\x02",
	"within the login":       "\x05\x01\x02\x01\x04fr",
	"within the request":     "\x05\x01\x02\x01\x04fred\x06secret\x05\x01\x00\x03\x0bexam",
	"within SOCKS 4":         "\x04\x01",
	"within a SOCKS 4 user":  "\x04\x01\x00\x50\x01\x02\x03\x04fred",
	"within HTTP":            "CONNECT exam",
	"within an HTTP header":  "CONNECT example.com:80 HTTP/1.1\r\nUser-Ag",
	"within a body":          "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc",
	"within a body, no pass": "POST http://a/ HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc",
}

func TestSilentAppsDelayNobodyAndAreClosed(t *testing.T) {
	target := listen(t, "127.0.0.1:0")
	d := &Door{Relay: direct{}, HandshakeTimeout: time.Second}
	d.Admission.Authenticate = Password("fred", "secret")
	door := openDoor(t, d)
	var silent []net.Conn
	for _, sends := range stuckAt {
		for range 20 {
			c := dial(t, door)
			send(t, c, sends)
			silent = append(silent, c)
		}
	}
	began := time.Now()
	app := dial(t, door)
	send(t, app, "\x05\x01\x02\x01\x04fred\x06secret"+request5(t, target.Addr().String()))
	far := accept(t, target)
	send(t, far, "hello")
	expect(t, app, "\x05\x02\x01\x00\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00hello")
	if took := time.Since(began); took > d.HandshakeTimeout/2 {
		t.Errorf("a good app waits %v behind %d silent ones", took, len(silent))
	}
	for _, c := range silent {
		// It is enough that the connection ends, within patience.
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("a silent app is not closed")
		}
	}
	send(t, app, "still here")
	expect(t, far, "still here")
}

func TestAppsThatDawdleAreClosedInTime(t *testing.T) {
	for name, sends := range stuckAt {
		for _, reads := range []bool{true, false} {
			synctest.Test(t, func(t *testing.T) {
				near, far := newDuplex()
				d := &Door{Relay: never{t: t}}
				d.Admission.Authenticate = Password("fred", "secret")
				ctx, cancel := context.WithCancel(t.Context())
				var others sync.WaitGroup
				others.Go(func() { _ = d.Serve(ctx, newOneListener(near)) })
				if reads {
					others.Go(func() { _, _ = io.Copy(io.Discard, far) })
				}
				began := time.Now()
				// A byte every second, again and again, until the door has enough.
				for i := 0; ; i++ {
					if _, err := far.Write([]byte(sends + " ")[i%(len(sends)+1):][:1]); err != nil {
						break
					}
					time.Sleep(time.Second)
				}
				// An answer and a body that does not come may take their own time.
				if took := time.Since(began); took > 3*DefaultHandshakeTimeout {
					t.Errorf("%s, reads %v: the app is closed after %v", name, reads, took)
				}
				far.Close()
				cancel()
				others.Wait()
			})
		}
	}
}

func TestServeResetsWhatItRelaysWhenItsContextEnds(t *testing.T) {
	for name, wait := range map[string]time.Duration{"busy": 0, "idle": 300 * time.Millisecond} {
		target, ln := listen(t, "127.0.0.1:0"), listen(t, "127.0.0.1:0")
		ctx, cancel := context.WithCancel(t.Context())
		served := make(chan error, 1)
		go func() { served <- (&Door{Relay: direct{}, Admission: Admission{Anyone: true}}).Serve(ctx, ln) }()
		app := through(t, ln.Addr().String(), target.Addr().String())
		far := accept(t, target)
		send(t, app, name)
		expect(t, far, name)
		time.Sleep(wait)
		select {
		case err := <-served:
			t.Errorf("%s: Serve returns while something is relayed: %v", name, err)
		default:
		}
		cancel()
		expectReset(t, app)
		expectReset(t, far)
		if err := receive(t, served); err != nil {
			t.Errorf("%s: Serve: %v", name, err)
		}
	}
}

func TestServeLetsAppsEndWhenItsListenerIsClosed(t *testing.T) {
	target, ln := listen(t, "127.0.0.1:0"), listen(t, "127.0.0.1:0")
	served := make(chan error, 1)
	go func() { served <- (&Door{Relay: direct{}, Admission: Admission{Anyone: true}}).Serve(t.Context(), ln) }()
	app := through(t, ln.Addr().String(), target.Addr().String())
	far := accept(t, target)
	ln.Close()
	send(t, app, "still here")
	expect(t, far, "still here")
	select {
	case err := <-served:
		t.Fatalf("Serve returns (%v) before its apps have ended", err)
	default:
	}
	app.CloseWrite()
	far.CloseWrite()
	if err := receive(t, served); err != nil {
		t.Errorf("Serve: %v", err)
	}
}

func TestDoorTurnsAwayMoreAppsThanItTakes(t *testing.T) {
	target := listen(t, "127.0.0.1:0")
	door := openDoor(t, &Door{Relay: direct{}, MaxConns: 1})
	app := through(t, door, target.Addr().String())
	far := accept(t, target)
	second := dial(t, door)
	if b, err := io.ReadAll(second); len(b) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the second app reads %q (%v)", b, err)
	}
	send(t, app, "first")
	expect(t, far, "first")
	app.CloseWrite()
	far.CloseWrite()
	expectEnd(t, app)
	// The place is free a moment after the app has seen the end.
	for began := time.Now(); ; {
		c := dial(t, door)
		send(t, c, "\x05\x01\x00")
		if _, err := io.ReadFull(c, make([]byte, 2)); err == nil {
			return
		}
		if time.Since(began) > patience {
			t.Fatal("the place of an app that has ended is never free")
		}
	}
}

// shortListener fails for a while for want of file descriptors.
type shortListener struct {
	net.Listener
	fails int
	err   error
	tries []time.Time
}

func (l *shortListener) Accept() (net.Conn, error) {
	l.tries = append(l.tries, time.Now())
	if len(l.tries) > l.fails {
		return nil, net.ErrClosed
	}
	return nil, &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", l.err)}
}

func (l *shortListener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }
func (l *shortListener) Close() error   { return nil }

func TestDoorWaitsWhenThereAreNoFileDescriptors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log lines
		d := &Door{Relay: never{t: t}, Log: slog.New(slog.NewTextHandler(&log, nil))}
		d.Admission.Anyone = true
		ln := &shortListener{fails: 12, err: exhausted[0]}
		if err := d.Serve(t.Context(), ln); err != nil {
			t.Errorf("Serve: %v", err)
		}
		for i, want := 1, 5*time.Millisecond; i < len(ln.tries); i, want = i+1, min(2*want, time.Second) {
			if pause := ln.tries[i].Sub(ln.tries[i-1]); pause != want {
				t.Errorf("pause %d takes %v, want %v", i, pause, want)
			}
		}
		if !log.contain("cannot accept") {
			t.Error("nothing is logged")
		}
	})
}

func TestServeFailsWithItsListener(t *testing.T) {
	d := &Door{Relay: never{t: t}, Admission: Admission{Anyone: true}}
	broken := errors.New("broken")
	if err := d.Serve(t.Context(), &shortListener{fails: 1, err: broken}); !errors.Is(err, broken) {
		t.Errorf("Serve: %v", err)
	}
}

func TestAppsKeepARelayConnThatSucceedsTooLateFromLeaking(t *testing.T) {
	p := newPatient()
	near, far := newDuplex()
	late := stubborn{p, far}
	app := dial(t, openDoor(t, &Door{Relay: late}))
	send(t, app, connecting["SOCKS 5"])
	receive(t, p.asked)
	app.Close()
	receive(t, p.gaveUp)
	near.SetDeadline(time.Now().Add(patience))
	if _, err := near.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the target reads %v, want the end", err)
	}
}

// stubborn is a relay that succeeds although it was told to give up.
type stubborn struct {
	*patient
	conn relay.Conn
}

func (s stubborn) Connect(ctx context.Context, r Request) (relay.Conn, Reply, error) {
	_, _, _ = s.patient.Connect(ctx, r)
	return s.conn, Reply{}, nil
}
