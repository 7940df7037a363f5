package server

import (
	"encoding/binary"
	"io"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/adit-net/adit/tunnel/socks"
)

// frame is a frame as PROTOCOL.md has it, made by hand: hostile peers do not
// use our code.
func frame(version, kind byte, flags uint16, stream, value uint32, body ...byte) []byte {
	b := []byte{version, kind}
	b = binary.BigEndian.AppendUint16(b, flags)
	b = binary.BigEndian.AppendUint32(b, stream)
	b = binary.BigEndian.AppendUint32(b, value)
	return append(b, body...)
}

// byHand writes a carrier's frames by hand, too.
type byHand struct {
	net.Conn
	offset uint64
}

func (c *byHand) Write(b []byte) (int, error) {
	head := binary.BigEndian.AppendUint32(nil, 1<<24|uint32(len(b)))
	head = binary.BigEndian.AppendUint64(head, c.offset)
	head = binary.BigEndian.AppendUint64(head, 0)
	c.offset += uint64(len(b))
	return c.Conn.Write(append(head, b...))
}

// TestHostileDeviceIsDroppedAndNobodyElseSuffers floods a session of an
// enrolled device, while another one's echo goes on.
func TestHostileDeviceIsDroppedAndNobodyElseSuffers(t *testing.T) {
	port := echoTarget(t)
	request, err := socks.Request6{Command: socks.Connect, Dst: onLoopback(port)}.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	open := func(id uint32) []byte { return frame(0, 1, 1, id, 0) }
	ask := func(id uint32) []byte {
		return append(open(id), frame(0, 0, 0, id, uint32(len(request)), request...)...)
	}
	for name, flood := range map[string]func(n uint32) []byte{
		"pings":            func(n uint32) []byte { return frame(1, 4, 0, 0, n) },
		"streams":          func(n uint32) []byte { return open(2*n + 1) },
		"open and reset":   func(n uint32) []byte { return append(open(2*n+1), frame(1, 3, 0, 2*n+1, 0)...) },
		"ask and reset":    func(n uint32) []byte { return append(ask(2*n+1), frame(1, 3, 0, 2*n+1, 0)...) },
		"bad requests":     func(n uint32) []byte { return append(open(2*n+1), frame(0, 0, 0, 2*n+1, 1, 'x')...) },
		"frame of 4 GiB":   func(uint32) []byte { return frame(0, 0, 0, 1, 1<<32-1) },
		"wrong parity":     func(uint32) []byte { return open(2) },
		"window overflow":  func(uint32) []byte { return frame(0, 1, 1, 1, 1<<32-1) },
		"unanswered pings": func(n uint32) []byte { return frame(1, 4, 0, 0, n) },
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, func(c *Config) { c.SessionStreams, c.UserStreams = 100, 1000 })
			bystander := h.attach(h.device("bob"))
			stream := bystander.connect(port)
			exchange(t, stream, "before")
			before, goroutines := heap(), runtime.NumGoroutine()

			near, dropped := h.carrier(h.device("anna"))
			defer near.Close()
			hostile := &byHand{Conn: near}
			hostile.SetDeadline(time.Now().Add(patience))
			if name != "unanswered pings" {
				h.running.Go(func() { _, _ = io.Copy(io.Discard, hostile.Conn) })
			}
			slowest, most := time.Duration(0), 0
			for n := range uint32(1_000_000) {
				if _, err := hostile.Write(flood(n)); err != nil {
					break
				}
				if n%1000 == 999 {
					began := time.Now()
					exchange(t, stream, "meanwhile")
					slowest = max(slowest, time.Since(began))
					most = max(most, runtime.NumGoroutine()-goroutines)
				}
			}
			receive(t, dropped, "the end of the hostile session")
			exchange(t, stream, "after")
			if slowest > 2*time.Second {
				t.Errorf("the other session's echo took %v", slowest)
			}
			// A stream takes at most four: its handler, the other direction, the dial
			// and the target's end.
			if limit := 4*(100+100/8+16) + 50; most > limit {
				t.Errorf("%d goroutines more than before, want at most %d", most, limit)
			}
			if grown := heap() - before; grown > 16<<20 {
				t.Errorf("the heap has grown by %d KiB", grown>>10)
			}
		})
	}
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
