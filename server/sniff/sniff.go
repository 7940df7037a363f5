// Package sniff tells the application protocol of a flow from its first bytes.
//
// It does no input or output, keeps no time and knows nothing of rules. Whoever
// relays a flow shows a [Stream] or [Datagrams] what passes, in the pieces in
// which it passes, and calls Expire when the flow has waited long enough. How a
// connection is cut into pieces makes no difference to the verdict.
//
// What it costs is bounded for each flow, whatever the two ends send: 4 KiB of
// memory for each direction, 16 KiB where a ClientHello is that long, and work
// that grows with the bytes shown, not with their square.
package sniff

import "math"

const (
	limit      = 4 << 10  // bytes of one direction that are looked at
	helloLimit = 16 << 10 // and of a ClientHello
	maxStages  = 4        // protocols inside of one another, as TLS in HTTP

	// always is how many bytes the tests are asked at each of, so that a no comes
	// as early in pieces as it does on the whole.
	always = 64
)

// Verdict is what is known of a flow. Two verdicts may be compared with ==.
type Verdict struct {
	Protocol Protocol // "" as long as too little was seen
	Under    Protocol // the protocol from which the connection changed to this one

	// Carries is what is inside of Protocol without replacing it, such as HLS in
	// HTTP. It is known later than Protocol, if at all.
	Carries Protocol

	// Certain says that Protocol will not become another one, other than by the
	// connection itself turning to another (then Under is set), and that Host and
	// ALPN are what the first message says.
	Certain bool

	// More says that bytes to come may change this verdict. If it is false, the
	// flow need not be shown any further.
	More bool

	// Host is whom the client says it wants to reach: the server name of TLS and
	// QUIC, the host of HTTP, RTSP, SIP, XMPP and git. It is in lower case and
	// without port, and made of nothing but what names and addresses are made of.
	// With Encrypted Client Hello it is only the name that covers the real one.
	Host string

	ALPN string // what TLS or QUIC offers to carry, with commas between

	// Doubt says in a few words why the flow may not be what it looks like, for
	// the record. It is empty for most.
	Doubt string
}

// Stream sniffs one connection. The zero value is ready. It is not safe for
// concurrent use, keeps none of the slices that it is shown, and must not be
// copied after its first use.
type Stream struct {
	up, down side
	verdict  Verdict
	settled  bool // verdict is of this stage, and only turn may change it
	expired  bool
	turn     turn

	stage  int
	under  Protocol
	before Verdict // of the stage before
	skip   int     // bytes of the server that still belong to it
}

// Up shows what the side that opened the connection sent next.
func (s *Stream) Up(b []byte) Verdict {
	if s.settled {
		return s.afterUp(b)
	}
	rest := s.up.take(b, upTests[:])
	if s.settle(s.up.guess, s.down.guess) {
		return s.open(rest, nil)
	}
	s.up.keep()
	return s.pending()
}

// Down shows what the other side sent next.
func (s *Stream) Down(b []byte) Verdict {
	if s.settled {
		return s.afterDown(b)
	}
	n := min(s.skip, len(b))
	s.skip, b = s.skip-n, b[n:]
	rest := s.down.take(b, downTests[:])
	if s.settle(s.down.guess, s.up.guess) {
		return s.open(nil, rest)
	}
	s.down.keep()
	return s.pending()
}

// Expire is called when the flow cannot wait any longer, and gives what can be
// said then. The flow may be shown further as long as the verdict says More: a
// server that takes its time to greet is still recognised.
func (s *Stream) Expire() Verdict {
	s.expired = true
	if s.settled {
		return s.verdict
	}
	return s.pending()
}

// settle tells whether what one side looks like, beside what the other does,
// ends the search, and if so, takes it over.
func (s *Stream) settle(a, other answer) bool {
	agree := a.grade == likely && other.grade == likely && a.protocol == other.protocol
	if a.grade != sure && !agree || other.grade == known && a.protocol != other.protocol {
		return false
	}
	s.verdict = s.describe(a.protocol)
	s.verdict.Certain, s.settled = true, true
	return true
}

