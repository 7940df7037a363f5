package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/adit-net/adit/tunnel"
)

func someArrival() tunnel.Arrival {
	return tunnel.Arrival{
		Opening:    make([]byte, tunnel.OpeningSize),
		Place:      tunnel.Place{Server: [32]byte{1}, Carrier: [32]byte{2}},
		Local:      netip.MustParseAddrPort("[2001:db8::1]:443"),
		Remote:     netip.MustParseAddrPort("[2001:db8::7]:4711"),
		Protection: tunnel.Protection{Carrier: "tls", Version: "TLS 1.3", Cipher: "TLS_AES_128_GCM_SHA256", KeyExchange: "X25519MLKEM768", Fingerprint: "go"},
		WireGuard:  [32]byte{3},
	}
}

func TestArrivalIsTheSameAfterItsWay(t *testing.T) {
	a := someArrival()
	for _, v := range []reflect.Value{reflect.ValueOf(a), reflect.ValueOf(a.Place), reflect.ValueOf(a.Protection)} {
		for i := range v.NumField() {
			// What protects the path each process sees for itself, and whether it is kept is said beside.
			if name := v.Type().Field(i).Name; v.Field(i).IsZero() && name != "Below" && name != "Keep" {
				t.Errorf("the field %s proves nothing", v.Type().Field(i).Name)
			}
		}
	}
	for _, kept := range []bool{false, true} {
		message, err := packArrival(a, kept)
		if err != nil {
			t.Fatal(err)
		}
		got, err := unpackArrival(message)
		if err != nil || (got.Keep() == nil) != kept {
			t.Errorf("it arrives as %+v, %v", got, err)
		}
		if got.Keep = nil; !reflect.DeepEqual(got, a) {
			t.Errorf("it arrives as %+v", got)
		}
		if len(message) > maxArrival/2 {
			t.Errorf("it has %d bytes", len(message))
		}
	}
}

