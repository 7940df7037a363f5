package server

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/adit-net/adit/server/decide"
	"github.com/adit-net/adit/server/sniff"
	"github.com/adit-net/adit/tunnel/relay"
)

const (
	// sniffLimit is how long what an app says first may be held back until its protocol
	// is known.
	sniffLimit = 300 * time.Millisecond

	// maxHeld is how much of it, in bytes. It is as much as is looked at.
	maxHeld = 16 << 10
)

// spoken is what is known of what is spoken in a flow.
type spoken struct {
	protocol, carries string
	host              string // that the app names
	doubt             bool   // that it is what it looks like
}

// signs are what rules call it if something is other than it seems.
func (s spoken) signs(to destination) (all []string) {
	if s.host != "" && to.name != "" && s.host != to.name {
		all = append(all, "other-host")
	}
	if sniff.Misplaced(sniff.Protocol(s.protocol), to.at.Port()) {
		all = append(all, "misplaced")
	}
	if s.doubt {
		all = append(all, "doubtful")
	}
	return all
}

// listener finds out what is spoken on a connection, for the record and for rules that
// want to know. As long as these have not decided, it holds back what the app says, so that
// nothing of what turns out to be forbidden reaches the target.
type listener struct {
	flow   *flow
	conn   relay.Conn
	called bool // the target has opened the connection
	timer  *time.Timer
	done   atomic.Bool // nothing is held, and more bytes say nothing more

	writing sync.Mutex // who writes to conn holds it

	mu      sync.Mutex
	stream  *sniff.Stream // nil when done
	verdict sniff.Verdict
	late    bool // nobody waits any longer
	open    bool // nothing is held any more
	held    []byte
	err     error // why nothing is passed on
	told    bool  // the flow has been cut because of it

	asked  *decide.Asking // a decider, which has not answered yet; nil: none
	forget func() bool    // leaves it alone
}

func newListener(f *flow, conn relay.Conn) *listener {
	return &listener{flow: f, conn: conn, called: f.wish.command == "bind", stream: new(sniff.Stream)}
}

// said takes what the app says, and writes what may be written of it.
func (l *listener) said(b []byte) (int, error) {
	l.writing.Lock()
	defer l.writing.Unlock()
	l.mu.Lock()
	l.hear(b, !l.called)
	if l.err == nil && !l.open && len(l.held)+len(b) > maxHeld {
		l.expire()
	}
	wait := l.err == nil && !l.open
	full := wait && len(l.held)+len(b) > maxHeld // and a decider has been asked
	if wait && !full {
		l.held = append(l.held, b...)
	}
	l.unlock()
	switch {
	case full && !l.await():
		return 0, errCutOff
	case wait && !full:
		return len(b), nil
	}
	if err := l.release(); err != nil {
		return 0, err
	}
	return l.conn.Write(b)
}

// heard takes what the target says.
func (l *listener) heard(b []byte) {
	l.mu.Lock()
	l.hear(b, l.called)
	waits, finished := l.open && len(l.held) > 0, l.open && l.stream == nil
	l.unlock()
	switch {
	case waits:
		l.flush() // nobody else is writing
	case finished && l.writing.TryLock():
		// Who writes may wait for a target that waits for this to be passed on.
		_ = l.release()
		l.writing.Unlock()
	}
}

// finish is end, and waits for a decider.
func (l *listener) finish() {
	l.end()
	l.await()
	l.flush()
}

// end tells that nobody waits any longer for what is spoken to become known.
func (l *listener) end() {
	l.mu.Lock()
	if !l.open && l.err == nil {
		l.expire()
	}
	l.unlock()
	l.flush()
}

// pass holds nothing back, as rules do not depend on what is spoken.
func (l *listener) pass() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open = true
}

// overhear takes what the app has said, which the target has already. It comes after pass.
func (l *listener) overhear(b []byte) {
	l.mu.Lock()
	l.hear(b, !l.called)
	finished := l.stream == nil
	l.unlock()
	if finished {
		l.done.Store(true) // nothing was ever held
	}
}

