package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A play is a random order of what app and target do on one connection. It is
// made so that TCP itself leaves nothing about its outcome open: nobody writes
// more than fits on the way unless the other reads meanwhile, and every step is
// over before the next one begins.
type play struct {
	seed  uint64
	steps []step
}

// side is one of the two actors.
type side int

const (
	app side = iota
	target
)

func (s side) other() side { return 1 - s }

func (s side) String() string { return [...]string{"app", "target"}[s] }

// action is what a step consists of.
type action int

const (
	write    action = iota // n bytes, which nobody reads as yet
	exchange               // both write and read at once, until nothing is under way
	catchUp                // read all that the other has written
	pause                  // n microseconds
	end                    // half-close
	leave                  // catch up and close
	abandon                // catch up with all but one byte and close: TCP resets then
	breakOff               // reset
	push                   // write until it fails: the other has gone
	see                    // read until the end, whatever it is: the other has gone
)

type step struct {
	do   action
	who  side
	n    int // bytes, or microseconds
	back int // what the other writes in an exchange
}

func (s step) String() string {
	switch s.do {
	case write:
		return fmt.Sprintf("%s writes %d", s.who, s.n)
	case exchange:
		return fmt.Sprintf("app writes %d and target %d, and both read all", s.n, s.back)
	case pause:
		return fmt.Sprint(time.Duration(s.n) * time.Microsecond)
	}
	what := map[action]string{
		catchUp: "reads all", end: "half-closes", leave: "reads all and closes", abandon: "closes with a byte unread",
		breakOff: "resets", push: "writes until it fails", see: "reads until the end",
	}
	return fmt.Sprintf("%s %s", s.who, what[s.do])
}

func (p play) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "play %d:", p.seed)
	for _, s := range p.steps {
		fmt.Fprintf(&b, "\n\t%s", s)
	}
	return b.String()
}

// maxUnread is how many bytes may wait for a reader, in each direction: so few
// that they arrive wherever TCP begins.
const maxUnread = 8 << 10

// author writes a play and keeps in mind how far its actors are.
type author struct {
	*rand.Rand
	steps   []step
	written [2]int
	read    [2]int
	last    [2]int // size of the last write
	ended   [2]bool
	gone    [2]bool // closed or reset
	pushed  [2]bool
}

func newPlay(seed uint64) play {
	a := &author{Rand: rand.New(rand.NewPCG(seed, 0))}
	for range 2 + a.IntN(10) {
		a.add()
	}
	a.finish()
	return play{seed: seed, steps: a.steps}
}

// add adds a step that makes sense now, if the first that comes to mind does.
func (a *author) add() {
	who := side(a.IntN(2))
	other := who.other()
	switch do := action(a.IntN(int(see) + 1)); {
	case do == pause:
		a.say(step{do: pause, n: a.IntN(3000)})
	case a.gone[who]:
	case do == push && a.gone[other] && !a.ended[who] && !a.pushed[who]:
		a.pushed[who] = true
		a.say(step{do: push, who: who})
	case a.gone[other] || do == push || do == see:
	case do == write && !a.ended[who] && a.unread(other) < maxUnread/2:
		n := 1 + a.IntN(maxUnread/2)
		a.written[who] += n
		a.last[who] = n
		a.say(step{do: write, who: who, n: n})
	case do == exchange:
		a.exchange()
	case do == catchUp:
		a.catchUp(who)
		a.say(step{do: catchUp, who: who})
	default:
		a.addEnd(do, who)
	}
}

// addEnd adds a step after which who writes no more.
func (a *author) addEnd(do action, who side) {
	switch do {
	case end:
		if a.ended[who] {
			return
		}
	case leave:
		a.catchUp(who)
		a.gone[who] = true
	case abandon:
		// The byte that is left comes together with the one before it.
		if a.unread(who) == 0 || a.last[who.other()] < 2 {
			return
		}
		a.gone[who] = true
	case breakOff:
		a.gone[who] = true
	default:
		return
	}
	a.ended[who] = true
	a.say(step{do: do, who: who})
}

func (a *author) exchange() {
	s := step{do: exchange, n: a.size(app), back: a.size(target)}
	a.written[app] += s.n
	a.written[target] += s.back
	a.catchUp(app)
	a.catchUp(target)
	a.say(s)
}

// size is how much a side writes in an exchange: mostly little.
func (a *author) size(s side) int {
	if a.ended[s] {
		return 0
	}
	return a.IntN(1 << a.IntN(19))
}

