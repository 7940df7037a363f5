package tunnel_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/adit-net/adit/tunnel"
	"github.com/adit-net/adit/tunnel/resume"
	"github.com/adit-net/adit/tunnel/tunneltest"
)

// meddling is what is done to a connection at one byte of one direction.
type meddling struct {
	how  string
	side int // who writes: 0 the client, 1 the server
	at   int // the byte
	bit  int // for a flip
}

func (m meddling) String() string {
	return fmt.Sprintf("%s byte %d of the %s (bit %d)", m.how, m.at, []string{"client", "server"}[m.side], m.bit)
}

// meddled is one end of a link, whose writes are meddled with.
type meddled struct {
	*tunneltest.Conn
	meddling
	done int
}

func (c *meddled) Write(p []byte) (int, error) {
	i := c.at - c.done
	c.done += len(p)
	if i < 0 || i >= len(p) {
		return c.Conn.Write(p)
	}
	switch c.how {
	case "flip":
		q := bytes.Clone(p)
		q[i] ^= 1 << c.bit
		return c.Conn.Write(q)
	case "duplicate":
		q := append(bytes.Clone(p[:i+1]), p[i:]...)
		n, err := c.Conn.Write(q)
		return min(n, len(p)), err
	}
	if n, err := c.Conn.Write(p[:i]); err != nil {
		return n, err
	}
	breathe()
	if c.how == "cut" {
		c.Cut()
		return i, tunneltest.ErrCut
	}
	c.Stall(true)
	return len(p), nil // in the sender's buffers
}

// breathe lets what is under way arrive.
func breathe() { time.Sleep(time.Millisecond) }

// hall is a client and a server whose pipe has a carrier that works.
type hall struct {
	t        *testing.T
	key      signer
	pipes    [2]*resume.Pipe // the client's and the server's
	wrote    [2]bytes.Buffer
	mu       sync.Mutex
	read     [2]bytes.Buffer
	carriers sync.WaitGroup
	epoch    uint64
}

type signer struct{ ed25519.PrivateKey }

func (s signer) Public() ed25519.PublicKey { return s.PrivateKey.Public().(ed25519.PublicKey) }
func (s signer) Sign(m []byte) []byte      { return ed25519.Sign(s.PrivateKey, m) }

var (
	place      = tunnel.Place{Server: [32]byte{1}, Carrier: [32]byte{2}}
	theSession = [16]byte{3}
)

// turn is how long one end waits for the other in an attach.
const turn = 10 * time.Second

func newHall(t *testing.T) *hall {
	h := &hall{t: t, key: signer{ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))}}
	for i := range h.pipes {
		h.pipes[i] = resume.New(resume.Config{Grace: time.Minute, Idle: 20 * time.Second})
		h.carriers.Go(func() { h.take(i) })
	}
	h.epoch++
	a, b := tunneltest.Link(tunneltest.Path{})
	h.join(1, b, h.epoch, 0)
	h.join(0, a, h.epoch, 0)
	h.talk()
	return h
}

func (h *hall) close() {
	for _, p := range h.pipes {
		p.Close()
	}
	h.carriers.Wait()
}

// take reads one end.
func (h *hall) take(i int) {
	b := make([]byte, 4096)
	for {
		n, err := h.pipes[i].Read(b)
		h.mu.Lock()
		h.read[i].Write(b[:n])
		h.mu.Unlock()
		if err != nil {
			if errors.Is(err, io.EOF) {
				h.t.Error("a loss looks like an end")
			}
			return
		}
	}
}

// talk writes something at both ends.
func (h *hall) talk() {
	for i, p := range h.pipes {
		b := make([]byte, 1+rand.IntN(200))
		for j := range b {
			b[j] = byte(rand.IntN(256))
		}
		n, _ := p.Write(b)
		h.wrote[i].Write(b[:n])
	}
}

