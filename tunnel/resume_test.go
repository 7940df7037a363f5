package tunnel_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/adit-net/adit/tunnel"
	"github.com/adit-net/adit/tunnel/tunneltest"
)

// roamer is a session whose carriers come and go.
type roamer struct {
	t              *testing.T
	client, server *tunnel.Session
	arrived        chan *tunnel.Stream

	running sync.WaitGroup
	mu      sync.Mutex
	epoch   uint64
	link    *tunneltest.Conn
}

// newRoamer begins a session without a carrier, whose server sends back what
// it gets.
func newRoamer(t *testing.T, cfg tunnel.Config) *roamer {
	t.Helper()
	r := &roamer{t: t, arrived: make(chan *tunnel.Stream, 100)}
	r.client = tunnel.New(true, cfg)
	cfg.Handle = func(_ context.Context, s *tunnel.Stream) {
		io.Copy(struct{ io.Writer }{s}, struct{ io.Reader }{s})
		s.CloseWrite()
	}
	r.server = tunnel.New(false, cfg)
	for _, s := range []*tunnel.Session{r.client, r.server} {
		r.running.Go(func() { s.Serve(context.Background()) })
	}
	t.Cleanup(func() {
		r.client.Close(0)
		r.server.Close(0)
		r.running.Wait()
	})
	return r
}

// attach gives the session a new carrier, in place of the one before.
func (r *roamer) attach() {
	r.t.Helper()
	r.attachOver(tunneltest.Path{Delay: time.Millisecond})
}

func (r *roamer) attachOver(path tunneltest.Path) {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	near, far := tunneltest.Link(path)
	r.epoch++
	at := r.client.Received()
	received, err := r.server.Judge(r.epoch, at)
	if err != nil {
		r.t.Fatal(err)
	}
	r.carry(r.server, far, at)
	r.carry(r.client, near, received)
	r.link = near
}

func (r *roamer) carry(s *tunnel.Session, conn net.Conn, offset uint64) {
	c, err := s.Attach(conn, r.epoch, offset)
	if err != nil {
		r.t.Fatal(err)
	}
	r.running.Go(func() { c.Serve(context.Background()) })
}

func (r *roamer) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.link.Cut()
}

func (r *roamer) open() *tunnel.Stream {
	r.t.Helper()
	s, err := r.client.Open(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

// meet lets both ends hear of each other: before that, a session ends with its
// carrier.
func (r *roamer) meet() {
	r.t.Helper()
	s := r.open()
	defer s.Close()
	s.Write([]byte("hello"))
	if _, err := io.ReadFull(s, make([]byte, 5)); err != nil {
		r.t.Fatal(err)
	}
}

func TestStreamsSurviveTheirCarriers(t *testing.T) {
	r := newRoamer(t, tunnel.Config{Grace: time.Minute})
	r.attach()
	r.meet()
	var streams sync.WaitGroup
	for i := range 8 {
		s := r.open()
		streams.Go(func() {
			want := make([]byte, 1<<20)
			rand.NewChaCha8([32]byte{byte(i)}).Read(want)
			go func() {
				for b := want; len(b) > 0; {
					n, err := s.Write(b[:min(len(b), 1+rand.IntN(50_000))])
					if err != nil {
						t.Error(err)
						return
					}
					b = b[n:]
				}
				s.CloseWrite()
			}()
			if got, err := io.ReadAll(struct{ io.Reader }{s}); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes came back, others than were sent, or: %v", len(got), err)
			}
			s.Close()
		})
	}
	over := make(chan struct{})
	go func() { streams.Wait(); close(over) }()
	for cuts := 0; ; cuts++ {
		select {
		case <-over:
			if cuts == 0 {
				t.Error("no carrier was cut")
			}
			return
		case <-time.After(time.Duration(rand.IntN(10)) * time.Millisecond):
			r.cut()
			r.attach()
		}
	}
}

// TestEndsAndResetsSurviveTheirCarriers wants each told from the other after
// the carrier under it was cut.
func TestEndsAndResetsSurviveTheirCarriers(t *testing.T) {
	r := newRoamer(t, tunnel.Config{Grace: time.Minute})
	r.attach()
	for range 50 {
		ends, breaks := r.open(), r.open()
		for _, s := range []*tunnel.Stream{ends, breaks} {
			s.Write([]byte("hello"))
			if _, err := io.ReadFull(s, make([]byte, 5)); err != nil {
				t.Fatal(err)
			}
		}
		r.cut()
		ends.CloseWrite()
		breaks.Reset()
		r.attach()
		if _, err := ends.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("the end reads as %v", err)
		}
		ends.Close()
	}
}

