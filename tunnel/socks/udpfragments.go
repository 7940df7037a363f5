package socks

import "time"

const (
	// lastFragment marks the last fragment of a datagram. The other bits are its
	// position, from 1 on.
	lastFragment = 0x80

	// fragmentTimeout is how long the fragments of a datagram wait for the next.
	// RFC 1928 allows no less than 5 seconds.
	fragmentTimeout = 5 * time.Second
)

// reassembly makes datagrams of fragments, one datagram at a time (RFC 1928 section 7).
// Fragments come in order, or are lost with all that belongs to them.
type reassembly struct {
	desk  *udpDesk // counts the bytes; nil for none
	last  byte     // the position that was taken last; 0 if nothing waits
	to    Addr
	data  []byte
	until time.Time
}

// add takes a fragment, or a whole datagram, which has a frag of 0 and is handed back as
// it is. It gives the datagram that is whole with it, if there is one.
func (q *reassembly) add(now time.Time, frag byte, d Datagram) (Datagram, bool) {
	q.forget(now)
	position := frag &^ lastFragment
	switch {
	case frag == 0:
		q.drop()
		return d, true
	case position == 0 || position == q.last && position > 1:
		return Datagram{}, false // it cannot be, or it is there already
	case position <= q.last:
		q.drop() // another datagram begins
	}
	if position != q.last+1 || q.last > 0 && d.Addr != q.to || !q.grow(len(d.Payload)) {
		q.drop()
		return Datagram{}, false
	}
	if q.last == 0 {
		q.to, q.until = d.Addr, now.Add(fragmentTimeout)
	}
	q.last, q.data = position, append(q.data, d.Payload...)
	if frag&lastFragment == 0 {
		return Datagram{}, false
	}
	whole := Datagram{Addr: q.to, Payload: q.data}
	q.drop()
	return whole, true
}

// grow tells whether there is room for n more bytes, and takes it.
func (q *reassembly) grow(n int) bool {
	if len(q.data)+n > maxUDP {
		return false
	}
	if q.desk != nil && q.desk.unfinished.Add(int64(n)) > maxUnfinished {
		q.desk.unfinished.Add(int64(-n))
		return false
	}
	return true
}

// forget drops what has waited for too long, and tells when what waits has done so.
// It is the zero time if nothing waits.
func (q *reassembly) forget(now time.Time) time.Time {
	if q.last > 0 && !now.Before(q.until) {
		q.drop()
	}
	return q.until
}

// drop gives up what waits.
func (q *reassembly) drop() {
	if q.desk != nil {
		q.desk.unfinished.Add(int64(-len(q.data)))
	}
	q.last, q.to, q.data, q.until = 0, Addr{}, nil, time.Time{}
}
