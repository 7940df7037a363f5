package sniff

import "encoding/binary"

// Datagrams sniffs the datagrams of one flow, which is to say those between one
// app and one target. The zero value is ready. It is not safe for concurrent
// use, and keeps none of the slices that it is shown.
type Datagrams struct {
	// Port is the target's, 0 if it is not known. What has no signs of its own is
	// believed to be what is expected there.
	Port uint16

	verdict Verdict
	settled bool
	shown   int
	guess   Protocol // what the last ones may be
	streak  int      // and how many of them
	quic    *initials
	media   [2]mediaRun // up, down
	utp     uint16      // the connection of BitTorrent that began
	odd     odd
}

const (
	maxDatagrams = 64 // that are looked at
	maxUnknown   = 16 // that are looked at in vain
	enoughWeak   = 3  // of the same kind without signs of their own
)

// Up shows the next datagram of the side that sent the first.
func (d *Datagrams) Up(b []byte) Verdict { return d.show(b, true) }

// Down shows the next datagram of the other side.
func (d *Datagrams) Down(b []byte) Verdict { return d.show(b, false) }

// Expire is called when the flow cannot wait any longer. See [Stream.Expire].
func (d *Datagrams) Expire() Verdict {
	v := d.now()
	switch {
	case v.Protocol == "":
		v.Protocol = Unknown
	case v.Protocol == QUIC:
		v.Certain = true // its hello need not come
	}
	return v
}

func (d *Datagrams) now() Verdict {
	v := d.verdict
	if !d.settled {
		v.Protocol = d.guess
		v.More = d.shown < maxUnknown
		if !v.More && v.Protocol == "" {
			v.Protocol = Unknown
		}
	}
	return v
}

func (d *Datagrams) show(b []byte, up bool) Verdict {
	if d.settled && !d.verdict.More || !d.settled && d.shown >= maxUnknown {
		return d.now()
	}
	d.shown++
	switch {
	case !d.settled:
		d.classify(b, up)
	case d.verdict.Protocol == QUIC:
		d.hello(b, up)
	case d.verdict.Protocol == DNS:
		d.query(b)
	case d.verdict.Protocol == STUN:
		d.afterSTUN(b, up)
	}
	if d.settled && d.shown >= maxDatagrams {
		d.verdict.More, d.verdict.Certain, d.quic = false, true, nil
	}
	return d.now()
}

// classify asks what a datagram is, as long as none was certain.
func (d *Datagrams) classify(b []byte, up bool) {
	if len(b) <= 1 {
		return // something that keeps a path open
	}
	if isQUIC(b) != never {
		d.settle(QUIC)
		d.hello(b, up)
		return
	}
	for _, t := range datagramTests {
		switch p, g := t(b, d.Port); g {
		case sure:
			d.settle(p)
			if p == DNS {
				d.query(b)
			}
			return
		case likely:
			d.weak(p, b, up)
			return
		}
	}
	d.guess, d.streak = "", 0
}

func (d *Datagrams) settle(p Protocol) {
	d.settled = true
	d.verdict = Verdict{
		Protocol: p,
		Under:    d.verdict.Under,
		Certain:  p != QUIC,
		More:     p == QUIC || p == DNS || p == STUN,
	}
}

// weak counts what only looks like a protocol, until it does so often enough.
func (d *Datagrams) weak(p Protocol, b []byte, up bool) {
	if p == RTP {
		side := 0
		if !up {
			side = 1
		}
		d.guess = RTP
		if d.media[side].next(b) >= enoughWeak {
			d.settle(RTP)
		}
		return
	}
	if p != d.guess {
		d.guess, d.streak = p, 0
	}
	if p == BitTorrent && !d.follows(b) {
		d.guess, d.streak = "", 0
		return
	}
	if d.streak++; d.streak >= enoughWeak {
		d.settle(p)
	}
}

// follows tells whether a packet of uTP is the first of a connection, or of the
// one that began. Without that any datagrams that begin alike would do.
func (d *Datagrams) follows(b []byte) bool {
	id := binary.BigEndian.Uint16(b[2:])
	if d.streak == 0 {
		d.utp = id
		return b[0] == 0x41 // SYN
	}
	return id == d.utp || id == d.utp+1
}

// hello looks for the ClientHello of QUIC.
func (d *Datagrams) hello(b []byte, up bool) {
	if !up {
		return
	}
	if d.quic == nil {
		d.quic = new(initials)
	}
	hello, done := d.quic.take(b)
	if hello != nil {
		readHello(&d.verdict, hello)
	}
	if done {
		d.verdict.More, d.verdict.Certain, d.quic = false, true, nil
	}
}

// query looks on whether queries are more than that.
func (d *Datagrams) query(b []byte) {
	q, ok := readDNS(b)
	if !ok {
		return
	}
	if doubt := d.odd.see(q); doubt != "" {
		d.verdict.Doubt, d.verdict.More = doubt, false
	}
}

// afterSTUN goes on to what STUN has opened the way for, RFC 9443.
func (d *Datagrams) afterSTUN(b []byte, up bool) {
	if len(b) == 0 || b[0] < 4 || b[0]&0xf0 == 0x40 {
		return // STUN, and channels of TURN
	}
	before := d.verdict
	d.settled, d.verdict = false, Verdict{Under: STUN}
	d.classify(b, up)
	if !d.settled {
		d.verdict, d.settled = before, true // until it is certain
	}
}
