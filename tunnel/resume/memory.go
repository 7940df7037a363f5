package resume

import (
	"container/list"
	"sync"
)

// Memory bounds what the replay buffers and datagrams of many pipes hold together. When a
// replay buffer needs more than is left, pipes that have something to send again and no carrier are
// given up, the longest without one first, until there is enough. If there are none, every pipe makes do
// with what it has, and its writers wait for acknowledgements. For datagrams none is given up: the
// pipe's oldest go instead. One piece each pipe may hold in any case, and a few datagrams, so that none
// stands still for good. Its methods are safe for concurrent use.
type Memory struct {
	limit int

	mu       sync.Mutex
	used     int
	detached list.List // of *Pipe, the longest detached first
}

// NewMemory gives a Memory of limit bytes.
func NewMemory(limit int) *Memory { return &Memory{limit: limit} }

// Used tells how many bytes are held.
func (m *Memory) Used() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.used
}

// take books n bytes if they are there, or if must is set.
func (m *Memory) take(n int, must bool) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.used+n > m.limit && !must {
		return false
	}
	m.used += n
	return true
}

func (m *Memory) give(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.used -= n
}

// park notes that p has no carrier, and unpark that this is over.
func (m *Memory) park(p *Pipe) *list.Element {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.detached.PushBack(p)
}

func (m *Memory) unpark(e *list.Element) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.detached.Remove(e) // does nothing if it has been taken out
}

// evict gives up the longest detached pipe that holds anything, and tells
// whether there was one. The caller holds no pipe's mu.
func (m *Memory) evict() bool {
	for {
		m.mu.Lock()
		e := m.detached.Front()
		if e != nil {
			m.detached.Remove(e)
		}
		m.mu.Unlock()
		if e == nil {
			return false
		}
		if e.Value.(*Pipe).evicted() {
			return true
		}
	}
}