func (a *author) say(s step) { a.steps = append(a.steps, s) }

func (a *author) unread(by side) int { return a.written[by.other()] - a.read[by] }

func (a *author) catchUp(s side) { a.read[s] = a.written[s.other()] }

// finish lets everybody who is left end and see how the other ends.
func (a *author) finish() {
	for _, s := range []side{app, target} {
		if !a.gone[s] && !a.gone[s.other()] && !a.ended[s] {
			a.say(step{do: end, who: s})
		}
	}
	for _, s := range []side{app, target} {
		if !a.gone[s] {
			a.say(step{do: see, who: s})
		}
	}
}

// actor performs one side of a play.
type actor struct {
	conn    *net.TCPConn
	words   *rand.ChaCha8 // what it writes
	written int
	heard   hash.Hash
	read    int
	notes   []string // how things have ended
}

func newActor(s side, seed uint64, c *net.TCPConn) *actor {
	return &actor{conn: c, words: rand.NewChaCha8([32]byte{byte(s), byte(seed), byte(seed >> 8)}), heard: sha256.New()}
}

// saw is what an actor has observed, which is what must not depend on what lies
// between it and the other one.
func (a *actor) saw() string {
	return fmt.Sprintf("%d bytes with hash %x; %s", a.read, a.heard.Sum(nil)[:6], strings.Join(a.notes, ", "))
}

func (a *actor) note(what string, err error) {
	switch {
	case err == nil:
		return
	case errors.Is(err, io.EOF):
		what += " ends"
	case what == "write" && (errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)):
		what += " fails" // which of the two it is depends on when one looks
	case errors.Is(err, syscall.ECONNRESET):
		what += " is reset"
	case errors.Is(err, os.ErrDeadlineExceeded):
		what += " hangs"
	default:
		what += ": " + err.Error()
	}
	a.notes = append(a.notes, what)
}

// write writes n bytes in pieces.
func (a *actor) write(n int) {
	for n > 0 {
		b := make([]byte, min(n, 32<<10))
		a.words.Read(b)
		m, err := a.conn.Write(b)
		a.written += m
		n -= m
		if err != nil {
			a.note("write", err)
			return
		}
	}
}

// push writes until that fails.
func (a *actor) push() {
	for {
		if _, err := a.conn.Write([]byte("more")); err != nil {
			a.note("write", err)
			return
		}
	}
}

// readTo reads until it has n bytes of all.
func (a *actor) readTo(n int) {
	m, err := io.CopyN(a.heard, a.conn, int64(n-a.read))
	a.read += int(m)
	a.note("read", err)
}

func (a *actor) see() {
	var b [32 << 10]byte
	for {
		n, err := a.conn.Read(b[:])
		a.heard.Write(b[:n])
		a.read += n
		if err != nil {
			a.note("read", err)
			return
		}
	}
}

// perform plays p once and gives what both actors have seen.
func (p play) perform(ctx context.Context, dial dialer) (string, error) {
	c, err := connect(ctx, dial)
	if err != nil {
		return "", err
	}
	defer c.app.Close()
	defer c.target.Close()
	cast := [2]*actor{newActor(app, p.seed, c.app), newActor(target, p.seed, c.target)}
	for _, s := range p.steps {
		perform(s, cast)
	}
	return fmt.Sprintf("app: %s\ntarget: %s", cast[app].saw(), cast[target].saw()), nil
}

func perform(s step, cast [2]*actor) {
	a, b := cast[s.who], cast[s.who.other()]
	switch s.do {
	case write:
		a.write(s.n)
	case exchange:
		var all sync.WaitGroup
		up, down := cast[app].written+s.n, cast[target].written+s.back
		all.Go(func() { cast[app].write(s.n) })
		all.Go(func() { cast[target].write(s.back) })
		all.Go(func() { cast[app].readTo(down) })
		all.Go(func() { cast[target].readTo(up) })
		all.Wait()
	case catchUp:
		a.readTo(b.written)
	case pause:
		time.Sleep(time.Duration(s.n) * time.Microsecond)
	case end:
		a.note("half-close", a.conn.CloseWrite())
	case leave:
		a.readTo(b.written)
		a.conn.Close()
	case abandon:
		a.readTo(b.written - 1)
		a.conn.Close()
	case breakOff:
		reset(a.conn)
	case push:
		a.push()
	case see:
		a.see()
	}
}
