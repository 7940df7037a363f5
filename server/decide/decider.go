package decide

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/adit-net/adit/server/metrics"
	"github.com/adit-net/adit/server/policy"
)

const (
	inFlight   = 64   // questions that a decider has before it at once
	maxWaiting = 1024 // those and the ones that wait for their turn
	maxOfUser  = 256  // of these one user's

	// failureLife is for how long a question that got no answer is not asked again.
	failureLife = time.Second

	// deadAfter is how many questions in a row nobody answers before a decider is taken
	// for dead. It is then asked one question from time to time.
	deadAfter = 5
	minPause  = time.Second
	maxPause  = 30 * time.Second
)

var (
	errBusy   = errors.New("too many questions are open")
	errClosed = errors.New("the server is going down")
)

// Decider asks an external decision point. A question is asked once at a time, and its
// answer counts for others for a while. Its methods are safe for concurrent use.
type Decider struct {
	log     *slog.Logger
	counts  counts
	asks    atomic.Bool // there is somebody to ask
	listens atomic.Bool // who has asked what is spoken

	mu      sync.Mutex
	cfg     Config
	line    *line // to the decision point; nil: there is none
	answers answers
	flights map[key]*Asking // of this config, since Forget
	open    int             // flights, of all configs
	users   map[string]int  // those of each user
	turns   chan struct{}   // holds an item for each question that is before the decider
	health  health
	closed  bool
	running sync.WaitGroup
}

type key = [sha256.Size]byte

// health is whether the decider is there.
type health struct {
	failures int           // in a row
	why      error         // of the last
	pause    time.Duration // 0: it is not taken for dead
	again    time.Time     // when it is asked again
}

// New gives a decider that asks nobody before Set. It must be closed.
func New(log *slog.Logger) *Decider {
	took := metrics.NewHistogram(metrics.Spread(time.Millisecond, 10*time.Second)...)
	return &Decider{log: log, users: make(map[string]int), counts: counts{took: took}}
}

// Set says whom to ask from now on, and forgets all answers. A Config without a URL asks
// nobody.
func (d *Decider) Set(cfg Config) {
	cfg = cfg.withDefaults()
	d.mu.Lock()
	defer d.mu.Unlock()
	old := d.line
	d.cfg, d.line, d.health = cfg, nil, health{}
	if cfg.URL != "" {
		d.line = newLine(cfg)
	}
	d.asks.Store(d.line != nil)
	d.listens.Store(false)
	d.turns = make(chan struct{}, inFlight)
	d.forget()
	if old != nil {
		old.close()
	}
}

// Asks tells whether there is anybody to ask.
func (d *Decider) Asks() bool { return d.asks.Load() }

// Name is what the decider is called.
func (d *Decider) Name() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cfg.Name
}

// Lives tells for how long an answer counts, and for how long after that what is open may
// go on while there is no other.
func (d *Decider) Lives() (answer, keep time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cfg.Cache, d.cfg.Keep
}

// Listens tells whether the decider has ever wanted to know what is spoken.
func (d *Decider) Listens() bool { return d.listens.Load() }

// Failing is why the decider is taken for dead; nil if it is not.
func (d *Decider) Failing() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.health.pause == 0 {
		return nil
	}
	return d.health.why
}

// Forget has everything asked anew.
func (d *Decider) Forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.forget()
}

// forget is Forget. mu is held.
func (d *Decider) forget() {
	d.answers = answers{limit: d.cfg.Entries}
	d.flights = make(map[key]*Asking)
}

// Close waits for the questions that are open, and asks no more.
func (d *Decider) Close() {
	d.mu.Lock()
	d.closed = true
	line := d.line
	d.mu.Unlock()
	d.running.Wait()
	if line != nil {
		line.close()
	}
}

// Asking is a question that is open.
type Asking struct {
	ctx    context.Context // ends with the answer
	end    context.CancelFunc
	answer Answer // when ctx has ended
}

// Done is closed when there is an answer.
func (a *Asking) Done() <-chan struct{} { return a.ctx.Done() }

// Then has f called, in a goroutine of its own, when there is an answer. stop prevents it.
func (a *Asking) Then(f func()) (stop func() bool) { return context.AfterFunc(a.ctx, f) }

// wait gives the answer.
func (a *Asking) wait() Answer {
	<-a.ctx.Done()
	return a.answer
}

// Ask gives the answer to a question if there is one that counts. Else it gives what has
// been asked for that: when it is done, Ask knows more.
func (d *Decider) Ask(q Question) (Answer, *Asking) {
	a, asking := d.ask(q.before())
	if asking == nil && a.Outcome == policy.NeedsProtocol && q.Request.Protocol != "" {
		a, asking = d.ask(q)
	}
	if asking != nil {
		return Answer{}, asking
	}
	return q.final(a), nil
}

// Decide is Ask, and waits for the answer.
func (d *Decider) Decide(q Question) Answer {
	a := d.await(q.before())
	if a.Outcome == policy.NeedsProtocol && q.Request.Protocol != "" {
		a = d.await(q)
	}
	return q.final(a)
}

func (d *Decider) await(q Question) Answer {
	a, asking := d.ask(q)
	if asking != nil {
		a = asking.wait()
	}
	return a
}

