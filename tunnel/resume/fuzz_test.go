package resume_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/adit-net/adit/tunnel/resume"
)

// written is what the pipe under test has sent to the peer that is made up.
const written = 1000

// oracle says what a pipe must make of a peer's bytes, without looking at how it does.
type oracle struct {
	got       []byte // all that is to be delivered
	datagrams int
	ended     bool // the peer has closed the pipe, or broken the protocol
}

// carrier takes all that comes on one carrier.
func (o *oracle) carrier(b []byte) {
	for len(b) >= 4 && !o.ended {
		kind, length := b[0], int(binary.BigEndian.Uint32(b)&0xffffff)
		rest := b[4:]
		switch {
		case kind == 1 && len(rest) < 16:
			return
		case kind == 1:
			offset, acked := binary.BigEndian.Uint64(rest), binary.BigEndian.Uint64(rest[8:])
			rest = rest[16:]
			received := uint64(len(o.got))
			if length == 0 || length > mostBytes || offset > received || acked > written {
				o.ended = true
				return
			}
			known := min(received-offset, uint64(length))
			come := min(length, len(rest))
			if uint64(come) > known {
				o.got = append(o.got, rest[known:come]...)
			}
			b = rest[come:]
		case kind == 5:
			if length == 0 || length > 65_796 {
				o.ended = true
				return
			}
			if len(rest) >= length {
				o.datagrams++
			}
			b = rest[min(length, len(rest)):]
		case length != 0:
			o.ended = true
		case len(rest) < 8:
			return
		default:
			value := binary.BigEndian.Uint64(rest)
			o.ended = kind < ack || kind > pong || kind == ack && value > written
			b = rest[8:]
		}
	}
}

// FuzzPipeReadsAnything lets a peer say anything on two carriers of a pipe, one
// after the other.
func FuzzPipeReadsAnything(f *testing.F) {
	hello, world := dataFrame(0, 0, []byte("hello")), dataFrame(5, 7, []byte("world"))
	f.Add(hello, world, uint8(0))
	f.Add(hello[:22], hello, uint8(1))
	f.Add(world, hello, uint8(3))
	f.Add(append(valueFrame(ack, 1000), valueFrame(ping, 1)...), valueFrame(ack, 1001), uint8(5))
	f.Add(append(datagramFrame([]byte("gram")), hello...), append(hello, valueFrame(pong, 1)...), uint8(2))
	f.Add(valueFrame(closing, 0), valueFrame(closing, 1), uint8(0))
	f.Add(append(hello, 1, 0, 0, 200), append(dataFrame(2, 1000, []byte("llo, all of you")), world...), uint8(0))
	f.Add(dataFrame(0, 0, random(600, 1)), dataFrame(500, 0, random(600, 2)), uint8(255))
	f.Add(datagramFrame(random(600, 1)), []byte{5, 1, 1, 5, 1}, uint8(0))
	f.Fuzz(func(t *testing.T, first, second []byte, chunk uint8) {
		synctest.Test(t, func(t *testing.T) {
			r := newRaw(t, resume.Config{Grace: time.Minute})
			got, done := r.read()
			var want oracle
			for _, bytes := range [][]byte{valueFrame(pong, 0), first, second} {
				if want.ended {
					break
				}
				w := newWire(roomy, lane{room: 1 << 20, chunk: int(chunk)}, t.Errorf)
				r.epoch++
				r.carry(r.a, wireEnd{w, 0}, 0)
				if r.epoch == 1 {
					r.a.Write(make([]byte, written))
				}
				wireEnd{w, 1}.Write(bytes)
				w.strike(1, ended)
				want.carrier(bytes)
				got()
			}
			if b := got(); !bytes.Equal(b, want.got) {
				t.Fatalf("%d bytes were delivered, not the %d that came", len(b), len(want.got))
			}
			for range want.datagrams {
				if _, err := receiveDatagram(t.Context(), r.a); err != nil {
					t.Fatal(err)
				}
			}
			nobody, cancel := context.WithCancel(t.Context())
			cancel()
			if b, err := receiveDatagram(nobody, r.a); err == nil {
				t.Fatalf("datagram %x", b)
			}
			state, _ := r.a.State()
			if state.Err != nil != want.ended || state.Held > 2048 {
				t.Fatalf("ended %v, but %+v", want.ended, state)
			}
			r.a.Close()
			if err := <-done; err == nil || errors.Is(err, resume.ErrGrace) {
				t.Error(err)
			}
		})
	})
}
