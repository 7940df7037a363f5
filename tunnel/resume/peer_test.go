package resume_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/adit-net/adit/tunnel/resume"
)

// The frames, as a peer of another make would write them.

func dataFrame(offset, acked uint64, payload []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, 1<<24|uint32(len(payload)))
	b = binary.BigEndian.AppendUint64(b, offset)
	b = binary.BigEndian.AppendUint64(b, acked)
	return append(b, payload...)
}

func valueFrame(kind byte, value uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{kind, 0, 0, 0}, value)
}

func datagramFrame(payload []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, 5<<24|uint32(len(payload))), payload...)
}

const (
	ack       = 2
	ping      = 3
	pong      = 4
	closing   = 6
	mostBytes = 41<<10 - 20 // of a data frame
)

// raw is a pipe whose peer is played by a test.
type raw struct {
	*pair // only its end a is used
}

func newRaw(t testing.TB, cfg resume.Config) *raw { return &raw{newPair(t, cfg)} }

// attach gives the pipe a carrier whose peer waits for offset.
func (r *raw) attach(offset uint64, up lane) (w *wire, peer wireEnd, why chan error) {
	r.t.Helper()
	w = newWire(up, lane{room: 1 << 20}, r.t.Errorf)
	r.epoch++
	_, why = r.carry(r.a, wireEnd{w, 0}, offset)
	return w, wireEnd{w, 1}, why
}

// read reads the pipe until it is over.
func (r *raw) read() (got func() []byte, done chan error) {
	var b bytes.Buffer
	done = make(chan error, 1)
	r.ended.Go(func() {
		_, err := b.ReadFrom(r.a)
		done <- err
	})
	return func() []byte { synctest.Wait(); return b.Bytes() }, done
}

var roomy = lane{room: 1 << 20}

// TestBreachEndsThePipeAndDeliversNothingOfIt says what no honest peer sends.
func TestBreachEndsThePipeAndDeliversNothingOfIt(t *testing.T) {
	for name, bad := range map[string][]byte{
		"data behind a gap":                  dataFrame(6, 0, []byte("world")),
		"data far behind a gap":              dataFrame(1<<64-1, 0, []byte("world")),
		"data of no bytes":                   dataFrame(5, 0, nil),
		"too much data":                      dataFrame(5, 0, make([]byte, mostBytes+1)),
		"an acknowledgement beyond the data": dataFrame(5, 1, []byte("world")),
		"an acknowledgement of nothing sent": valueFrame(ack, 1),
		"an acknowledgement of everything":   valueFrame(ack, 1<<64-1),
		"a datagram of no bytes":             datagramFrame(nil),
		"a datagram that is too long":        datagramFrame(make([]byte, 65_797)),
		"a datagram of 16 MiB":               {5, 255, 255, 255},
		"a frame of type 0":                  valueFrame(0, 0),
		"a frame of type 7":                  valueFrame(7, 0),
		"a frame of type 255":                valueFrame(255, 0),
		"an acknowledgement with a length":   {ack, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRaw(t, resume.Config{Grace: time.Minute})
				got, done := r.read()
				_, peer, _ := r.attach(0, roomy)
				peer.Write(dataFrame(0, 0, []byte("hello")))
				peer.Write(bad)
				var breach resume.Breach
				if err := <-done; !errors.As(err, &breach) {
					t.Errorf("it ended with: %v", err)
				}
				if string(got()) != "hello" {
					t.Errorf("%q was delivered", got())
				}
				sent, _ := io.ReadAll(peer)
				if want := valueFrame(closing, 1); !bytes.HasSuffix(sent, want) {
					t.Errorf("the peer was told % x", sent)
				}
			})
		})
	}
}

// TestZombieCountsForNothing lets a carrier that was replaced deliver what was on
// its way for a minute.
func TestZombieCountsForNothing(t *testing.T) {
	for name, late := range map[string][]byte{
		"data that has come meanwhile":  dataFrame(5, 0, []byte("WORLD")),
		"data that comes next":          dataFrame(10, 0, []byte("again")),
		"data behind a gap":             dataFrame(11, 0, []byte("again")),
		"data with an acknowledgement":  dataFrame(5, 3, []byte("again")),
		"an acknowledgement":            valueFrame(ack, 3),
		"one of what was not sent":      valueFrame(ack, 1<<40),
		"a pong":                        valueFrame(pong, 1),
		"a close":                       valueFrame(closing, 0),
		"a datagram":                    datagramFrame([]byte("late")),
		"rubbish":                       bytes.Repeat([]byte{0xff}, 100),
		"the rest of a frame, and more": append([]byte("rest!"), dataFrame(10, 0, []byte("again"))...),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRaw(t, resume.Config{Grace: time.Minute})
				got, _ := r.read()
				w, old, _ := r.attach(0, roomy)
				r.a.Write([]byte("out"))
				old.Write(dataFrame(0, 0, []byte("hello")))
				if name[:3] == "the" {
					old.Write(dataFrame(5, 0, []byte("12345"))[:20])
				}
				got()
				w.mu.Lock()
				w.dirs[1].last = late
				w.mu.Unlock()
				_, peer, _ := r.attach(0, roomy)
				peer.Write(dataFrame(5, 0, []byte("world")))
				if string(got()) != "helloworld" {
					t.Errorf("%q was delivered", got())
				}
				state, _ := r.a.State()
				if state.Err != nil || !state.Attached || state.Held != 512 || state.RoundTrip != 0 {
					t.Errorf("%+v", state)
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if b, err := receiveDatagram(ctx, r.a); err == nil {
					t.Errorf("datagram %q", b)
				}
			})
		})
	}
}

