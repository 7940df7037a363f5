package tunnel

import (
	"sync"
	"time"
)

// rttPeriod is how old a round trip may get before it is measured again, and
// only while it is of use.
const rttPeriod = time.Second

// rttMemory is for how long a round trip counts, and up to twice that: the
// session may have come to a longer path.
const rttMemory = 15 * time.Second

// rttMeter measures the session's round trip by pings. It keeps the shortest of a while:
// the others have waited behind our own data. A window that grew with those would make them
// wait longer, and so on.
type rttMeter struct {
	mu     sync.Mutex
	value  time.Duration // the shortest of this period; 0 until there is one
	before time.Duration // the shortest of the period before
	began  time.Time     // when this period did
	sent   time.Time     // when the last ping went out
	number uint32        // of the last ping
	open   bool          // it has not been answered
}

func (m *rttMeter) get() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.shortest()
}

func (m *rttMeter) shortest() time.Duration {
	if m.before != 0 && m.before < m.value {
		return m.before
	}
	return m.value
}

// refresh sends a ping if the last one is old.
func (m *rttMeter) refresh(s *Session) {
	m.mu.Lock()
	now := time.Now()
	due := !m.open && now.Sub(m.sent) >= rttPeriod
	if due {
		m.sent, m.open = now, true
		m.number++
	}
	number := m.number
	m.mu.Unlock()
	if due {
		s.control(typePing, 0, number)
	}
}

// pong takes an answer. One that was not asked for is ignored.
func (m *rttMeter) pong(number uint32, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.open || number != m.number {
		return
	}
	m.open = false
	rtt := now.Sub(m.sent)
	if now.Sub(m.began) > rttMemory {
		m.before, m.value, m.began = m.value, rtt, now
	}
	if m.value == 0 || rtt < m.value {
		m.value = rtt
	}
}

// bucket is a token bucket. It starts full.
type bucket struct {
	rate float64 // tokens per second
	size float64
	used float64
	at   time.Time
}

// allow takes n tokens if they are there.
func (b *bucket) allow(n float64, now time.Time) bool {
	if !b.at.IsZero() {
		b.used = max(0, b.used-b.rate*now.Sub(b.at).Seconds())
	}
	b.at = now
	if b.used+n > b.size {
		return false
	}
	b.used += n
	return true
}