func FuzzArrival(f *testing.F) {
	message, err := packArrival(someArrival(), true)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(message)
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"opening":"AAAA","server":null,"remote":"nowhere"}`))
	f.Fuzz(func(t *testing.T, message []byte) {
		a, err := unpackArrival(message)
		if err != nil {
			if !errors.Is(err, errArrival) {
				t.Error(err)
			}
			return
		}
		if len(a.Opening) != tunnel.OpeningSize || len(message) > maxArrival {
			t.Errorf("%d bytes of opening out of %d", len(a.Opening), len(message))
		}
		again, err := packArrival(a, a.Keep() == nil)
		if err != nil {
			t.Fatal(err)
		}
		b, err := unpackArrival(again)
		a.Keep, b.Keep = nil, nil
		if len(again) <= maxArrival && (err != nil || !reflect.DeepEqual(a, b)) {
			t.Errorf("%+v becomes %+v, %v", a, b, err)
		}
	})
}

// elder is an older process in this one.
type elder struct {
	judges func(w http.ResponseWriter) // nil: it knows nothing
	asked  atomic.Int64
}

// start lets it answer at a slot of a directory until the test ends or stop.
func (e *elder) start(t *testing.T, dir string, slot int) (stop func()) {
	t.Helper()
	ln, err := listenPrivate(elderSocket(dir, slot))
	if err != nil {
		t.Fatal(err)
	}
	lock, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	a := &admin{listener: ln, lock: lock}
	p := &serverProcess{succession: newSuccession()}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() {
		served <- a.serve(ctx, func() any { return newReport(serverKind, time.Now()) },
			route{"POST /follow", func(w http.ResponseWriter, _ *http.Request) { p.answerFollow(ctx, w) }},
			route{"POST /judge", func(w http.ResponseWriter, r *http.Request) {
				e.asked.Add(1)
				if _, err := readArrival(w, r); err != nil {
					t.Error(err)
				}
				if e.judges == nil {
					reply(w, verdict{})
					return
				}
				e.judges(w)
			}},
			route{"POST /carry", func(w http.ResponseWriter, r *http.Request) {
				if conn := switchOver(w); conn != nil {
					defer conn.Close()
					_, _ = io.Copy(conn, conn)
				}
			}})
	}()
	ended := false
	stop = func() {
		if ended {
			return
		}
		ended = true
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return stop
}

func TestCarrierGoesToTheOlderProcessThatKnowsItsSession(t *testing.T) {
	dir := t.TempDir()
	welcome := tunnel.Welcome{Session: [16]byte{1}, Epoch: 2}.Bytes()
	ignorant, knowing := &elder{}, &elder{judges: func(w http.ResponseWriter) { reply(w, verdict{Answer: welcome}) }}
	ignorant.start(t, dir, 0)
	knowing.start(t, dir, 3)
	if err := os.WriteFile(elderSocket(dir, 5), nil, 0o600); err != nil { // no socket at all: nobody is there
		t.Fatal(err)
	}
	e, err := followElders(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if n := len(e.sockets()); n != 2 {
		t.Errorf("it follows %d", n)
	}
	answer, serve := e.admit(t.Context(), someArrival())
	if !slices.Equal(answer, welcome) || serve == nil {
		t.Fatalf("the answer is %x", answer)
	}
	near, far := net.Pipe()
	served := make(chan struct{})
	go func() {
		defer close(served)
		serve(t.Context(), far)
	}()
	if err := near.SetDeadline(time.Now().Add(scriptLimit)); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5)
	if _, err := io.WriteString(near, "hello"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(near, got); err != nil || string(got) != "hello" {
		t.Errorf("%q comes back, %v", got, err)
	}
	near.Close()
	<-served
}

func TestOlderProcessThatCannotSayLetsClientsComeAgain(t *testing.T) {
	dir := t.TempDir()
	confused := &elder{judges: func(w http.ResponseWriter) { http.Error(w, "no", http.StatusInternalServerError) }}
	ignorant := &elder{}
	stop := confused.start(t, dir, 0)
	ignorant.start(t, dir, 1)
	e, err := followElders(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- e.serve(ctx) }()
	if answer, serve := e.admit(t.Context(), someArrival()); !refused(answer, tunnel.RefusedBusy) || serve != nil {
		t.Errorf("the answer is %x", answer)
	}
	// Once it has ended, the other one's word is enough.
	stop()
	if answer, _ := e.admit(t.Context(), someArrival()); answer != nil {
		t.Errorf("the answer is %x", answer)
	}
	for end := time.Now().Add(scriptLimit); len(e.sockets()) > 1 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if got := e.sockets(); !slices.Equal(got, []string{elderSocket(dir, 1)}) {
		t.Errorf("it follows %v", got)
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func TestSocketsOfDeadProcessesAreRemoved(t *testing.T) {
	dir := t.TempDir()
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: elderSocket(dir, 2), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false)
	ln.Close()
	e, err := followElders(t.Context(), dir)
	if err != nil || len(e.sockets()) != 0 {
		t.Errorf("it follows %v, %v", e.sockets(), err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("%v are left", left)
	}
}

func TestNinthOlderProcessIsOneTooMany(t *testing.T) {
	dir := t.TempDir()
	var stop func()
	for slot := range maxElders {
		if got, err := freeSlot(dir); err != nil || got != elderSocket(dir, slot) {
			t.Fatalf("slot %s, %v", got, err)
		}
		stop = (&elder{}).start(t, dir, slot)
	}
	if got, err := freeSlot(dir); err == nil {
		t.Errorf("slot %s", got)
	}
	stop()
	if got, err := freeSlot(dir); err != nil || got != elderSocket(dir, maxElders-1) {
		t.Errorf("slot %s, %v", got, err)
	}
}

func TestOldProcessEndsWhenItIsTold(t *testing.T) {
	const limit = time.Minute
	stay := func(ctx context.Context) { <-ctx.Done() }
	for name, test := range map[string]struct {
		drain func(context.Context)
		life  func(s *succession, stop func())
		after time.Duration
	}{
		"its last session is over": {
			drain: func(context.Context) { time.Sleep(time.Hour) },
			after: time.Hour,
		},
		"it is told to stop": {
			drain: stay,
			life:  func(_ *succession, stop func()) { time.Sleep(time.Second); stop() },
			after: time.Second + limit,
		},
		"nobody follows": {
			drain: stay,
			life:  func(s *succession, _ func()) { time.Sleep(time.Second); s.follow(-1) },
			after: time.Second + limit,
		},
		"somebody follows again, and then nobody": {
			drain: stay,
			life: func(s *succession, _ func()) {
				s.follow(-1)
				time.Sleep(limit - time.Second)
				s.follow(1)
				time.Sleep(2 * limit)
				s.follow(1)
				s.follow(-1)
				time.Sleep(limit)
				s.follow(-1)
			},
			after: 5*limit - time.Second,
		},
		"it is told to stop, and somebody comes": {
			drain: stay,
			life: func(s *succession, stop func()) {
				s.follow(-1)
				stop()
				time.Sleep(time.Second)
				s.follow(1)
			},
			after: limit,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSuccession()
				s.follow(1)
				stop, cancel := context.WithCancel(t.Context())
				defer cancel()
				if test.life != nil {
					go test.life(s, cancel)
				}
				began := time.Now()
				s.linger(stop, t.Context(), test.drain, limit)
				if took := time.Since(began); took != test.after {
					t.Errorf("it ends after %v, want %v", took, test.after)
				}
			})
		})
	}
}

func TestListenersThatFitAreUsed(t *testing.T) {
	ctx := t.Context()
	have, err := listen(ctx, []string{"127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(have)
	on := []string{have[1].Addr().String(), "127.0.0.2:0", "127.0.0.1:0"}
	all, rest, err := listenAmong(ctx, on, false, have)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(all)
	if all[0] != have[1] || all[2] != have[0] || slices.Contains(have, all[1]) || !slices.Equal(rest, have[2:]) {
		t.Errorf("of %v it uses %v, and leaves %v", addresses(have), addresses(all), addresses(rest))
	}
	// What was there stays open if another address fails.
	if _, _, err := listenAmong(ctx, []string{on[0], "192.0.2.1:1"}, false, have); err == nil {
		t.Error("it listens on an address of somebody else's")
	}
	if c, err := net.Dial("tcp", on[0]); err != nil {
		t.Error(err)
	} else {
		c.Close()
	}
}

func TestAddressesFitAsTheyAreListenedOn(t *testing.T) {
	for _, address := range []string{":0", "127.0.0.1:0", "[::1]:0", "localhost:0"} {
		all, err := listen(t.Context(), []string{address})
		if err != nil {
			t.Fatal(err)
		}
		defer closeAll(all)
		_, port, _ := net.SplitHostPort(all[0].Addr().String())
		host, _, _ := net.SplitHostPort(address)
		for other, want := range map[string]bool{
			address:                      true,
			net.JoinHostPort(host, port): true,
			net.JoinHostPort(host, "1"):  false,
			"192.0.2.1:" + port:          false,
		} {
			if fits(all[0], other) != want {
				t.Errorf("%s fits %s: %v", all[0].Addr(), other, !want)
			}
		}
	}
}

func TestSuccessorGetsNothingThatWasMeantForOneProcess(t *testing.T) {
	got := cleanEnv([]string{"HOME=/root", "LISTEN_PID=7", "LISTEN_FDS=1", "LISTEN_FDNAMES=x", "WATCHDOG_PID=7", "WATCHDOG_USEC=9", handoverEnv + "=lock", "NOTIFY_SOCKET=@x"})
	if want := []string{"HOME=/root", "WATCHDOG_USEC=9", "NOTIFY_SOCKET=@x"}; !slices.Equal(got, want) {
		t.Errorf("it gets %q", got)
	}
}

func TestOwnCommandIsThePathThatWasCalled(t *testing.T) {
	c, err := ownCommand()
	if err != nil {
		t.Fatal(err)
	}
	if want, err := filepath.Abs(os.Args[0]); err != nil || c.path != want || !slices.Equal(c.args, os.Args[1:]) {
		t.Errorf("it is %s %q, want %s", c.path, c.args, want)
	}
}

func TestDemoHasNoSuccessor(t *testing.T) {
	p := &serverProcess{serverOptions: serverOptions{dir: t.TempDir()}, succession: newSuccession()}
	if pid, err := p.upgrade(t.Context()); err == nil || !strings.Contains(err.Error(), "part of another program") {
		t.Errorf("its successor is process %d, %v", pid, err)
	}
}

func TestWhoLeavesSendsCarriersOfUnknownSessionsToTheNext(t *testing.T) {
	p := &serverProcess{succession: newSuccession(), elders: &elders{}}
	if answer, _ := p.elsewhere(t.Context(), someArrival()); answer != nil {
		t.Errorf("nobody else is there, and the answer is %x", answer)
	}
	p.succession.setLeaving(true)
	if answer, serve := p.elsewhere(t.Context(), someArrival()); !refused(answer, tunnel.RefusedSession) || serve != nil {
		t.Errorf("the answer is %x", answer)
	}
}
