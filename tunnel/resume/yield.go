package resume

import "time"

// While datagrams pass, data leaves the queues of the path to them: it fills the
// path and little more. TCP by itself fills it twice or until something is lost, and then
// datagrams wait for as long, and for what was lost.
const (
	// chatTime is how long after a datagram others are to be expected.
	chatTime = 2 * time.Second

	// chatAckBytes is when to acknowledge meanwhile, so that the sender knows what
	// the path holds.
	chatAckBytes = 32 << 10
	chatAckDelay = 25 * time.Millisecond

	// yieldLeast is what may be under way in any case: what the peer does not
	// acknowledge yet, a frame, and as much again.
	yieldLeast = chatAckBytes + 2*maxData

	yieldEpoch = 5 * time.Second // how long a rate counts, at least
	yieldDoubt = 4               // so many pings in a row take too long if the path is another
)

// yield knows how much a carrier's path holds.
type yield struct {
	meter  meter
	turned time.Time // when the epoch began
	rate   float64   // the best of this epoch, in bytes per second
	before float64   // and of the one before

	trip  time.Duration // of an empty path
	doubt int           // pings in a row that took more than most
	low   time.Duration // the shortest of those
}

// acknowledged notes that the peer has data up to an offset.
func (y *yield) acknowledged(now time.Time, acked uint64) {
	took := now.Sub(y.meter.began)
	if took < max(meterPeriod, y.trip) {
		return
	}
	y.rate = max(y.rate, float64(acked-y.meter.acked)/took.Seconds())
	y.meter.restart(now, acked)
	if now.Sub(y.turned) >= yieldEpoch {
		y.before, y.rate, y.turned = y.rate, 0, now
	}
}

// answered notes a round trip. Once data yields, one that is much longer than that of the
// empty path is not its doing, and if that is so for long, the path has become another.
func (y *yield) answered(trip time.Duration, yielding bool) {
	switch {
	case y.trip == 0 || trip < y.trip:
		y.trip, y.doubt = trip, 0
	case !yielding || trip <= y.most():
		y.doubt = 0
	default:
		if y.doubt++; y.doubt == 1 || trip < y.low {
			y.low = trip
		}
		if y.doubt == yieldDoubt {
			y.trip, y.doubt = y.low, 0
		}
	}
}

// most is how long a round trip may take because of what is under way, and a bit more.
func (y *yield) most() time.Duration {
	rate := max(y.rate, y.before, 1)
	return 2*y.trip + time.Duration(yieldLeast/rate*float64(time.Second))
}

// window is how many bytes may be under way.
func (y *yield) window() uint64 {
	return uint64(1.125*max(y.rate, y.before)*y.trip.Seconds()) + yieldLeast
}

// chatting tells whether datagrams pass. The caller holds mu.
func (p *Pipe) chatting(now time.Time) bool { return now.Sub(p.chat) < chatTime }

// yields tells whether data has to wait for an acknowledgement of what is under
// way. The caller holds mu.
func (p *Pipe) yields(c *Carrier, now time.Time) bool {
	return p.err == nil && p.chatting(now) && c.sentTo > p.out.acked && c.sentTo-p.out.acked >= c.yield.window()
}