// describe gives what the bytes that are here tell of a protocol that was found.
func (s *Stream) describe(p Protocol) Verdict {
	v := Verdict{Protocol: p, Under: s.under}
	switch p {
	case TLS:
		readClientHello(&v, s.up.b)
	case HTTP, RTSP, SIP, ICY:
		readRequest(&v, s.up.head)
	case DNS:
		readQueryOfTCP(&v, s.up.b)
	case XMPP:
		v.Host = attribute(s.up.b, "to")
	case Git:
		v.Host = hostOfGit(s.up.b)
	}
	return v
}

// pending is the verdict as long as nothing is settled.
func (s *Stream) pending() Verdict {
	if s.stage > 0 && s.up.read+s.down.read == 0 {
		return s.before
	}
	best := s.up.guess
	if s.down.guess.grade > best.grade {
		best = s.down.guess
	}
	done := s.up.done && s.down.done
	v := Verdict{Protocol: best.protocol, Under: s.under}
	switch {
	case best.grade == known && s.expired:
		v = s.describe(best.protocol)
		v.Certain = true
	case best.grade < likely && (s.expired || done):
		v.Protocol = Unknown
		v.Certain = done && best.grade == never
	}
	v.More = !done
	return v
}

// side is one direction of a connection until it is known what it is.
type side struct {
	head
	own      bool   // the bytes of head are ours, not the caller's
	ruledOut uint32 // a bit for each test that said never
	need     int
	guess    answer // the best that a test said
	done     bool   // more bytes make no difference
}

// take adds what came, as far as it is worth while, and asks the tests. It gives
// what it did not take. Until keep is called, head may be the caller's bytes.
func (d *side) take(b []byte, tests []test) (rest []byte) {
	used := 0
	for !d.done {
		n := min(len(b)-used, d.bound()-len(d.b))
		used += n
		if d.own {
			d.b = append(d.b, b[used-n:used]...)
		} else {
			d.b = b[:used]
		}
		if d.scan() || len(d.b)-n < always || len(d.b) >= d.need {
			d.ask(tests)
		}
		if len(d.b) == d.bound() {
			d.end()
		}
		if used == len(b) {
			break
		}
	}
	return b[used:]
}

// keep makes the bytes ours, before the caller has them back.
func (d *side) keep() {
	switch {
	case d.done:
		d.head = head{read: d.read}
	case !d.own && len(d.b) > 0:
		d.b, d.own = append([]byte(nil), d.b...), true
	}
}

// end ends the search on this side: no more bytes are taken.
func (d *side) end() {
	d.done = true
	if d.guess.grade == known {
		d.guess.grade = sure // details or not
	}
}

// bound is how many bytes may be kept. Only a ClientHello asks for more; when it
// is here, or is none to be read, that many stay.
func (d *side) bound() int {
	if d.guess.grade == known && d.guess.need > limit && d.guess.need != text {
		return min(d.guess.need, helloLimit)
	}
	return max(limit, len(d.b))
}

// ask asks the tests that have not said no. The first of them that is certain
// counts if all before it said no.
func (d *side) ask(tests []test) {
	d.need, d.guess = math.MaxInt, answer{}
	for i, t := range tests {
		if d.ruledOut&(1<<i) != 0 {
			continue
		}
		a := t(d.head)
		if a.grade == never {
			d.ruledOut |= 1 << i
			continue
		}
		first := d.guess.grade == never
		if a.grade > d.guess.grade && (first || a.grade < known) {
			d.guess = a
		}
		if first && a.grade >= known {
			d.ruledOut, d.need = ^(1 << i), a.need
			return
		}
		if a.grade < known {
			d.need = min(d.need, a.need)
		}
	}
	d.done = d.guess.grade == never
}
