package udp_test

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/adit-net/adit/tunnel"
	"github.com/adit-net/adit/tunnel/socks"
	"github.com/adit-net/adit/tunnel/tunneltest"
)

func vectors(t testing.TB) []tunneltest.Vector {
	t.Helper()
	return tunneltest.Vectors(t, "../../testdata/wire/udp.txt")
}

// stage plays vectors with two ends.
type stage struct {
	*world
	open *ends
	seen map[*side]int // how much of what it has sent has been looked at
}

func (s *stage) play(v tunneltest.Vector) {
	s.t.Helper()
	switch v.Words[0] {
	case "associate":
		id, _ := strconv.Atoi(v.Words[1])
		s.open = s.associate(id / 2)
		return
	case "close":
		s.open.close()
		return
	case "rest":
		time.Sleep(30 * time.Second)
		return
	}
	from, near, in := s.client, s.open.client, s.open.down
	if v.Words[0] == "server" {
		from, near, in = s.server, s.open.server, s.open.up
	}
	args := v.Words[2:]
	switch v.Words[1] {
	case "gives":
		near.Deliver(to(args[0], string(v.Bytes)))
	case "loses":
		pass := from.pass
		from.pass = func([]byte) {}
		near.Deliver(to(args[0], string(v.Bytes)))
		from.pass = pass
	case "reports":
		near.Lost(loss(args))
	case "sends":
		if s.seen[from] == len(from.sent) || !slices.Equal(from.sent[s.seen[from]], v.Bytes) {
			s.t.Fatalf("%s: the vector has % x, the code % x", v.Means, v.Bytes, from.sent[s.seen[from]:])
		}
		s.seen[from]++
	case "gets":
		want(s.t, in, to(args[0], string(v.Bytes)))
	case "hears":
		if n := len(in.losses); n == 0 || in.losses[n-1] != loss(args) {
			s.t.Errorf("%v: %+v", args, in.losses)
		}
	default:
		s.t.Fatalf("%v is nothing to do", v.Words)
	}
}

func loss(args []string) socks.Loss {
	code, _ := strconv.Atoi(args[0])
	mtu, _ := strconv.Atoi(args[1])
	by, _ := netip.ParseAddr(args[3])
	return socks.Loss{Code: socks.Code(code), MTU: mtu, To: netip.MustParseAddrPort(args[2]), Reporter: by}
}

func TestEndsSpeakAsTheVectorsSay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stage{world: newWorld(t), seen: make(map[*side]int)}
		for _, v := range vectors(t) {
			if v.Words[0] != "breach" && v.Words[0] != "harmless" {
				s.play(v)
				synctest.Wait()
			}
		}
		for _, from := range []*side{s.client, s.server} {
			if n := s.seen[from]; n == 0 || n < len(from.sent) {
				t.Errorf("% x was sent, too", from.sent[n:])
			}
		}
		s.open.close()
	})
}

func TestPeerMaySayWhatTheVectorsSay(t *testing.T) {
	for _, v := range vectors(t) {
		if v.Words[0] != "breach" && v.Words[0] != "harmless" {
			continue
		}
		t.Run(v.Means, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				a := w.associate(4)
				w.server.in <- v.Bytes
				synctest.Wait()
				_, breach := w.server.failure().(*tunnel.ProtocolError)
				if breach != (v.Words[0] == "breach") {
					t.Errorf("the session ended with: %v", w.server.failure())
				}
				want(t, a.up, nil)
				if len(a.up.losses) != 0 || len(w.server.sent) != 0 {
					t.Errorf("losses %+v, answers % x", a.up.losses, w.server.sent)
				}
				a.close()
			})
		})
	}
}

// FuzzDatagram lets a peer say anything to an end that has an association. Whatever the
// Inbox gets stands at the end of what was said.
func FuzzDatagram(f *testing.F) {
	for _, v := range vectors(f) {
		if len(v.Words) > 1 && v.Words[1] == "sends" || v.Words[0] == "breach" || v.Words[0] == "harmless" {
			f.Add(v.Bytes, v.Bytes)
		}
	}
	f.Fuzz(func(t *testing.T, first, second []byte) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			a := w.associate(3)
			for _, b := range [][]byte{first, second} {
				w.server.in <- b
				synctest.Wait()
				for _, d := range a.up.take() {
					if !strings.HasSuffix(string(b), string(d.Payload)) || len(d.Payload) >= len(b) || d.Addr.IP.IsValid() == (d.Addr.Name != "") {
						t.Errorf("%x gives %v", b, d)
					}
				}
			}
			for _, b := range w.server.sent {
				if len(b) > 6 || b[0] != 0 || b[1] != 2 {
					t.Errorf("it is answered by % x", b)
				}
			}
			a.close()
		})
	})
}
