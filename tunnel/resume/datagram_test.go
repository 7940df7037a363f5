package resume_test

import (
	"context"
	"encoding/binary"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/adit-net/adit/tunnel/resume"
	"github.com/adit-net/adit/tunnel/tunneltest"
)

// numbered is a datagram of n bytes that can be told from others.
func numbered(number, n int) []byte {
	b := make([]byte, n)
	binary.BigEndian.PutUint64(b, uint64(number))
	return b
}

func TestFloodOfDatagramsLeavesDataItsTurn(t *testing.T) {
	const rate, span = 1 << 20, 10 * time.Second
	synctest.Test(t, func(t *testing.T) {
		p := newTalk(t)
		p.bulk()
		p.attach(tunneltest.Path{Rate: rate, Delay: 10 * time.Millisecond, Queue: 64 << 10})
		for end := time.Now().Add(span); time.Now().Before(end); time.Sleep(time.Millisecond) {
			for n := range 8 { // eight times as fast as the path
				if err := sendDatagram(p.a, nil, numbered(n, 1000)); err != nil {
					t.Fatal(err)
				}
			}
		}
		if share := float64(p.moved.Load()) / (rate * span.Seconds()); share < 0.25 {
			t.Errorf("data got %.0f %% of the path", 100*share)
		}
	})
}

func TestDatagramsAreDroppedTheOldestFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, resume.Config{Grace: time.Minute})
		p.drain()
		p.attach(tunneltest.Path{})
		const sent = 100_000
		for n := range sent {
			sendDatagram(p.a, numbered(n, 8), nil)
			if n%100 == 0 {
				synctest.Wait() // so that it is the receiver who drops
			}
		}
		synctest.Wait()
		want := -1
		for {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			b, err := receiveDatagram(ctx, p.b)
			cancel()
			if err != nil {
				break
			}
			n := int(binary.BigEndian.Uint64(b))
			if want >= 0 && n != want {
				t.Fatalf("datagram %d after %d", n, want-1)
			}
			if want < 0 && sent-n > 256<<10/12 {
				t.Errorf("%d datagrams of 8 bytes were kept", sent-n)
			}
			want = n + 1
		}
		if want != sent {
			t.Errorf("the last datagram was %d", want-1)
		}
	})
}

func TestDatagramsAreNotSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, resume.Config{Grace: time.Hour})
		p.drain()
		link := p.attach(tunneltest.Path{Queue: 100})
		synctest.Wait()
		link.conn.Stall(true)
		for n := range 100 {
			sendDatagram(p.a, nil, numbered(n, 1000))
		}
		synctest.Wait()
		link.conn.Cut()
		synctest.Wait()
		sendDatagram(p.a, nil, numbered(100, 1000)) // nothing is attached
		p.attach(tunneltest.Path{})
		sendDatagram(p.a, nil, numbered(101, 1000))
		b, err := receiveDatagram(t.Context(), p.b)
		if err != nil {
			t.Fatal(err)
		}
		if n := binary.BigEndian.Uint64(b); n != 101 {
			t.Errorf("datagram %d arrived", n)
		}
	})
}

func TestDatagramsOfOtherSizesAreRefused(t *testing.T) {
	p := newPair(t, resume.Config{Grace: time.Minute})
	for _, n := range []int{0, 65_797} {
		if err := sendDatagram(p.a, nil, make([]byte, n)); !errors.Is(err, resume.ErrDatagramSize) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

func TestReceiveDatagramEndsWithItsPipeOrContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, resume.Config{Grace: time.Minute})
		why := errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(why) })
		if _, err := receiveDatagram(ctx, p.a); !errors.Is(err, why) {
			t.Error(err)
		}
		time.AfterFunc(time.Second, func() { p.a.Close() })
		if _, err := receiveDatagram(t.Context(), p.a); !errors.Is(err, resume.ErrClosed) {
			t.Error(err)
		}
	})
}