// all tells whether both ends have read all that was written. What they have
// read must be the beginning of it in any case.
func (h *hall) all() bool {
	synctest.Wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	all := true
	for i := range h.pipes {
		got, want := h.read[i].Bytes(), h.wrote[1-i].Bytes()
		if !bytes.HasPrefix(want, got) {
			h.t.Error("other bytes were read than written")
		}
		all = all && len(got) == len(want)
	}
	return all
}

// attach tries to give the pipe another carrier. Both ends do what they do in
// earnest.
func (h *hall) attach(m meddling) (err error) {
	a, b := tunneltest.Link(tunneltest.Path{})
	ends := [2]*meddled{{Conn: a, meddling: meddling{at: -1}}, {Conn: b, meddling: meddling{at: -1}}}
	ends[m.side].meddling = m
	h.epoch++
	epoch := h.epoch
	var both sync.WaitGroup
	both.Go(func() { h.serve(ends[1]) })
	both.Go(func() { err = h.dial(ends[0], epoch) })
	both.Wait()
	return err
}

func (h *hall) dial(conn *meddled, epoch uint64) error {
	conn.SetDeadline(time.Now().Add(turn))
	hello := tunnel.Hello{Session: theSession, Epoch: epoch, Received: h.pipes[0].Received()}
	answer := make([]byte, tunnel.AnswerSize)
	_, err := conn.Write(hello.Sign(h.key, place))
	if err == nil {
		_, err = io.ReadFull(conn, answer)
	}
	var welcome tunnel.Welcome
	if err == nil {
		welcome, err = tunnel.ParseAnswer(answer)
	}
	if err != nil {
		conn.Close()
		return err
	}
	return h.join(0, conn, epoch, welcome.Received)
}

func (h *hall) serve(conn *meddled) {
	conn.SetDeadline(time.Now().Add(turn))
	b := make([]byte, tunnel.OpeningSize)
	_, err := io.ReadFull(conn, b)
	var opening tunnel.Opening
	if err == nil {
		opening, err = tunnel.OpenAt(b, place)
	}
	if err != nil || !opening.Hello.Device.Equal(h.key.Public()) || opening.Hello.Session != theSession {
		conn.Close()
		return
	}
	hello := opening.Hello
	received, err := h.pipes[1].Judge(hello.Epoch, hello.Received)
	answer := tunnel.RefusedStale.Bytes()
	if err == nil {
		answer = tunnel.Welcome{Session: theSession, Epoch: hello.Epoch, Received: received}.Bytes()
	}
	if _, failed := conn.Write(answer); failed != nil || err != nil {
		conn.Close()
		return
	}
	h.join(1, conn, hello.Epoch, hello.Received)
}

func (h *hall) join(side int, conn net.Conn, epoch, offset uint64) error {
	conn.SetDeadline(time.Time{})
	c, err := h.pipes[side].Attach(conn, epoch, offset)
	if err != nil {
		conn.Close()
		return err
	}
	h.carriers.Go(func() { c.Serve(context.Background()) })
	return nil
}

// epochs tells which carriers the ends have; 0 for none.
func (h *hall) epochs() (epochs [2]uint64) {
	for i, p := range h.pipes {
		if state, _ := p.State(); state.Attached {
			epochs[i] = state.Epoch
		}
	}
	return epochs
}

// TestFaultAtEveryByteOfAnAttach disturbs the second attach of a pipe at each byte
// of what both sides say, and of the frames behind it: the pipe goes on with the carrier
// that it had or with the next one, or, where bytes were changed that only a
// carrier's encryption protects, it ends and says so.
func TestFaultAtEveryByteOfAnAttach(t *testing.T) {
	const beyond = 100 // bytes of frames behind the messages
	bits := 1          // of each byte
	if os.Getenv("ADIT_FULL") != "" {
		bits = 8
	}
	sizes := [2]int{tunnel.OpeningSize, tunnel.AnswerSize}
	for side, size := range sizes {
		for _, how := range []string{"cut", "stall"} {
			t.Run(fmt.Sprint(how, " ", side), func(t *testing.T) {
				t.Parallel()
				for at := range size + beyond {
					disturb(t, meddling{how: how, side: side, at: at}, at < size)
				}
			})
		}
		t.Run(fmt.Sprint("duplicate ", side), func(t *testing.T) {
			t.Parallel()
			for at := range size {
				disturb(t, meddling{how: "duplicate", side: side, at: at}, true)
			}
		})
		t.Run(fmt.Sprint("flip ", side), func(t *testing.T) {
			t.Parallel()
			for at := range size {
				for bit := range bits {
					disturb(t, meddling{how: "flip", side: side, at: at, bit: (at + bit) % 8}, true)
				}
			}
		})
	}
}