// final takes an answer that asks for what it has been told for a no: that is what it was
// beside.
func (q Question) final(a Answer) Answer {
	if a.Outcome == policy.NeedsAddress && q.Request.Addr.IsValid() || a.Outcome == policy.NeedsProtocol && q.Request.Protocol != "" {
		return Answer{Outcome: policy.Deny, Reason: "it wants to know more than there is to know", At: a.At}
	}
	return a
}

// failure is the answer where there is none. mu is held.
func (d *Decider) failure(err error) Answer {
	a := Answer{Err: err, At: time.Now()}
	if d.cfg.OnFailure == Allow {
		a.Outcome = policy.Allow
	}
	return a
}

// ask looks for the answer to a question just as it is, and asks for it.
func (d *Decider) ask(q Question) (Answer, *Asking) {
	k, err := q.key()
	now := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil {
		d.counts.unasked.Add(1)
		return d.failure(err), nil
	}
	a, known := d.answers.get(k, d.cfg.Cache, now)
	flight := d.flights[k]
	if known {
		// What is asked for all the time does not wait for its answer each time.
		if flight == nil && a.Err == nil && now.Sub(a.At) > d.cfg.Cache/2 && now.Sub(a.vain) > failureLife && d.mayAsk(q, now) == nil {
			d.start(k, q)
		}
		return a, nil
	}
	if flight != nil {
		return Answer{}, flight
	}
	if err := d.mayAsk(q, now); err != nil {
		d.counts.unasked.Add(1)
		return d.failure(err), nil
	}
	return Answer{}, d.start(k, q)
}

// mayAsk tells why a question may not be asked now. mu is held.
func (d *Decider) mayAsk(q Question, now time.Time) error {
	switch h := &d.health; {
	case d.closed || d.line == nil:
		return errClosed
	case d.open >= maxWaiting, d.users[q.Who.User] >= maxOfUser:
		return errBusy
	case h.pause > 0 && now.Before(h.again):
		return fmt.Errorf("it has not answered for a while: %w", h.why)
	case h.pause > 0:
		h.again = now.Add(h.pause) // this question is the one
	}
	return nil
}

// start asks a question. mu is held.
func (d *Decider) start(k key, q Question) *Asking {
	ctx, end := context.WithCancel(context.Background())
	f := &Asking{ctx: ctx, end: end}
	d.flights[k] = f
	d.open++
	d.users[q.Who.User]++
	line, turns := d.line, d.turns
	d.running.Go(func() {
		began := time.Now()
		a, err := line.askInTurn(q, turns)
		d.counts.ends(began, a, err)
		d.mu.Lock()
		defer d.mu.Unlock()
		defer f.end()
		d.open--
		if d.users[q.Who.User]--; d.users[q.Who.User] == 0 {
			delete(d.users, q.Who.User)
		}
		if line == d.line && !errors.Is(err, errBusy) { // then nobody has been asked
			d.heard(err)
		}
		if err != nil {
			a = d.failure(err)
		}
		f.answer = a
		if a.Outcome == policy.NeedsProtocol {
			d.listens.Store(true)
		}
		// What Forget has forgotten is not known again.
		if d.flights[k] == f {
			delete(d.flights, k)
			d.note(k, a)
		}
	})
	return f
}

// note keeps an answer. Where there is none, one that still counts stays. mu is held.
func (d *Decider) note(k key, a Answer) {
	if a.Err != nil {
		if old, counts := d.answers.get(k, d.cfg.Cache, a.At); counts {
			old.vain = a.At
			a = old
		}
	}
	d.answers.put(k, a)
}

// heard notes whether the decider has answered. mu is held.
func (d *Decider) heard(err error) {
	h := &d.health
	if _, absent := errors.AsType[absence](err); !absent { // somebody has answered, if only nonsense
		if h.pause > 0 {
			d.log.Info("the decider answers again", "decider", d.cfg.Name)
		}
		*h = health{}
		return
	}
	h.failures++
	h.why = err
	if h.failures < deadAfter {
		return
	}
	if h.pause == 0 {
		d.log.Warn("the decider does not answer", "decider", d.cfg.Name, "on_failure", d.cfg.OnFailure, "error", err)
	}
	h.pause = min(cmp.Or(2*h.pause, minPause), maxPause)
	h.again = time.Now().Add(h.pause)
}

// answers are those that count. It keeps at least the half of limit that were used
// last, and at most limit.
type answers struct {
	limit    int
	new, old map[key]Answer
}

// get gives an answer that is not older than life.
func (a *answers) get(k key, life time.Duration, now time.Time) (Answer, bool) {
	found, ok := a.new[k]
	if !ok {
		if found, ok = a.old[k]; ok {
			a.put(k, found)
		}
	}
	if found.Err != nil {
		life = failureLife
	}
	return found, ok && now.Sub(found.At) <= life
}

func (a *answers) put(k key, answer Answer) {
	if len(a.new) >= max(a.limit/2, 1) {
		if _, ok := a.new[k]; !ok {
			a.new, a.old = nil, a.new
		}
	}
	if a.new == nil {
		a.new = make(map[key]Answer)
	}
	a.new[k] = answer
	delete(a.old, k)
}
