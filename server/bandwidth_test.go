package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/adit-net/adit/server/policy"
	"github.com/adit-net/adit/server/shape"
	"github.com/adit-net/adit/server/users"
	"github.com/adit-net/adit/tunnel"
	"github.com/adit-net/adit/tunnel/socks"
)

// allOf allots a ceiling in both directions.
func allOf(ceiling shape.Rate) shape.Allotment {
	return shape.Allotment{{Ceiling: ceiling}, {Ceiling: ceiling}}
}

// flowing is a part that takes all it can get.
type flowing struct {
	*part
	got atomic.Int64
}

func flowsOf(running *sync.WaitGroup, p *part) *flowing {
	f := &flowing{part: p}
	running.Go(func() {
		for {
			n, err := f.PaceRead(64 << 10)
			if err != nil {
				return
			}
			f.got.Add(int64(n))
		}
	})
	return f
}

// expectRate measures for ten seconds.
func expectRate(t *testing.T, what string, want shape.Rate, flows ...*flowing) {
	t.Helper()
	sum := func() (n int64) {
		for _, f := range flows {
			n += f.got.Load()
		}
		return n
	}
	time.Sleep(time.Second)
	before := sum()
	time.Sleep(10 * time.Second)
	if got := float64(sum()-before) * 8 / 10; math.Abs(got-float64(want)) > 0.05*float64(want) {
		t.Errorf("%s: %.0f bit/s, want %v", what, got, want)
	}
}

// expectNothingLeft waits until nobody owes anything.
func expectNothingLeft(t *testing.T, b *bandwidth) {
	t.Helper()
	time.Sleep(time.Second)
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.groups) > 0 {
		t.Errorf("what is left: %v", b.groups)
	}
}

func TestFlowsOfARuleKeepTogetherToWhatItGives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBandwidth(Bandwidth{Total: allOf(100 * shape.Mbit), User: allOf(40 * shape.Mbit)})
		var running sync.WaitGroup
		anna, bert := flowsOf(&running, b.part("anna")), flowsOf(&running, b.part("bert"))
		expectRate(t, "a user", 40*shape.Mbit, anna)
		anna.move("video", allOf(8*shape.Mbit))
		bert.move("video", allOf(8*shape.Mbit))
		expectRate(t, "both by the rule", 8*shape.Mbit, anna, bert)
		expectRate(t, "one by the rule", 4*shape.Mbit, anna)
		b.set(Bandwidth{User: allOf(shape.Mbit)})
		expectRate(t, "with another default", 2*shape.Mbit, anna, bert)
		bert.move("", shape.Allotment{})
		b.set(Bandwidth{Total: allOf(10 * shape.Mbit)})
		expectRate(t, "beside the rule", 5*shape.Mbit, bert)
		anna.close()
		expectRate(t, "alone", 10*shape.Mbit, bert)
		b.setOwn(map[string]users.Rates{"bert": {CeilingDown: new(int64(2 * shape.Mbit))}})
		expectRate(t, "with rates of his own", 2*shape.Mbit, bert)
		b.set(Bandwidth{Total: allOf(10 * shape.Mbit), User: allOf(shape.Mbit)})
		expectRate(t, "with a default that is not his", 2*shape.Mbit, bert)
		b.setOwn(nil)
		expectRate(t, "with the default", shape.Mbit, bert)
		bert.close()
		bert.close()
		bert.move("video", shape.Allotment{})
		running.Wait()
		expectNothingLeft(t, b)
	})
}

func TestAWeightSaysWhatPartOfTheRestIsAUsers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBandwidth(Bandwidth{Total: allOf(8 * shape.Mbit)})
		var running sync.WaitGroup
		anna, bert := flowsOf(&running, b.part("anna")), flowsOf(&running, b.part("bert"))
		b.setOwn(map[string]users.Rates{"anna": {Weight: new(int64(3))}})
		expectRate(t, "with a weight of 3", 6*shape.Mbit, anna)
		expectRate(t, "beside a weight of 3", 2*shape.Mbit, bert)
		b.setOwn(nil)
		expectRate(t, "alike", 4*shape.Mbit, anna)
		anna.close()
		bert.close()
		running.Wait()
		expectNothingLeft(t, b)
	})
}

