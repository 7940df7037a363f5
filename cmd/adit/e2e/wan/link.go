// Package wan is a wire between two machines of a test, with the faults that
// wide networks have: it is slow, it falls silent, and something on the way
// ends connections that are not its own.
package wan

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// Config says how a link behaves in each direction. The zero Config is as fast
// as the machine.
type Config struct {
	Rate  int           // bits per second; 0 is without limit
	Delay time.Duration // one way
	Queue int           // bytes that wait for the wire; those beyond are lost; 0 means 256 KiB
	Loss  float64       // the share of packets that get lost by chance, from 0 to 1
}

// maxPacket is the largest IP packet without jumbo options.
const maxPacket = 64 << 10

// Link moves IP packets between two devices while Serve runs. Its methods are
// safe for concurrent use.
type Link struct {
	lanes       [2]lane // by the side that they come from
	connections connections
	down        atomic.Bool
	blocked     atomic.Uint32 // a Protocol
}

// New makes a link between two devices. Each Read of a device gives one IP
// packet and each Write takes one. A device that does not take a packet loses
// it. The link closes them in the end.
func New(a, b io.ReadWriteCloser, c Config) *Link {
	if c.Queue == 0 {
		c.Queue = 256 << 10
	}
	l := &Link{connections: connections{all: make(map[flow]*connection)}}
	l.lanes[0] = lane{Config: c, in: a, out: b, more: make(chan struct{}, 1)}
	l.lanes[1] = lane{Config: c, in: b, out: a, more: make(chan struct{}, 1)}
	return l
}

// Serve moves packets until ctx ends or a device fails. It must be called once.
func (l *Link) Serve(ctx context.Context) error {
	g, inner := errgroup.WithContext(ctx)
	g.Go(func() error {
		<-inner.Done()
		return errors.Join(l.lanes[0].in.Close(), l.lanes[1].in.Close())
	})
	for side := range l.lanes {
		g.Go(func() error { return l.collect(side) })
		g.Go(func() error { return l.deliver(inner, side) })
	}
	if err := g.Wait(); ctx.Err() == nil {
		return err
	}
	return nil
}

// SetUp makes the link lose every packet, also those under way, or go on.
func (l *Link) SetUp(up bool) { l.down.Store(!up) }

// End ends every established TCP connection that crosses the link, at once and
// for both ends, and returns how many there were. Nothing of them crosses it
// afterwards.
func (l *Link) End(how Ending) int { return l.blow(l.connections.end(how)) }

// EndNewest is End for the connection alone that was begun last.
func (l *Link) EndNewest(how Ending) int { return l.blow(l.connections.endNewest(how)) }

func (l *Link) blow(packets [2][][]byte) int {
	for side, all := range packets {
		for _, p := range all {
			_, _ = l.lanes[side].in.Write(p) // a lost one comes again with the answer
		}
	}
	return len(packets[0])
}

// Connections returns how many established TCP connections cross the link.
func (l *Link) Connections() int { return l.connections.live() }

// collect takes packets from a side.
func (l *Link) collect(side int) error {
	lane := &l.lanes[side]
	buf := make([]byte, maxPacket)
	for {
		n, err := lane.in.Read(buf)
		if err != nil {
			return fmt.Errorf("read packet: %w", err)
		}
		if l.loses(buf[:n]) {
			continue
		}
		p := packet{bytes: append([]byte(nil), buf[:n]...)}
		if s, ok := parseSegment(p.bytes); ok {
			var answer []byte
			if p.connection, answer = l.connections.see(side, s); answer != nil {
				_, _ = lane.in.Write(answer)
			}
		}
		if !l.connections.over(p.connection) {
			lane.add(p)
		}
	}
}

// deliver hands a side's packets to the other side when it is time.
func (l *Link) deliver(ctx context.Context, side int) error {
	lane := &l.lanes[side]
	for {
		p, err := lane.next(ctx)
		if err != nil {
			return err
		}
		if !l.loses(p.bytes) && !l.connections.over(p.connection) {
			_, _ = lane.out.Write(p.bytes)
		}
	}
}

type packet struct {
	bytes      []byte
	connection *connection // nil: none that the link knows
	due        time.Time
}

// lane is one direction.
type lane struct {
	Config
	in, out io.ReadWriteCloser

	mu    sync.Mutex
	queue []packet      // in the order in which they are due
	free  time.Time     // when the wire has sent all that waits
	more  chan struct{} // has a token when the queue is not empty any more
}

// add puts a packet on the wire, or loses it.
func (l *lane) add(p packet) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if l.free.Before(now) {
		l.free = now
	}
	if l.Rate > 0 {
		if l.free.Sub(now) > l.onWire(l.Queue) {
			return
		}
		l.free = l.free.Add(l.onWire(len(p.bytes)))
	}
	if rand.Float64() < l.Loss {
		return // it has kept the wire busy all the same
	}
	p.due = l.free.Add(l.Delay)
	l.queue = append(l.queue, p)
	if len(l.queue) == 1 {
		select {
		case l.more <- struct{}{}:
		default:
		}
	}
}

// onWire is how long so many bytes keep the wire busy.
func (l *lane) onWire(bytes int) time.Duration {
	return time.Duration(bytes) * 8 * time.Second / time.Duration(l.Rate)
}

// next waits for the first packet to be due. Its error is ctx's.
func (l *lane) next(ctx context.Context) (packet, error) {
	for {
		l.mu.Lock()
		var first packet
		waiting := len(l.queue) > 0
		if waiting {
			first = l.queue[0]
		}
		wait := time.Until(first.due)
		if waiting && wait <= 0 {
			l.queue[0] = packet{}
			l.queue = l.queue[1:]
			l.mu.Unlock()
			return first, ctx.Err()
		}
		l.mu.Unlock()
		var due <-chan time.Time
		if waiting {
			due = time.After(wait)
		}
		select {
		case <-due:
		case <-l.more:
		case <-ctx.Done():
			return packet{}, ctx.Err()
		}
	}
}