// stop ends it, with the connection. What can be said of that by now goes on record.
func (l *listener) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.timer != nil {
		l.timer.Stop()
	}
	l.asked = nil
	if l.forget != nil {
		l.forget()
	}
	if l.stream != nil && l.verdict.More && l.err == nil {
		l.know(l.stream.Expire())
	}
	l.stream = nil
}

// unlock cuts the flow if it has just turned out to be forbidden.
func (l *listener) unlock() {
	reason := l.err
	if l.told {
		reason = nil
	}
	l.told = l.err != nil
	l.mu.Unlock()
	if reason != nil {
		l.flow.cut(reason)
	}
}

// flush writes what was held, if that may be now. What fails has broken the connection,
// and is seen there.
func (l *listener) flush() {
	l.writing.Lock()
	defer l.writing.Unlock()
	_ = l.release()
}

// release is flush for who holds writing.
func (l *listener) release() error {
	l.mu.Lock()
	if l.err != nil || !l.open {
		defer l.mu.Unlock()
		return l.err
	}
	held, finished := l.held, l.stream == nil
	l.held = nil
	l.mu.Unlock()
	if len(held) > 0 {
		if _, err := l.conn.Write(held); err != nil {
			return err
		}
	}
	l.done.Store(finished) // from now on the app's bytes need not come this way
	return nil
}

// hear shows bytes of who has opened the connection, or of the other end, and lets rules
// decide when it is known what is spoken. l.mu is held.
func (l *listener) hear(b []byte, opener bool) {
	if l.stream == nil || l.err != nil || len(b) == 0 {
		return
	}
	if !l.open && l.timer == nil {
		l.timer = time.AfterFunc(sniffLimit, l.end)
	}
	before := l.verdict
	if opener {
		l.verdict = l.stream.Up(b)
	} else {
		l.verdict = l.stream.Down(b)
	}
	if l.verdict != before {
		l.decide()
	}
	if l.open && !l.verdict.More {
		l.stream = nil
	}
}

// expire has rules decide by what is known. l.mu is held.
func (l *listener) expire() {
	l.late = true
	l.verdict = l.stream.Expire()
	if l.verdict.Protocol == "" {
		l.verdict.Protocol = sniff.Unknown
	}
	l.decide()
}

// know tells the flow what is spoken.
func (l *listener) know(v sniff.Verdict) {
	l.flow.speaks(spoken{string(v.Protocol), string(v.Carries), v.Host, v.Doubt != ""})
}

// decide has rules decide if it is known well enough what is spoken. l.mu is held.
func (l *listener) decide() {
	v := l.verdict
	if v.Protocol == "" || !v.Certain && v.More && !l.late {
		return
	}
	l.know(v)
	if l.open {
		l.err = l.flow.rejudge() // what there is may stand still
	} else {
		_, l.err = l.flow.judge()
	}
	if l.err == nil {
		l.ask()
	}
}

// ask asks the decider, if there is one, about what rules allow. l.mu is held.
func (l *listener) ask() {
	to, speech := l.flow.known()
	o := l.flow.ask(to, speech, false)
	l.err = o.err
	if l.asked = o.asked; l.asked != nil {
		l.forget = l.asked.Then(func() {
			l.answered(o.asked)
			l.flush()
		})
		return
	}
	l.open = l.open || l.err == nil
}

// answered asks the decider once more, who knows by now, unless something else has
// been asked since.
func (l *listener) answered(asked *decide.Asking) {
	l.mu.Lock()
	if l.asked == asked && l.err == nil {
		l.ask()
	}
	l.unlock()
}

// await waits until the decider has answered, and tells whether something may be passed on.
func (l *listener) await() bool {
	for {
		l.mu.Lock()
		asked, may := l.asked, l.open && l.err == nil
		l.mu.Unlock()
		if asked == nil {
			return may
		}
		<-asked.Done()
		l.answered(asked)
	}
}