func TestWhoComesBackAtOnceGetsNoMoreThanWhoStays(t *testing.T) {
	for what, one := range map[string]struct {
		bandwidth Bandwidth
		rule      *policy.Rule
	}{
		"as a user": {Bandwidth{User: allOf(shape.Mbit)}, nil},
		"by a rule": {Bandwidth{}, limitedRule("video", shape.Mbit)},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const size = 60_000
				b, got := newBandwidth(one.bandwidth), 0
				for range 1000 {
					p := b.part("anna")
					p.by(one.rule)
					if p.flow.Try(shape.Down, size) {
						got += size
					}
					p.close()
					time.Sleep(10 * time.Millisecond)
				}
				if most := 10*int(shape.Mbit)/8 + 2*size; got == 0 || got > most {
					t.Errorf("%d bytes pass in 10 s, more than %d", got, most)
				}
				expectNothingLeft(t, b)
			})
		})
	}
}

// It would be no test to say how long it takes at most; but less it must not take.
func TestBytesOfAConnectionWaitForTheirBandwidth(t *testing.T) {
	const size = 300_000
	h := newHouse(t, func(c *Config) { c.Bandwidth.User = allOf(8 * shape.Mbit) })
	g := h.attach(h.device("anna"))
	began := time.Now()
	stream := g.connect(target(t, func(c *net.TCPConn) {
		_, _ = io.Copy(c, c)
		c.CloseWrite()
	}))
	sent := bytes.Repeat([]byte("0123456789"), size/10)
	go func() {
		_, _ = stream.Write(sent)
		stream.CloseWrite()
	}()
	got, err := io.ReadAll(stream)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d bytes come back, %v", len(got), err)
	}
	// What may pass at once in each direction is 25 ms, and a piece.
	if took, least := time.Since(began), 250*time.Millisecond; took < least {
		t.Errorf("it took %v, less than %v", took, least)
	}
}

func TestAConnectionThatWaitsForBandwidthEndsWithItsUser(t *testing.T) {
	h := newHouse(t, func(c *Config) { c.Bandwidth.User = allOf(shape.Kbit) })
	g := h.attach(h.device("anna"))
	gone := make(chan error, 1)
	stream := g.connect(target(t, func(c *net.TCPConn) {
		_, err := io.Copy(io.Discard, c)
		gone <- err
	}))
	if _, err := stream.Write(make([]byte, 10_000)); err != nil {
		t.Fatal(err)
	}
	h.must(h.store.SetUserDisabled(t.Context(), "anna", true))
	if err := receive(t, gone, "the end of the connection"); err == nil {
		t.Error("the target sees a clean end")
	}
}

// broke lets bob in when there is no bandwidth for him for long.
func broke(t *testing.T, policy *policy.Policy) *Visit {
	t.Helper()
	h := newHouse(t, func(c *Config) { c.Bandwidth.User, c.Policy = allOf(shape.Kbit), policy })
	v, err := h.Visit(t.Context(), Visitor{User: "bob"})
	h.must(err)
	t.Cleanup(v.Close)
	debt := h.bandwidth.part("bob")
	t.Cleanup(debt.close)
	if !debt.flow.Try(shape.Up, 100_000) {
		t.Fatal("he has had some already")
	}
	return v
}

// What comes with a request passes nobody's limits, and waits for no longer than who made it.
func TestDataOfARequestWaitsForItsBandwidth(t *testing.T) {
	left := errors.New("the app has left")
	for name, c := range map[string]struct {
		rules *policy.Policy
		end   func(v *Visit, leave context.CancelCauseFunc)
		want  error
		code  socks.Code
	}{
		"until its app leaves":               {nil, func(_ *Visit, leave context.CancelCauseFunc) { leave(left) }, left, socks.GeneralFailure},
		"until its user goes":                {nil, func(v *Visit, _ context.CancelCauseFunc) { v.Close() }, errLeft, socks.NotAllowed},
		"until its app leaves, beside rules": {rules(t, onlyHTTP), func(_ *Visit, leave context.CancelCauseFunc) { leave(left) }, left, socks.GeneralFailure},
	} {
		t.Run(name, func(t *testing.T) {
			v, gone := broke(t, c.rules), make(chan error, 1)
			r := connectTo(t, "127.0.0.1", target(t, func(c *net.TCPConn) {
				_, err := io.Copy(io.Discard, c)
				gone <- err
			}))
			r.Initial = []byte(httpRequest)
			ctx, leave := context.WithCancelCause(t.Context())
			defer leave(nil)
			ended := make(chan error, 1)
			go func() {
				_, _, err := v.Connect(ctx, r)
				ended <- err
			}()
			// With rules it is the connection that waits.
			for deadline := time.Now().Add(patience); !begun(v, c.rules != nil) && time.Now().Before(deadline); {
				time.Sleep(time.Millisecond)
			}
			c.end(v, leave)
			if err := receive(t, ended, "the end of the request"); !errors.Is(err, c.want) || socks.CodeOf(err) != c.code {
				t.Errorf("it ends with %v", err)
			}
			if got := v.Usage(); got.Flows != 0 || got.Up != 0 {
				t.Errorf("it has used %+v", got)
			}
			if c.rules != nil && receive(t, gone, "the end at the target") == nil {
				t.Error("the target sees a clean end")
			}
		})
	}
}

