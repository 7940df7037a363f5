package resume

import "time"

// How a carrier is given up on. A peer acknowledges within [ackDelay] and a
// round trip, so silence means that the path is dead or stands still.
const (
	firstTrip    = 600 * time.Millisecond // the least round trip of a carrier on which none has been measured
	pingPeriod   = time.Second            // how old a round trip may get while data is sent
	suspectAfter = 700 * time.Millisecond // of silence that should not be, and a round trip
	tripSpread   = 600 * time.Millisecond // how much longer than the last a round trip may well be, or twice that if it is less
	deadAfter    = 4500 * time.Millisecond
	steady       = 30 * time.Second // a carrier that lived so long was not a mistake
	patienceMost = 16               // how much longer to wait on a path where carriers died of silence

	// A peer that is heard all the time may still keep to itself what it has
	// received, and what was sent to it would be held for ever.
	owedPeriod  = 5 * time.Second  // how often to ask a peer that has not acknowledged everything
	owedMost    = 4                // so often it may answer and not have acknowledged what came before
	answerLimit = 10 * time.Minute // of one ping
)

// patience is by what the times above are multiplied. On a very slow path one
// batch takes longer than they are, and giving up would begin all over with it.
func (p *Pipe) patience() time.Duration {
	if p.silences <= 1 {
		return 1
	}
	return time.Duration(min(1<<(p.silences-1), patienceMost))
}

// learn counts c among the carriers that fell silent before they were of any
// use, or forgets about those. The caller holds mu.
func (p *Pipe) learn(c *Carrier, why error) {
	switch {
	case c.heard.Sub(c.began) > steady:
		p.silences = 0
	case (why == ErrSilent || why == ErrReplaced && c.suspect) && !p.advanced(c):
		p.silences++
	}
}

// advanced tells whether a carrier has brought the pipe on.
func (p *Pipe) advanced(c *Carrier) bool { return p.received+p.out.acked > c.start }

// measure takes a round trip. A short one on a carrier that has been of use is
// not that of a very slow path.
func (p *Pipe) measure(c *Carrier, now time.Time) {
	c.pingOpen = false
	c.trust()
	p.trip = max(now.Sub(c.pinged), time.Microsecond)
	c.yield.answered(p.trip, p.chatting(now))
	if c.least == 0 || p.trip < c.least {
		c.least = p.trip
	}
	if p.trip < suspectAfter && (p.advanced(c) || now.Sub(c.began) > steady) {
		p.silences = 0
	}
	c.answered(p)
}

// dun looks whether a peer that answers has acknowledged what it had before it
// answered the last time. The caller holds mu.
func (p *Pipe) dun(c *Carrier, now time.Time) error {
	if now.Sub(c.dunned) < owedPeriod {
		return nil // it may take its time
	}
	c.dunned = now
	if p.out.acked < c.owedTo {
		c.owed++
	} else {
		c.owed = 0
	}
	c.owedTo = c.pingTo
	if c.owed >= owedMost {
		return Breach{"it does not acknowledge what it has"}
	}
	return nil
}

func (c *Carrier) suspectAfter() time.Duration {
	trip := c.pipe.trip
	if c.ping <= 1 && c.pingOpen {
		trip = max(trip, firstTrip)
	}
	return c.pipe.patience() * (suspectAfter + trip + min(2*trip, tripSpread))
}

func (p *Pipe) deadAfter() time.Duration {
	return p.patience() * max(deadAfter, 5*p.trip)
}

// ask notes that the peer has something to answer. The caller holds the pipe's mu.
func (c *Carrier) ask(now time.Time) {
	if !c.asking {
		c.asking, c.asked = true, now
		c.lookAt(now.Add(c.suspectAfter()))
	}
}

// remind lets tick ask, if nothing else does within the age of a round trip.
func (c *Carrier) remind() {
	if c.pingBy.IsZero() {
		c.pingBy = c.pinged.Add(pingPeriod)
		c.lookAt(c.pingBy)
	}
}

// answered looks whether there is still something to answer.
func (c *Carrier) answered(p *Pipe) {
	if !c.pingOpen && p.out.acked == p.out.sent {
		c.asking = false
	}
}

// hear notes that the peer is alive. That does not clear a carrier of suspicion:
// after a silence the peer's words can arrive long before ours reach it, as each
// end's TCP tries again at times of its own.
func (c *Carrier) hear(now time.Time) {
	c.heard = now
	c.pipe.met = true
	if now.Sub(c.began) > steady && !c.asking && c.least != 0 && c.pipe.trip < suspectAfter {
		c.pipe.silences = 0 // whoever hears the other ask all the time measures no more
	}
}

// trust clears a carrier of suspicion: what was sent on it has arrived. The caller
// holds the pipe's mu.
func (c *Carrier) trust() {
	if c.suspect {
		c.suspect = false
		c.lookAt(time.Now().Add(c.suspectAfter()))
		c.pipe.tell()
	}
}

// lookAt lets tick look at the carrier at a time, or before.
func (c *Carrier) lookAt(at time.Time) {
	if c.look.IsZero() || at.Before(c.look) {
		c.look = at
		c.timer.Reset(time.Until(at))
	}
}

// tick looks at a carrier when something may be due.
func (p *Pipe) tick(c *Carrier) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.carrier != c {
		return
	}
	now := time.Now()
	c.look = time.Time{}
	if !c.ackBy.IsZero() {
		if now.Before(c.ackBy) {
			c.lookAt(c.ackBy)
		} else {
			c.ackDue = true
			c.prompt()
		}
	}
	if !c.pingBy.IsZero() {
		if now.Before(c.pingBy) {
			c.lookAt(c.pingBy)
		} else {
			c.pingBy = time.Time{}
			p.probe(c)
		}
	}
	if !c.asking {
		if quiet := c.heard.Add(p.cfg.Idle); now.Before(quiet) {
			c.lookAt(quiet)
		} else {
			p.probe(c)
		}
		return
	}
	silent := c.heard
	if c.asked.After(silent) {
		silent = c.asked
	}
	suspect, dead := silent.Add(c.suspectAfter()), silent.Add(p.deadAfter())
	if age := now.Sub(c.pinged); age >= owedPeriod && p.out.acked < c.sentTo {
		p.probe(c)
	}
	switch {
	case !now.Before(dead) || c.pingOpen && now.Sub(c.pinged) > p.patience()*answerLimit:
		p.lose(c, ErrSilent)
	case !now.Before(suspect):
		if !c.suspect {
			c.suspect = true
			p.tell()
		}
		c.lookAt(dead)
	default:
		c.lookAt(suspect)
	}
}

// Probe asks the peer now whether it is there. If it is not, the carrier turns
// suspect, and is lost, as soon as if data had been sent.
func (p *Pipe) Probe() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.carrier != nil {
		p.probe(p.carrier)
	}
}

func (p *Pipe) probe(c *Carrier) {
	if !c.pingOpen {
		c.pingDue = true
		c.ask(time.Now()) // from now on: what is being written may never end
		c.prompt()
	}
}