// TestAcknowledgementOvertakesTheReplay is about a peer who told an older offset
// than it has, because the one before went on until the switch.
func TestAcknowledgementOvertakesTheReplay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRaw(t, resume.Config{Grace: time.Minute})
		r.read()
		w, old, _ := r.attach(0, roomy)
		r.ended.Go(func() { io.Copy(io.Discard, old) })
		old.Write(valueFrame(pong, 0)) // so that it has been heard
		want := random(300_000, 3)
		for b := want; len(b) > 0; b = b[min(1000, len(b)):] {
			r.a.Write(b[:min(1000, len(b))])
		}
		synctest.Wait()
		w.strike(0, reset)
		synctest.Wait()
		_, peer, _ := r.attach(500, lane{room: 100})
		synctest.Wait() // it writes the ping, or the first record
		peer.Write(valueFrame(ack, 200_000))
		next, kinds := uint64(0), make(map[byte]int)
		for next < uint64(len(want)) {
			var head [4]byte
			if _, err := io.ReadFull(peer, head[:]); err != nil {
				t.Fatal(err)
			}
			kinds[head[0]]++
			rest := make([]byte, 8)
			if head[0] == 1 {
				rest = make([]byte, 16+int(binary.BigEndian.Uint32(head[:])&0xffffff))
			}
			if _, err := io.ReadFull(peer, rest); err != nil {
				t.Fatal(err)
			}
			if head[0] != 1 {
				continue
			}
			offset, payload := binary.BigEndian.Uint64(rest), rest[16:]
			if !bytes.Equal(payload, want[offset:offset+uint64(len(payload))]) {
				t.Fatalf("other bytes at %d", offset)
			}
			if next > 0 && offset != next && offset != 200_000 {
				t.Fatalf("data at %d after %d", offset, next)
			}
			next = offset + uint64(len(payload))
		}
		if kinds[1] > 110 {
			t.Errorf("%d data frames", kinds[1])
		}
	})
}

// TestPingsAreNotQueued is about a peer that asks and asks and does not read.
func TestPingsAreNotQueued(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRaw(t, resume.Config{Grace: time.Minute})
		r.read()
		_, peer, _ := r.attach(0, lane{room: 1})
		for n := range uint64(10_000) {
			peer.Write(valueFrame(ping, n))
		}
		synctest.Wait()
		r.ended.Go(func() { time.Sleep(time.Second); peer.Close() })
		sent, _ := io.ReadAll(peer)
		if len(sent) > 200 {
			t.Errorf("%d bytes were owed", len(sent))
		}
	})
}

func TestDatagramThatComesInPiecesIsNotAcknowledged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRaw(t, resume.Config{Grace: time.Hour, Idle: idle})
		_, peer, _ := r.attach(0, roomy)
		r.read()
		var sent bytes.Buffer
		r.ended.Go(func() { sent.ReadFrom(peer) })
		frame := datagramFrame(bytes.Repeat([]byte{1}, 10_000))
		peer.Write(frame)
		synctest.Wait()
		first := sent.Len()
		for range 5 {
			for piece := range slices.Chunk(frame, 3000) {
				peer.Write(piece)
				time.Sleep(50 * time.Millisecond)
			}
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if more := sent.Bytes()[first:]; len(more) > 0 {
			t.Errorf("the peer was told % x", more)
		}
		r.close()
	})
}

func TestPeerHearsThatASlowDatagramMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRaw(t, resume.Config{Grace: time.Hour, Idle: idle})
		_, peer, _ := r.attach(0, roomy)
		r.read()
		var sent bytes.Buffer
		r.ended.Go(func() { sent.ReadFrom(peer) })
		frame := datagramFrame(bytes.Repeat([]byte{1}, 1000))
		peer.Write(frame[:100])
		synctest.Wait()
		before, heard := sent.Len(), 0
		for b := range frame[100:] {
			peer.Write(frame[100+b : 101+b]) // 9 s in all
			time.Sleep(10 * time.Millisecond)
			synctest.Wait()
			if sent.Len() > before {
				before = sent.Len()
				heard++
			}
		}
		if heard < 15 || heard > 18 {
			t.Errorf("the peer has heard %d times that its datagram moves", heard)
		}
		r.close()
	})
}

// TestLastWordsIncludeTheReplay closes a pipe that still has to send again
// what its last carrier lost.
func TestLastWordsIncludeTheReplay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRaw(t, resume.Config{Grace: time.Minute})
		r.read()
		w, old, _ := r.attach(0, roomy)
		r.ended.Go(func() { io.Copy(io.Discard, old) })
		old.Write(valueFrame(pong, 0)) // so that it has been heard
		for range 20 {
			r.a.Write(make([]byte, 1000))
		}
		synctest.Wait()
		w.strike(0, reset)
		synctest.Wait()
		_, peer, _ := r.attach(0, lane{room: 50})
		r.a.Close()
		sent, _ := io.ReadAll(peer)
		if !bytes.HasSuffix(sent, valueFrame(closing, 0)) || len(sent) < 20_000 {
			t.Errorf("the peer was told %d bytes", len(sent))
		}
	})
}
