package relay

import (
	"sync"
	"sync/atomic"
)

// How much one direction reads at a time, in bytes. A direction holds a buffer
// only while bytes move, or while nobody takes them. When many do, the buffers get
// smaller: what they hold together is what counts on a handheld device.
const (
	largeBuffer = 64<<10 - 256 // what a session sends at once, if it can
	smallBuffer = 16<<10 - 24  // a full frame of a session's

	maxLarge = 32 // large ones in use
)

// buffers are those of all directions.
var buffers pool

type pool struct {
	large, small sync.Pool // of *[]byte
	inUse        atomic.Int32
}

func (p *pool) get() *[]byte {
	from, size := &p.large, largeBuffer
	if p.inUse.Add(1) > maxLarge {
		p.inUse.Add(-1)
		from, size = &p.small, smallBuffer
	}
	if b, ok := from.Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, size)
	return &b
}

// put takes a buffer back, if there is one.
func (p *pool) put(b **[]byte) {
	switch {
	case *b == nil:
		return
	case len(**b) == largeBuffer:
		p.inUse.Add(-1)
		p.large.Put(*b)
	default:
		p.small.Put(*b)
	}
	*b = nil
}