func TestOpenWaitsForACarrier(t *testing.T) {
	r := newRoamer(t, tunnel.Config{Grace: time.Minute})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := r.client.Open(ctx); !errors.Is(err, tunnel.ErrDetached) {
		t.Errorf("opened, or %v", err)
	}
	opened := make(chan error, 1)
	go func() {
		_, err := r.client.Open(context.Background())
		opened <- err
	}()
	r.attach()
	if err := <-opened; err != nil {
		t.Error(err)
	}
}

func TestOpenNowOpensWhatNeedsNoWaiting(t *testing.T) {
	r := newRoamer(t, tunnel.Config{Grace: time.Minute, Streams: 1})
	if r.client.OpenNow() != nil {
		t.Error("opened without a carrier")
	}
	r.attach()
	r.open().Reset() // the session has begun by then
	s := r.client.OpenNow()
	if s == nil {
		t.Fatal("not opened")
	}
	if r.client.OpenNow() != nil {
		t.Error("opened more than there may be")
	}
	if _, err := s.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(s, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	r.client.Close(0)
	if r.client.OpenNow() != nil {
		t.Error("opened in a session that is over")
	}
}

// TestStreamsThatAreGivenUpDoNotPileUp opens and resets streams on a carrier
// that stands still, as fast as it can.
func TestStreamsThatAreGivenUpDoNotPileUp(t *testing.T) {
	r := newRoamer(t, tunnel.Config{Grace: time.Minute, Streams: 100})
	r.attach()
	first := r.open()
	first.Write([]byte("hello"))
	io.ReadFull(first, make([]byte, 5))
	r.link.Stall(true)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	n := 0
	for ; ; n++ {
		s, err := r.client.Open(ctx)
		if err != nil {
			break
		}
		s.Reset()
	}
	if ctx.Err() == nil || n > 500 {
		t.Errorf("%d streams were opened", n)
	}
	r.link.Stall(false)
	if _, err := first.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(first, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	s := r.open() // it waits until those are settled
	s.Write([]byte("hello"))
	if _, err := io.ReadFull(s, make([]byte, 5)); err != nil {
		t.Error(err)
	}
}

func TestSessionIsLostWhenItsGraceIsOver(t *testing.T) {
	r := newRoamer(t, tunnel.Config{Grace: 50 * time.Millisecond})
	r.attach()
	s := r.open()
	s.Write([]byte("hello"))
	io.ReadFull(s, make([]byte, 5))
	r.cut()
	if _, err := s.Read(make([]byte, 1)); !errors.Is(err, tunnel.ErrSessionLost) {
		t.Errorf("read: %v", err)
	}
	<-r.server.Done()
	for _, end := range []*tunnel.Session{r.client, r.server} {
		if err := end.Err(); !errors.Is(err, tunnel.ErrGrace) {
			t.Errorf("the session is over: %v", err)
		}
	}
}

// TestReasonOfAnEndArrives though the session ends with it.
func TestReasonOfAnEndArrives(t *testing.T) {
	r := newRoamer(t, tunnel.Config{Grace: time.Minute})
	r.attach()
	r.server.Close(tunnel.RefusedUserDisabled)
	<-r.client.Done()
	if err := r.client.Err(); !errors.Is(err, tunnel.RefusedUserDisabled) {
		t.Errorf("the session is over: %v", err)
	}
}

func sendDatagram(s *tunnel.Session, flow uint32, b []byte) error {
	return s.SendDatagrams([]tunnel.Datagram{{Head: tunnel.AppendFlow(nil, flow), Body: b}})
}

func receiveDatagram(ctx context.Context, s *tunnel.Session) (flow uint32, b []byte, err error) {
	var one [1][]byte
	_, err = s.ReceiveDatagrams(ctx, one[:])
	flow, n := tunnel.TakeFlow(one[0])
	return flow, one[0][n:], err
}

func TestDatagramsKeepTheirFlowAndSize(t *testing.T) {
	r := newRoamer(t, tunnel.Config{Grace: time.Minute})
	if err := sendDatagram(r.client, 1, []byte("lost")); err != nil {
		t.Errorf("without a carrier: %v", err) // it is lost, as datagrams are
	}
	r.attach()
	for _, flow := range []uint32{0, 1, 63, 64, 1<<14 - 1, 1 << 14, tunnel.MaxDatagramFlow} {
		for _, size := range []int{0, 1, 1200, 65_792} {
			want := bytes.Repeat([]byte{byte(size)}, size)
			if err := sendDatagram(r.client, flow, want); err != nil {
				t.Fatal(err)
			}
			got, b, err := receiveDatagram(t.Context(), r.server)
			if err != nil || got != flow || !bytes.Equal(b, want) {
				t.Errorf("flow %d, %d bytes: got flow %d, %d bytes, %v", flow, size, got, len(b), err)
			}
		}
	}
	if err := sendDatagram(r.client, 1, make([]byte, 65_796)); !errors.Is(err, tunnel.ErrDatagramSize) {
		t.Errorf("a datagram that is too long: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, _, err := receiveDatagram(ctx, r.server); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("nothing was sent: %v", err)
	}
}

// TestDatagramsNeitherWaitNorPileUp sends more than the carrier takes.
func TestDatagramsNeitherWaitNorPileUp(t *testing.T) {
	r := newRoamer(t, tunnel.Config{Grace: time.Minute})
	r.attach()
	s := r.open()
	s.Write([]byte("hello"))
	io.ReadFull(s, make([]byte, 5))
	r.link.Stall(true)
	for range 10_000 {
		if err := sendDatagram(r.client, 7, make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
	}
	sendDatagram(r.client, 7, []byte("last"))
	r.link.Stall(false)
	for n := 1; ; n++ {
		_, b, err := receiveDatagram(t.Context(), r.server)
		if err != nil {
			t.Fatal(err)
		}
		if string(b) == "last" {
			if n > 1000 {
				t.Errorf("%d datagrams had been kept", n)
			}
			return
		}
	}
}

// TestBulkLeavesThePathToChat fills a path that holds 200 KiB, and has queues of a second more.
func TestBulkLeavesThePathToChat(t *testing.T) {
	r := newRoamer(t, tunnel.Config{})
	r.attachOver(tunneltest.Path{Delay: 25 * time.Millisecond, Rate: 4 << 20, Queue: 4 << 20})
	for range 8 {
		bulk, piece := r.open(), make([]byte, 64<<10)
		r.running.Go(func() {
			for {
				if _, err := bulk.Write(piece); err != nil {
					return
				}
			}
		})
		r.running.Go(func() { io.Copy(io.Discard, bulk) })
	}
	underWay := func() int {
		state, _ := r.client.State()
		return state.Held
	}
	for end := time.Now().Add(20 * time.Second); underWay() < 3<<19; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("bulk alone has no more than %d bytes under way", underWay())
		}
	}
	chat, word := r.open(), make([]byte, 64)
	for end := time.Now().Add(20 * time.Second); underWay() > 3<<18; {
		if time.Now().After(end) {
			t.Fatalf("beside chat there are still %d bytes under way", underWay())
		}
		if _, err := chat.Write(word); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(chat, word); err != nil {
			t.Fatal(err)
		}
	}
}