// disturb runs one attach that is meddled with. early is set if that happens before the
// attach is done.
func disturb(t *testing.T, m meddling, early bool) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		h := newHall(t)
		defer h.close()
		if !h.all() {
			t.Fatal("the first carrier brings nothing")
		}
		h.attach(m)
		synctest.Wait()
		if opening := m.side == 0 && early && m.how != "duplicate"; opening {
			if h.epochs() != [2]uint64{1, 1} {
				t.Errorf("%v: carriers %v", m, h.epochs())
			}
			h.talk()
			if !h.all() {
				t.Errorf("%v: the live carrier was disturbed", m)
			}
		}
		talking := make(chan struct{})
		go func() { h.talk(); close(talking) }() // it may have to wait for the next carrier
		over := h.settle(m, talking)
		if over && (m.how == "cut" || m.how == "stall" || m.side == 0 && m.how == "flip") {
			a, _ := h.pipes[0].State()
			b, _ := h.pipes[1].State()
			t.Errorf("%v: the pipe is over: the client says %v, the server %v", m, a.Err, b.Err)
		}
	})
}

// settle lets the client attach once more, without trouble, and wants
// everything to arrive, unless the pipe is over: then both ends must know.
func (h *hall) settle(m meddling, talking <-chan struct{}) (over bool) {
	h.t.Helper()
	synctest.Wait()
	err := h.attach(meddling{at: -1})
	synctest.Wait()
	for _, p := range h.pipes {
		state, _ := p.State()
		over = over || state.Err != nil
	}
	if over {
		time.Sleep(2 * time.Minute) // the grace, for an end that was not told
		synctest.Wait()
		for _, p := range h.pipes {
			if state, _ := p.State(); state.Err == nil {
				h.t.Errorf("%v: an end does not know that the pipe is over", m)
			}
		}
		<-talking
		h.all()
		return true
	}
	<-talking
	if err != nil {
		h.t.Errorf("%v: the next attach failed: %v", m, err)
	}
	h.talk()
	if !h.all() {
		h.t.Errorf("%v: not everything has arrived", m)
	}
	return false
}

// TestCopiedOpeningIsWorthNothing replays every opening that was ever sent, on
// the connection that it was made for and on another one.
func TestCopiedOpeningIsWorthNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHall(t)
		defer h.close()
		var copies [][]byte
		for range 20 {
			h.epoch++
			hello := tunnel.Hello{Session: theSession, Epoch: h.epoch, Received: h.pipes[0].Received()}
			copies = append(copies, hello.Sign(h.key, place))
			received, err := h.pipes[1].Judge(hello.Epoch, hello.Received)
			if err != nil {
				t.Fatal(err)
			}
			a, b := tunneltest.Link(tunneltest.Path{})
			h.join(1, b, hello.Epoch, hello.Received)
			h.join(0, a, hello.Epoch, received)
			h.talk()
			h.all()
			for _, opening := range copies {
				before := h.epochs()
				a, b := tunneltest.Link(tunneltest.Path{})
				a.Write(opening)
				h.serve(&meddled{Conn: b, meddling: meddling{at: -1}})
				a.Close()
				if _, err := tunnel.OpenAt(opening, tunnel.Place{Server: place.Server, Carrier: [32]byte{9}}); err == nil {
					t.Error("an opening is good on two connections")
				}
				if h.epochs() != before {
					t.Errorf("carriers %v were %v", h.epochs(), before)
				}
			}
			h.talk()
			if !h.all() {
				t.Fatal("the live carrier was disturbed")
			}
		}
	})
}