// begun tells whether a visitor has a flow, or one with a connection.
func begun(v *Visit, connected bool) bool {
	for _, f := range v.all() {
		f.mu.Lock()
		defer f.mu.Unlock()
		return !connected || f.line.Connect > 0
	}
	return false
}

func TestDataOfARequestGoesAtOnceWhileThereIsBandwidth(t *testing.T) {
	h := newHouse(t, func(c *Config) { c.Bandwidth.User = shape.Allotment{shape.Up: {Ceiling: shape.Kbit}} })
	v, err := h.Visit(t.Context(), Visitor{User: "bob"})
	h.must(err)
	defer v.Close()
	r := connectTo(t, "127.0.0.1", echoTarget(t))
	r.Initial = bytes.Repeat([]byte("early"), 2000)
	conn, _, err := v.Connect(t.Context(), r)
	h.must(err)
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	back := make([]byte, len(r.Initial))
	if _, err := io.ReadFull(conn, back); err != nil || !bytes.Equal(back, r.Initial) {
		t.Errorf("it comes back as %d bytes, %v", len(back), err)
	}
	other := h.bandwidth.part("bob")
	defer other.close()
	if other.flow.Try(shape.Up, 1) {
		t.Error("what has come with the request does not count")
	}
}

func TestRatesOfAUserHoldForWhatIsOpen(t *testing.T) {
	h := newHouse(t, func(c *Config) { c.Bandwidth.User = allOf(shape.Kbit) })
	g := h.attach(h.device("anna"))
	stream := g.connect(echoTarget(t))
	sent := make([]byte, 100_000)
	go stream.Write(sent)
	h.must(h.store.ChangeRates(t.Context(), "anna", func(r *users.Rates) { r.CeilingUp, r.CeilingDown = new(int64(0)), new(int64(0)) }))
	stream.SetReadDeadline(time.Now().Add(patience))
	if n, err := io.ReadFull(stream, make([]byte, len(sent))); err != nil {
		t.Errorf("%d bytes come back, %v", n, err)
	}
}

func limitedRule(name string, ceiling shape.Rate) *policy.Rule {
	return &policy.Rule{Name: name, Allow: true, Limit: policy.Limit{CeilingUp: int64(ceiling), CeilingDown: int64(ceiling)}}
}

// waits tells whether a part cannot have much at once, twice.
func waits(p *part) bool {
	const much = 1 << 20
	for range 2 {
		if !p.flow.Try(shape.Down, much) {
			return true
		}
	}
	return false
}

func TestAnAssociationIsLimitedByTheFirstRuleThatDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBandwidth(Bandwidth{})
		var running sync.WaitGroup
		p := b.part("anna")
		p.alsoBy(nil)
		p.alsoBy(&policy.Rule{Name: "no limits"})
		if waits(p) {
			t.Error("it is limited by none")
		}
		p.alsoBy(limitedRule("one", 4*shape.Mbit))
		p.alsoBy(nil)
		p.alsoBy(limitedRule("another", 8*shape.Mbit))
		f := flowsOf(&running, p)
		expectRate(t, "by the first", 4*shape.Mbit, f)
		p.alsoBy(limitedRule("one", 2*shape.Mbit))
		expectRate(t, "after a change of it", 2*shape.Mbit, f)
		p.close()
		running.Wait()
		p = b.part("anna")
		defer p.close()
		p.alsoBy(limitedRule("one", 2*shape.Mbit))
		p.by(nil)
		if waits(p) {
			t.Error("it is limited by a rule that there is not")
		}
	})
}

