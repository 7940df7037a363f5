package resume

import "time"

// While somebody chats, data leaves the queues of the path to it: it fills the
// path and little more. TCP by itself fills it twice or until something is lost, and then
// what is in a hurry waits for as long, and for what was lost. Datagrams are chat, and what
// whoever writes to the pipe says to be.
const (
	// chatTime is how long after one word others are to be expected.
	chatTime = 2 * time.Second

	// chatAckBytes is when to acknowledge meanwhile, so that the sender knows what
	// the path holds.
	chatAckBytes = 32 << 10
	chatAckDelay = 25 * time.Millisecond

	// yieldLeast is what may be under way in any case: what the peer does not
	// acknowledge yet, a frame, and as much again.
	yieldLeast = chatAckBytes + 2*maxData

	// yieldSlack is by how much data may be ahead of a path that is as fast as those who
	// write and read: they do other things meanwhile.
	yieldSlack = 500 * time.Microsecond

	// yieldGrowth is by how much a rate exceeds the best so far if the path may hold
	// more than can be known. Then twice as much goes there, as when TCP begins.
	yieldGrowth = 1.25

	yieldEpoch = 5 * time.Second // how long a rate counts, at least
	yieldDoubt = 4               // so many pings in a row take too long if the path is another
)

// yield knows how much a carrier's path holds.
type yield struct {
	meter  meter
	turned time.Time // when the epoch began
	rate   float64   // the best of this epoch, in bytes per second
	before float64   // and of the one before
	gain   float64   // how often what the path holds may be under way

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
	rate := float64(acked-y.meter.acked) / took.Seconds()
	y.gain = 1.125
	if rate > yieldGrowth*y.best() {
		y.gain = 2
	}
	y.rate = max(y.rate, rate)
	y.meter.restart(now, acked)
	if now.Sub(y.turned) >= yieldEpoch {
		y.before, y.rate, y.turned = y.rate, 0, now
	}
}

// best is the rate that counts, in bytes per second.
func (y *yield) best() float64 { return max(y.rate, y.before) }

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
	return 2*y.trip + yieldSlack + time.Duration(yieldLeast/max(y.best(), 1)*float64(time.Second))
}

// window is how many bytes may be under way.
func (y *yield) window() uint64 {
	return uint64(y.best()*(y.gain*y.trip.Seconds()+yieldSlack.Seconds())) + yieldLeast
}

// Chat tells that somebody chats at this moment: what is written now is little, and waited
// for.
func (p *Pipe) Chat() { p.chat.Store(int64(max(time.Since(p.born), 1))) }

// Hush tells that they do not any more.
func (p *Pipe) Hush() { p.chat.Store(0) }

// Chatting tells whether somebody chats.
func (p *Pipe) Chatting() bool { return p.chat.Load() > 0 && p.chatting(time.Now()) }

// chatting tells whether somebody does.
func (p *Pipe) chatting(now time.Time) bool {
	word := p.chat.Load()
	return word > 0 && now.Sub(p.born)-time.Duration(word) < chatTime
}

// yields tells whether data has to wait for an acknowledgement of what is under
// way. The caller holds mu.
func (p *Pipe) yields(c *Carrier, now time.Time) bool {
	return p.err == nil && p.chatting(now) && c.sentTo > p.out.acked && c.sentTo-p.out.acked >= c.yield.window()
}
