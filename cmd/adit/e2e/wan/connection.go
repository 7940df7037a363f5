package wan

import "sync"

// Ending is a way in which a TCP connection ends though neither end wants it.
type Ending int

const (
	_      Ending = iota
	Reset         // both ends get an RST
	Finish        // both ends get a FIN, and then nothing any more
)

// maxConnections bounds what a link remembers. Connections beyond cross it, but
// cannot be ended.
const maxConnections = 4096

// connections are the TCP connections that cross a link. Sides are 0 and 1.
type connections struct {
	mu    sync.Mutex
	all   map[flow]*connection // by the flow from side 0
	begun int
}

// connection is what the link has seen of one.
type connection struct {
	number int     // it is the so-manieth
	from   [2]flow // the flow from each side

	// What each side waits for, as its last acknowledgement says. It is the one
	// number at which the kernel there believes an RST (RFC 5961 section 3.2).
	waits [2]uint32
	acked [2]bool // the side has acknowledged anything
	fin   [2]bool // the side has sent a FIN

	ended Ending    // 0: it goes on
	known [2]uint32 // what each side waited for when it was ended
}

// see takes notice of a segment that comes from a side. It tells the connection
// that it belongs to, and if that has been ended, what to answer.
func (c *connections) see(side int, s segment) (*connection, []byte) {
	key := s.flow
	if side == 1 {
		key = key.reverse()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	x := c.all[key]
	if s.has(flagSYN) && !s.has(flagACK) && (x == nil || x.ended != 0) && len(c.all) < maxConnections {
		c.begun++
		x = &connection{number: c.begun, from: [2]flow{key, key.reverse()}}
		c.all[key] = x
	}
	if x == nil {
		return nil, nil
	}
	if s.has(flagACK) && !s.has(flagRST) && (!x.acked[side] || int32(s.ack-x.waits[side]) > 0) {
		x.waits[side], x.acked[side] = s.ack, true
	}
	if x.ended != 0 {
		return x, x.answer(side, s)
	}
	x.fin[side] = x.fin[side] || s.has(flagFIN)
	if s.has(flagRST) || x.fin[0] && x.fin[1] {
		delete(c.all, key) // it ends by itself
	}
	return x, nil
}

// end ends all connections that are established. It gives the packets for each side.
func (c *connections) end(how Ending) (packets [2][][]byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, x := range c.all {
		if x.live() {
			x.end(how, &packets)
		}
	}
	return packets
}

// endNewest ends the one of them that was begun last.
func (c *connections) endNewest(how Ending) (packets [2][][]byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var newest *connection
	for _, x := range c.all {
		if x.live() && (newest == nil || x.number > newest.number) {
			newest = x
		}
	}
	if newest != nil {
		newest.end(how, &packets)
	}
	return packets
}

// end ends the connection, and adds the packets for each side.
func (x *connection) end(how Ending, packets *[2][][]byte) {
	x.ended, x.known = how, x.waits
	for side := range packets {
		packets[side] = append(packets[side], x.blow(side))
	}
}

// over tells whether the connection has been ended. x may be nil.
func (c *connections) over(x *connection) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return x != nil && x.ended != 0
}

func (c *connections) live() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, x := range c.all {
		if x.live() {
			n++
		}
	}
	return n
}

func (x *connection) live() bool { return x.ended == 0 && x.acked[0] && x.acked[1] }

// blow is the packet that ends the connection for a side.
func (x *connection) blow(side int) []byte {
	s := segment{flow: x.from[1-side], seq: x.waits[side], ack: x.known[1-side], flags: flagRST | flagACK}
	if x.ended == Finish {
		s.flags = flagFIN | flagACK
	}
	return s.packet()
}

// answer says what a side gets for a segment after the end. The side may have
// acknowledged late what it had got before, and then took no notice of the
// first blow.
func (x *connection) answer(side int, s segment) []byte {
	if s.has(flagRST) || x.ended == Finish && x.waits[side] == x.known[side]+1 {
		return nil // it knows
	}
	x.known[side] = x.waits[side]
	return x.blow(side)
}
