package wan

import (
	"bytes"
	"context"
	"io"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// device is a machine's end of a link, in memory.
type device struct {
	sent   chan []byte // by the machine
	got    chan []byte
	closed chan struct{}
}

func newDevice() *device {
	return &device{sent: make(chan []byte), got: make(chan []byte, 100), closed: make(chan struct{})}
}

func (d *device) Read(p []byte) (int, error) {
	select {
	case b := <-d.sent:
		return copy(p, b), nil
	case <-d.closed:
		return 0, io.EOF
	}
}

func (d *device) Write(p []byte) (int, error) {
	d.got <- bytes.Clone(p)
	return len(p), nil
}

func (d *device) Close() error { close(d.closed); return nil }

// run calls f in a bubble with a link that is served.
func run(t *testing.T, c Config, f func(t *testing.T, l *Link, a, b *device)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		a, b := newDevice(), newDevice()
		l := New(a, b, c)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- l.Serve(ctx) }()
		f(t, l, a, b)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestLinkTakesTheTimeOfItsRateAndDelay(t *testing.T) {
	run(t, Config{Rate: 1_000_000, Delay: 25 * time.Millisecond}, func(t *testing.T, _ *Link, a, b *device) {
		began := time.Now()
		for range 3 {
			a.sent <- make([]byte, 1250) // 10 ms each
		}
		b.sent <- make([]byte, 125) // the other direction is free
		for i, want := range []time.Duration{35, 45, 55} {
			<-b.got
			if took := time.Since(began); took != want*time.Millisecond {
				t.Errorf("packet %d came after %v, want %v ms", i, took, want)
			}
		}
		if len(a.got) != 1 {
			t.Errorf("%d packets came back, want 1", len(a.got))
		}
	})
}

func TestLinkLosesWhatItsQueueCannotHold(t *testing.T) {
	run(t, Config{Rate: 1_000_000, Queue: 2500}, func(t *testing.T, _ *Link, a, b *device) {
		for range 10 {
			a.sent <- make([]byte, 1250)
		}
		time.Sleep(time.Second)
		if n := len(b.got); n != 3 { // one on the wire, two behind it
			t.Errorf("%d packets arrived, want 3", n)
		}
	})
}

func TestLinkThatIsDownLosesAlsoWhatIsUnderWay(t *testing.T) {
	run(t, Config{Delay: 10 * time.Millisecond}, func(t *testing.T, l *Link, a, b *device) {
		a.sent <- []byte("under way")
		synctest.Wait()
		l.SetUp(false)
		b.sent <- []byte("too late")
		time.Sleep(time.Second)
		l.SetUp(true)
		a.sent <- []byte("again")
		if got := <-b.got; string(got) != "again" {
			t.Errorf("%q arrived", got)
		}
		if len(a.got) > 0 {
			t.Errorf("%q arrived", <-a.got)
		}
	})
}

func TestBlockedProtocolIsLostAloneAndSilently(t *testing.T) {
	for name, f := range map[string]flow{"IPv4": ours4, "IPv6": ours6} {
		t.Run(name, func(t *testing.T) {
			run(t, Config{Delay: 10 * time.Millisecond}, func(t *testing.T, l *Link, a, b *device) {
				tcp := segment{flow: f, flags: flagSYN}.packet()
				udp := bytes.Clone(tcp)
				if f == ours4 {
					udp[9] = byte(UDP)
				} else {
					udp[6] = byte(UDP)
				}
				a.sent <- tcp
				synctest.Wait()
				l.Block(TCP) // while that one is under way
				for _, p := range [][]byte{tcp, udp, []byte("what is this")} {
					a.sent <- p
				}
				time.Sleep(time.Second)
				l.Block(UDP)
				for _, p := range [][]byte{udp, tcp} {
					a.sent <- p
				}
				time.Sleep(time.Second)
				l.Block(Nothing)
				a.sent <- udp
				time.Sleep(time.Second)
				for i, want := range [][]byte{udp, []byte("what is this"), tcp, udp} {
					if len(b.got) == 0 {
						t.Fatalf("packet %d has not arrived", i)
					}
					if got := <-b.got; !bytes.Equal(got, want) {
						t.Errorf("packet %d is %x, want %x", i, got, want)
					}
				}
				if len(a.got)+len(b.got) > 0 {
					t.Error("something else arrived")
				}
			})
		})
	}
}

// ours is a connection from device a, whose bytes are at 1000, to device b,
// whose bytes are at 5000.
var (
	ours4 = flow{from: netip.MustParseAddrPort("10.77.3.1:40000"), to: netip.MustParseAddrPort("10.77.3.2:443")}
	ours6 = flow{from: netip.MustParseAddrPort("[fd77:3::1]:40000"), to: netip.MustParseAddrPort("[fd77:3::2]:443")}
)

func establish(t *testing.T, f flow, a, b *device) {
	t.Helper()
	for _, s := range []segment{
		{flow: f, seq: 1000, flags: flagSYN},
		{flow: f.reverse(), seq: 5000, ack: 1001, flags: flagSYN | flagACK},
		{flow: f, seq: 1001, ack: 5001, flags: flagACK},
	} {
		from, to := a, b
		if s.from != f.from {
			from, to = b, a
		}
		from.sent <- s.packet()
		if got, ok := parseSegment(<-to.got); !ok || got != s {
			t.Fatalf("%+v arrived as %+v", s, got)
		}
	}
}

func TestEndedConnectionEndsAtTheByteThatEachSideWaitsFor(t *testing.T) {
	for name, test := range map[string]struct {
		how   Ending
		flags byte
	}{
		"reset":  {Reset, flagRST | flagACK},
		"finish": {Finish, flagFIN | flagACK},
	} {
		for _, f := range []flow{ours4, ours6} {
			t.Run(name+" "+f.from.String(), func(t *testing.T) {
				run(t, Config{}, func(t *testing.T, l *Link, a, b *device) {
					establish(t, f, a, b)
					if n := l.Connections(); n != 1 {
						t.Errorf("%d connections, want 1", n)
					}
					if n := l.End(test.how); n != 1 {
						t.Errorf("%d connections ended, want 1", n)
					}
					want := segment{flow: f.reverse(), seq: 5001, ack: 1001, flags: test.flags}
					if got, _ := parseSegment(<-a.got); got != want {
						t.Errorf("a got %+v, want %+v", got, want)
					}
					want = segment{flow: f, seq: 1001, ack: 5001, flags: test.flags}
					if got, _ := parseSegment(<-b.got); got != want {
						t.Errorf("b got %+v, want %+v", got, want)
					}
					if n := l.Connections() + l.End(test.how); n != 0 {
						t.Errorf("%d connections after the end", n)
					}
				})
			})
		}
	}
}

func TestNewestConnectionEndsAlone(t *testing.T) {
	run(t, Config{}, func(t *testing.T, l *Link, a, b *device) {
		if n := l.EndNewest(Reset); n != 0 {
			t.Errorf("%d connections ended, want none", n)
		}
		establish(t, ours6, a, b)
		establish(t, ours4, a, b)
		if n := l.EndNewest(Reset); n != 1 || l.Connections() != 1 {
			t.Errorf("%d connections ended, %d are left; want 1 and 1", n, l.Connections())
		}
		if got, _ := parseSegment(<-a.got); got.flow != ours4.reverse() || got.flags != flagRST|flagACK {
			t.Errorf("a got %+v", got)
		}
	})
}

func TestLossyLinkLosesItsShare(t *testing.T) {
	run(t, Config{Loss: 0.25}, func(t *testing.T, _ *Link, a, b *device) {
		arrived := 0
		for range 2000 {
			a.sent <- make([]byte, 100)
			synctest.Wait()
			arrived += len(b.got)
			for len(b.got) > 0 {
				<-b.got
			}
		}
		if arrived < 1400 || arrived > 1600 { // five standard deviations
			t.Errorf("%d of 2000 packets arrived, want about 1500", arrived)
		}
	})
}

func TestSideThatAcknowledgesLateIsToldAgain(t *testing.T) {
	for name, how := range map[string]Ending{"reset": Reset, "finish": Finish} {
		t.Run(name, func(t *testing.T) {
			run(t, Config{}, func(t *testing.T, l *Link, a, b *device) {
				establish(t, ours4, a, b)
				l.End(how)
				<-a.got
				<-b.got
				// b had 500 bytes more than it had acknowledged.
				b.sent <- segment{flow: ours4.reverse(), seq: 5001, ack: 1501, flags: flagACK}.packet()
				if got, _ := parseSegment(<-b.got); got.seq != 1501 || got.ack != 5001 {
					t.Errorf("b got %+v, want it at 1501", got)
				}
				if how == Finish {
					b.sent <- segment{flow: ours4.reverse(), seq: 5001, ack: 1502, flags: flagACK}.packet()
				} else {
					b.sent <- segment{flow: ours4.reverse(), seq: 5001, flags: flagRST}.packet()
				}
				synctest.Wait()
				if len(a.got)+len(b.got) > 0 {
					t.Error("something crossed a connection that has ended")
				}
			})
		})
	}
}

func TestNewConnectionOnTheSameAddressesGoesThrough(t *testing.T) {
	run(t, Config{}, func(t *testing.T, l *Link, a, b *device) {
		establish(t, ours4, a, b)
		l.End(Finish)
		<-a.got
		<-b.got
		establish(t, ours4, a, b)
	})
}

func TestConnectionThatEndsByItselfIsForgotten(t *testing.T) {
	run(t, Config{}, func(t *testing.T, l *Link, a, b *device) {
		establish(t, ours4, a, b)
		a.sent <- segment{flow: ours4, seq: 1001, ack: 5001, flags: flagFIN | flagACK}.packet()
		b.sent <- segment{flow: ours4.reverse(), seq: 5001, ack: 1002, flags: flagFIN | flagACK}.packet()
		a.sent <- segment{flow: ours4, seq: 1002, ack: 5002, flags: flagACK}.packet()
		<-a.got
		<-b.got
		<-b.got
		if n := l.Connections(); n != 0 {
			t.Errorf("%d connections, want none", n)
		}
	})
}

// What comes out of the kernel's checks is in the end-to-end tests.
func TestChecksumsAddUp(t *testing.T) {
	for _, f := range []flow{ours4, ours6} {
		p := segment{flow: f, seq: 0xfffffffe, ack: 7, flags: flagRST}.packet()
		addresses := append(f.from.Addr().AsSlice(), f.to.Addr().AsSlice()...)
		if f == ours4 && checksum(p[:header4]) != 0 {
			t.Error("wrong checksum of the IPv4 header")
		}
		if checksum(addresses, []byte{0, protocolTCP, 0, headerTCP}, p[len(p)-headerTCP:]) != 0 {
			t.Error("wrong checksum of", f)
		}
	}
}

func FuzzSegment(f *testing.F) {
	f.Add(segment{flow: ours4, seq: 1, ack: 2, flags: flagACK}.packet())
	f.Add(segment{flow: ours6, seq: 1, ack: 2, flags: flagFIN}.packet())
	f.Add([]byte{0x4f})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, ok := parseSegment(b)
		if !ok {
			return
		}
		if again, ok := parseSegment(s.packet()); !ok || again != s {
			t.Errorf("%+v becomes %+v", s, again)
		}
	})
}
