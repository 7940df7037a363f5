package resume_test

import (
	"context"
	"encoding/binary"
	"io"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/adit-net/adit/tunnel/resume"
	"github.com/adit-net/adit/tunnel/tunneltest"
)

// talk is a pipe whose a writes as much as it can, and sends datagrams.
type talk struct {
	*pair
	moved atomic.Int64 // bytes that b has read
}

func newTalk(t *testing.T) *talk {
	p := &talk{pair: newPair(t, resume.Config{Grace: time.Minute})}
	p.ended.Go(func() { io.Copy(io.Discard, p.a) })
	p.ended.Go(func() {
		for b := make([]byte, 64<<10); ; {
			n, err := p.b.Read(b)
			if p.moved.Add(int64(n)); err != nil {
				return
			}
		}
	})
	return p
}

func (p *talk) bulk() {
	p.ended.Go(func() {
		for b := make([]byte, 40<<10); ; {
			if _, err := p.a.Write(b); err != nil {
				return
			}
		}
	})
}

// say sends a datagram every 20 ms, and gives how long each was under way.
func (p *talk) say(d time.Duration) (took []time.Duration) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(p.t.Context(), d+5*time.Second)
	defer cancel()
	p.ended.Go(func() {
		for time.Since(began) < d {
			sendDatagram(p.a, nil, binary.BigEndian.AppendUint64(nil, uint64(time.Since(began))))
			time.Sleep(20 * time.Millisecond)
		}
		sendDatagram(p.a, nil, []byte("last"))
	})
	for {
		b, err := receiveDatagram(ctx, p.b)
		if err != nil {
			p.t.Error(err)
			return took
		}
		if string(b) == "last" {
			return took
		}
		took = append(took, time.Since(began)-time.Duration(binary.BigEndian.Uint64(b)))
	}
}

// TestDataYieldsToDatagrams fills paths whose queues hold much more than the path. Beside
// datagrams there must be little in them.
func TestDataYieldsToDatagrams(t *testing.T) {
	for _, test := range []struct {
		path tunneltest.Path
		most time.Duration
	}{
		{tunneltest.Path{Rate: 1_250_000, Delay: 25 * time.Millisecond, Queue: 1 << 20}, 190 * time.Millisecond},
		{tunneltest.Path{Rate: 12_500_000, Delay: 25 * time.Millisecond, Queue: 4 << 20}, 60 * time.Millisecond},
		{tunneltest.Path{Rate: 50_000_000, Delay: 50 * time.Millisecond, Queue: 16 << 20}, 85 * time.Millisecond},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := newTalk(t)
			p.attach(test.path)
			p.say(time.Second)
			p.bulk()
			took := p.say(5 * time.Second)[200:] // the window has opened
			before := p.moved.Load()
			took = append(took, p.say(5*time.Second)...)
			share := float64(p.moved.Load()-before) / float64(5*test.path.Rate)
			slices.Sort(took)
			p99 := took[len(took)*99/100]
			t.Logf("%+v: p99 %v, data gets %.0f %%", test.path, p99, 100*share)
			if p99 > test.most || share < 0.85 {
				t.Errorf("p99 %v, data gets %.0f %%", p99, 100*share)
			}
		})
	}
}

// TestDataYieldsToThoseWhoChat stamps what it writes. As long as both ends are told of chat, it must not be
// under way for long.
func TestDataYieldsToThoseWhoChat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, resume.Config{Grace: time.Minute})
		path := tunneltest.Path{Rate: 12_500_000, Delay: 25 * time.Millisecond, Queue: 4 << 20}
		p.attach(path)
		p.ended.Go(func() { io.Copy(io.Discard, p.a) })
		began := time.Now()
		p.ended.Go(func() {
			for b := make([]byte, 32<<10); ; {
				binary.BigEndian.PutUint64(b, uint64(time.Since(began)))
				if _, err := p.a.Write(b); err != nil {
					return
				}
			}
		})
		trip := func(d time.Duration) (p99 time.Duration, share float64) {
			var took []time.Duration
			for from, b := time.Now(), make([]byte, 32<<10); time.Since(from) < d; {
				if _, err := io.ReadFull(p.b, b); err != nil {
					t.Fatal(err)
				}
				took = append(took, time.Since(began)-time.Duration(binary.BigEndian.Uint64(b)))
			}
			slices.Sort(took)
			return took[len(took)*99/100], float64(len(took)<<15) / (d.Seconds() * float64(path.Rate))
		}

		trip(3 * time.Second)
		if alone, _ := trip(time.Second); alone < 150*time.Millisecond {
			t.Fatalf("the queue is not full: bytes take %v", alone)
		}
		chat := time.NewTicker(200 * time.Millisecond)
		quiet := make(chan struct{})
		p.ended.Go(func() {
			for {
				select {
				case <-chat.C:
					p.a.Chat()
					p.b.Chat()
				case <-quiet:
					return
				}
			}
		})
		trip(time.Second)
		p99, share := trip(5 * time.Second)
		t.Logf("p99 %v, data gets %.0f %%", p99, 100*share)
		if p99 > 60*time.Millisecond || share < 0.95 {
			t.Errorf("beside chat bytes take %v, and get %.0f %%", p99, 100*share)
		}
		close(quiet)
		p.a.Hush()
		p.b.Hush()
		trip(time.Second)
		if alone, _ := trip(time.Second); alone < 150*time.Millisecond {
			t.Errorf("after the chat bytes take %v still: the path's queue is not used", alone)
		}
	})
}

// TestDataYieldsToNobody wants all of the path once there are no datagrams any more.
func TestDataYieldsToNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newTalk(t)
		path := tunneltest.Path{Rate: 12_500_000, Delay: 25 * time.Millisecond, Queue: 4 << 20}
		p.attach(path)
		p.bulk()
		p.say(5 * time.Second)
		time.Sleep(5 * time.Second)
		before := p.moved.Load()
		time.Sleep(5 * time.Second)
		if share := float64(p.moved.Load()-before) / float64(5*path.Rate); share < 0.99 {
			t.Errorf("data gets %.0f %%", 100*share)
		}
	})
}

// TestDataIsNotHeldUpByAPathThatHasBecomeLonger makes a path ten times as long while
// both use it.
func TestDataIsNotHeldUpByAPathThatHasBecomeLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newTalk(t)
		w := newWire(lane{room: 1 << 20, delay: 10 * time.Millisecond}, lane{room: 1 << 20, delay: 10 * time.Millisecond}, t.Errorf)
		p.epoch++
		p.carry(p.a, wireEnd{w, 0}, 0)
		p.carry(p.b, wireEnd{w, 1}, 0)
		p.bulk()
		p.say(2 * time.Second)
		w.mu.Lock()
		w.dirs[0].delay, w.dirs[1].delay = 100*time.Millisecond, 100*time.Millisecond
		w.mu.Unlock()
		p.say(20 * time.Second)
		before := p.moved.Load()
		p.say(10 * time.Second)
		// What the wire holds passes once in 100 ms.
		if share := float64(p.moved.Load()-before) / (10 * 10 << 20); share < 0.3 {
			t.Errorf("data gets %.0f %%", 100*share)
		}
	})
}
