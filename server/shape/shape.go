// Package shape allots bandwidth: to all, to groups, to users and to their flows, in
// both directions, each with a rate that is guaranteed to it and one that is its
// ceiling.
//
// What somebody does not use goes to those who want it. First, everybody gets what is
// guaranteed to him, or in proportion to it if there is not so much. What is left is
// shared by weight, up to everybody's ceiling. Within a share, flows that use little
// of it go before those that use much.
//
// Bytes wait for their turn and nothing is lost. They pass in pieces that take one to four
// milliseconds at the lowest ceiling above them, of 256 bytes at least and 64 KiB at most.
// The package keeps no bytes: what waits is with whoever asks, and everybody asks for one piece at a
// time, so that its only queues are as long as there are flows.
//
// There is no goroutine. Whoever asks does the work, and a timer that is set only while
// somebody waits.
package shape

import (
	"net"
	"sync"
	"time"
)

// Direction is up, from apps to targets, or down.
type Direction int

// The directions. What is allotted in one says nothing about the other.
const (
	Up Direction = iota
	Down
	directions
)

// Limits say what somebody gets in one direction. The zero Limits are an equal part of
// all there is.
type Limits struct {
	// Guaranteed is had in any case, unless more is guaranteed in all than there is. Those who
	// have no guarantee of their own pass on those of who is below them. A guarantee is no
	// more than the ceiling.
	Guaranteed Rate

	// Ceiling is never exceeded, in the long run. At once may pass what goes through in
	// 25 ms, or 512 bytes, and one piece or datagram. 0 means that there is none.
	Ceiling Rate

	// Weight is the part of what nobody is guaranteed. 0 is 1 for users and flows, and for
	// groups as many as their users who want something have together.
	Weight int
}

// Allotment is what somebody gets.
type Allotment [directions]Limits

// Share is a part of the bandwidth: that of all, of a group or of a user. Its methods
// are safe for concurrent use.
type Share struct {
	ways [directions]*node
}

// New gives the share of all. It needs no end.
func New(total Allotment) *Share {
	s := new(Share)
	for d, limits := range total {
		s.ways[d] = newTree(limits)
	}
	return s
}

// Group gives a share for several users, who are then users of it.
func (s *Share) Group(a Allotment) *Share { return s.below(a, true) }

// User gives a share for somebody's flows.
func (s *Share) User(a Allotment) *Share { return s.below(a, false) }

func (s *Share) below(a Allotment, pooled bool) *Share {
	child := new(Share)
	for d, n := range s.ways {
		child.ways[d] = n.add(&node{limits: a[d], inner: newInner(pooled)})
	}
	return child
}

// Set changes what the share gets, from now on and also for those who wait.
func (s *Share) Set(a Allotment) {
	for d, n := range s.ways {
		n.set(a[d])
	}
}

// Owes tells how long it takes to make up for what the share has had at once. One that takes
// its place before gets more than its ceiling.
func (s *Share) Owes() time.Duration {
	return max(s.ways[Up].owes(), s.ways[Down].owes())
}

// Close gives the share back. All below it must have been closed before.
func (s *Share) Close() {
	for _, n := range s.ways {
		n.close()
	}
}

// Flow is what asks for bandwidth. Its methods are safe for concurrent use, but in one
// direction one may ask at a time.
type Flow struct {
	ways [directions]*node

	mu     sync.Mutex
	closed bool
	done   chan struct{} // nil: nobody has waited for it
}

// Flow gives a flow of the share, which is a user's.
func (s *Share) Flow(a Allotment) *Flow {
	f := new(Flow)
	for d, n := range s.ways {
		f.ways[d] = n.add(&node{limits: a[d]})
	}
	return f
}

// Set changes what the flow gets, as [Share.Set] does.
func (f *Flow) Set(a Allotment) {
	for d, n := range f.ways {
		n.set(a[d])
	}
}

// Move makes the flow one of another share, of the same total, with what it gets
// there. Who waits goes on waiting there.
func (f *Flow) Move(to *Share, a Allotment) {
	for d, n := range f.ways {
		n.move(to.ways[d], a[d])
	}
}

// Limited tells whether there is any ceiling for the flow now, so that it may have to wait.
func (f *Flow) Limited(d Direction) bool { return f.ways[d].piece.Load() > 0 }

// Take waits until some of n bytes may pass, as many as make a piece or as have been saved
// up, and tells how many. It fails with [net.ErrClosed] when the flow is closed, and nothing else ends the
// wait. It costs next to nothing where there is no ceiling, and allocates nothing from
// the second wait on.
func (f *Flow) Take(d Direction, n int) (int, error) {
	leaf := f.ways[d]
	if n <= 0 || leaf.piece.Load() == 0 {
		return n, nil
	}
	return f.take(leaf, min(n, maxPiece), false)
}

// TakeAll waits until n bytes may pass together, as those of a datagram must.
func (f *Flow) TakeAll(d Direction, n int) error {
	leaf := f.ways[d]
	if n <= 0 || leaf.piece.Load() == 0 {
		return nil
	}
	_, err := f.take(leaf, n, true)
	return err
}

// Try tells whether n bytes may pass together now, and waits for nothing. If so, they
// have.
func (f *Flow) Try(d Direction, n int) bool {
	leaf := f.ways[d]
	return n <= 0 || leaf.piece.Load() == 0 || leaf.try(n)
}

func (f *Flow) take(leaf *node, n int, whole bool) (int, error) {
	if got := leaf.ask(n, whole); got > 0 {
		return got, nil
	}
	select {
	case got := <-leaf.granted:
		return got, nil
	case <-f.Done():
		return 0, net.ErrClosed
	}
}

// Done is closed when the flow is.
func (f *Flow) Done() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.done == nil {
		f.done = make(chan struct{})
		if f.closed {
			close(f.done)
		}
	}
	return f.done
}

// Close ends the flow, and what waits in it.
func (f *Flow) Close() {
	if !f.close() {
		return
	}
	for _, n := range f.ways {
		n.close()
	}
}

// close tells whether the flow was open.
func (f *Flow) close() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return false
	}
	f.closed = true
	if f.done != nil {
		close(f.done)
	}
	return true
}
