package resume

import (
	"crypto/rand"
	"encoding/binary"
	"net"
	"sync"
	"time"
)

// DatagramConn is a conn that can take datagrams beside its bytes, past whatever those
// wait for. A pipe uses it when both ends' conns are such.
//
// Only the conn's peer must be able to send them, and none may arrive twice, not even on
// another conn. They may get lost and overtake each other and the bytes. A carrier tells those that
// belong to it from those of others by itself.
type DatagramConn interface {
	net.Conn

	// DatagramSize is how many bytes a datagram may have at the moment.
	DatagramSize() int

	// WriteDatagrams sends datagrams and keeps nothing of batch. It never waits, and may
	// drop any. It is safe for concurrent use, also with Write.
	WriteDatagrams(batch [][]byte)

	// ReadDatagram waits for a datagram, of which it drops what b has no room for. It
	// fails once the conn is closed.
	ReadDatagram(b []byte) (int, error)
}

const (
	tokenSize = 4

	// maxNative is the size of the longest datagram that goes past the bytes. What is
	// longer would be cut in pieces by most conns, of which none may get lost.
	maxNative = 2 << 10
)

// native is what a carrier knows of its conn's datagrams. Each begins with a token that
// its receiver has chosen for this carrier, and has told over it.
type native struct {
	conn  DatagramConn
	token [tokenSize]byte // of those that come
	due   bool            // the peer must be told

	to  [tokenSize]byte // of those that go
	may bool            // the peer has told
}

func newNative(conn net.Conn) (n native) {
	if n.conn, n.due = conn.(DatagramConn); n.due {
		rand.Read(n.token[:])
	}
	return n
}

// value is what the peer is told.
func (n *native) value() uint64 { return uint64(binary.BigEndian.Uint32(n.token[:])) }

// told notes what the peer has told.
func (n *native) told(value uint64) {
	if n.conn != nil {
		binary.BigEndian.PutUint32(n.to[:], uint32(value))
		n.may = true
	}
}

// packets are datagrams that are about to be sent, one behind the other.
type packets struct {
	bytes []byte
	batch [][]byte
}

var packetPool = sync.Pool{New: func() any { return new(packets) }}

// add puts a datagram in, if it may go past the bytes.
func (k *packets) add(n *native, size int, d Datagram) bool {
	if d.Ordered || tokenSize+len(d.Head)+len(d.Body) > size {
		return false
	}
	begin := len(k.bytes)
	k.bytes = append(append(append(k.bytes, n.to[:]...), d.Head...), d.Body...)
	k.batch = append(k.batch, k.bytes[begin:])
	return true
}

func (k *packets) free() {
	clear(k.batch)
	k.bytes, k.batch = k.bytes[:0], k.batch[:0]
	packetPool.Put(k)
}

// sendNative sends what may go past the bytes, and gives the rest.
func (p *Pipe) sendNative(batch []Datagram) (rest []Datagram) {
	p.mu.Lock()
	c := p.carrier
	if c == nil || !c.native.may || p.err != nil {
		p.mu.Unlock()
		return batch
	}
	n := c.native
	p.chat = time.Now()
	p.mu.Unlock()
	size := min(n.conn.DatagramSize(), maxNative)
	k := packetPool.Get().(*packets)
	defer k.free()
	for i, d := range batch {
		if len(d.Head)+len(d.Body) > 0 && k.add(&n, size, d) {
			continue
		}
		if rest == nil {
			rest = make([]Datagram, 0, len(batch)-i)
		}
		rest = append(rest, d)
	}
	n.conn.WriteDatagrams(k.batch)
	return rest
}

// receiveNative takes what comes past the bytes until the conn is closed. It is no sign
// that the bytes come through.
func (c *Carrier) receiveNative() {
	p := c.pipe
	for b := make([]byte, maxNative); ; {
		n, err := c.native.conn.ReadDatagram(b)
		if err != nil {
			return
		}
		if n <= tokenSize || [tokenSize]byte(b) != c.native.token {
			continue // of another carrier, and late
		}
		p.mu.Lock()
		if p.carrier == c {
			p.chat = time.Now()
			p.enqueue(b[tokenSize:n])
		}
		p.mu.Unlock()
	}
}