func TestRulesLimitTheirFlowsTogether(t *testing.T) {
	h := newHouse(t, nil)
	anna, bob := h.attach(h.device("anna")), h.attach(h.device("bob"))
	free, port := echoTarget(t), echoTarget(t)
	limited := `[[rule]]
name = "slow"
ports = ["%d"]
then = "allow"
ceiling_up = "%s"
[[rule]]
then = "allow"
`
	h.SetPolicy(rules(t, fmt.Sprintf(limited, port, "1 kbit/s")))
	first, second, other := anna.connect(port), bob.connect(port), anna.connect(free)
	groups := func() map[string]int {
		b := h.bandwidth
		b.mu.Lock()
		defer b.mu.Unlock()
		users := make(map[string]int)
		for name, g := range b.groups {
			for _, u := range g.users {
				if u.flows > 0 {
					users[name]++
				}
			}
		}
		return users
	}
	if got, want := groups(), map[string]int{"": 1, "slow": 2}; !maps.Equal(got, want) {
		t.Errorf("groups have %v users, want %v", got, want)
	}
	exchange(t, other, strings.Repeat("no limit", 5000))
	sent := strings.Repeat("a reload reaches what waits", 500)
	var waiting sync.WaitGroup
	for _, stream := range []*tunnel.Stream{first, second} {
		waiting.Go(func() {
			if err := tryExchange(stream, sent); err != nil {
				t.Error(err)
			}
		})
	}
	h.SetPolicy(rules(t, fmt.Sprintf(limited, port, "1 Gbit/s")))
	waiting.Wait()
	h.SetPolicy(nil)
	if got, want := groups(), map[string]int{"": 2}; !maps.Equal(got, want) {
		t.Errorf("without rules groups have %v users, want %v", got, want)
	}
}

// letters notes what passes a queue.
type letters struct {
	mu     sync.Mutex
	passed []string
}

func (l *letters) pass(batch []socks.Datagram) {
	if !l.mu.TryLock() {
		panic("it is called concurrently")
	}
	defer l.mu.Unlock()
	for _, d := range batch {
		l.passed = append(l.passed, string(d.Payload[:1]))
	}
}

func (l *letters) sum() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.passed)
}

func queueAt(rate shape.Rate) (*datagramQueue, *letters, *part) {
	p := newBandwidth(Bandwidth{User: allOf(rate)}).part("anna")
	l := new(letters)
	return &datagramQueue{part: p, way: shape.Up, pass: l.pass}, l, p
}

func datagramsOf(size int, first ...byte) (batch []socks.Datagram) {
	for _, c := range first {
		batch = append(batch, socks.Datagram{Payload: append([]byte{c}, make([]byte, size-1)...)})
	}
	return batch
}

func TestDatagramsWaitInOrderAndNotForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, l, p := queueAt(100 * shape.Kbit) // 12,500 bytes a second
		batch := datagramsOf(1250, []byte("abcdefghij")...)
		q.put(batch)
		clear(batch[9].Payload) // it is the caller's
		time.Sleep(time.Second)
		synctest.Wait()
		// One more waits for its turn while the others get old.
		want := "abc"
		l.mu.Lock()
		defer l.mu.Unlock()
		got := ""
		for _, c := range l.passed {
			got += c
		}
		if got != want {
			t.Errorf("%q passed, want %q", got, want)
		}
		if q.busy || len(q.waiting) > 0 || q.size != 0 {
			t.Errorf("it is busy: %v, with %d datagrams of %d bytes", q.busy, len(q.waiting), q.size)
		}
		p.close()
		q.end()
	})
}

func TestOnlySoManyDatagramsWait(t *testing.T) {
	for _, test := range []struct{ size, most int }{{10, queueDatagrams}, {10_000, queueBytes / 10_000}} {
		synctest.Test(t, func(t *testing.T) {
			q, l, p := queueAt(shape.Kbit)
			for range 1000 {
				q.put(datagramsOf(test.size, 'x'))
			}
			synctest.Wait()
			if n := len(q.waiting); n > test.most || n < test.most-1 {
				t.Errorf("%d datagrams of %d bytes wait, want %d", n, test.size, test.most)
			}
			p.close()
			q.end()
			before := l.sum()
			q.put(datagramsOf(test.size, 'x'))
			if l.sum() != before || q.busy {
				t.Error("it goes on after its end")
			}
		})
	}
}

func TestDatagramsKeepToTheirRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, l, p := queueAt(shape.Mbit)
		for range 10_000 { // 8 Mbit/s for 10 s
			q.put(datagramsOf(1000, 'x'))
			time.Sleep(time.Millisecond)
		}
		if got := l.sum() * 8000 / 10; math.Abs(float64(got)-1e6) > 5e4 {
			t.Errorf("%d bit/s pass", got)
		}
		p.close()
		q.end()
	})
}
