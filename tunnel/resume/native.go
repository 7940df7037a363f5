package resume

import (
	"net"
	"sync"
)

// DatagramConn is a conn that takes datagrams beside its bytes, past whatever those wait
// for. Its other end is one, too, and keeps what comes before it is a carrier.
//
// Only the conn's peer must be able to send them, and none may arrive twice, nor on
// another conn. They may get lost and overtake each other and the bytes.
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

// maxNative is the size of the longest datagram that goes past the bytes. What is longer
// would be cut in pieces by most conns, of which none may get lost.
const maxNative = 2 << 10

// packets are datagrams that are about to be sent, one behind the other.
type packets struct {
	bytes []byte
	batch [][]byte
}

var packetPool = sync.Pool{New: func() any { return new(packets) }}

// add puts a datagram in, if it may go past the bytes.
func (k *packets) add(size int, d Datagram) bool {
	if n := len(d.Head) + len(d.Body); n == 0 || n > size || d.Ordered {
		return false
	}
	begin := len(k.bytes)
	k.bytes = append(append(k.bytes, d.Head...), d.Body...)
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
	if c == nil || c.native == nil || p.err != nil {
		p.mu.Unlock()
		return batch
	}
	p.Chat()
	p.mu.Unlock()
	size := min(c.native.DatagramSize(), maxNative)
	k := packetPool.Get().(*packets)
	defer k.free()
	for i, d := range batch {
		if k.add(size, d) {
			continue
		}
		if rest == nil {
			rest = make([]Datagram, 0, len(batch)-i)
		}
		rest = append(rest, d)
	}
	c.native.WriteDatagrams(k.batch)
	return rest
}

// receiveNative takes what comes past the bytes until the conn is closed. It is no sign
// that the bytes come through.
func (c *Carrier) receiveNative() {
	p := c.pipe
	for b := make([]byte, maxNative); ; {
		n, err := c.native.ReadDatagram(b)
		if err != nil {
			return
		}
		p.mu.Lock()
		if p.carrier == c && n > 0 {
			p.Chat()
			p.enqueue(b[:n])
		}
		p.mu.Unlock()
	}
}
