package tunnel

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"io"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/adit-net/adit/tunnel/resume"
	"github.com/adit-net/adit/tunnel/tunneltest"
)

// vector is a line of a file in testdata/wire with its bytes: who does what, N,
// and what that means in words.
type vector struct {
	who, does string
	n         int
	means     string
	bytes     []byte
}

func vectors(t *testing.T, name string) (all []vector) {
	t.Helper()
	for _, v := range tunneltest.Vectors(t, "../testdata/wire/"+name) {
		words := append(v.Words, "", "", "")
		n, _ := strconv.Atoi(words[2])
		all = append(all, vector{who: words[0], does: words[1], n: n, means: v.Means, bytes: v.Bytes})
	}
	return all
}

// travels tells whether a vector's bytes are seen on a carrier.
func (v vector) travels() bool {
	switch v.does {
	case "hello", "welcome", "sends", "loses", "delays":
		return true
	}
	return false
}

// TestResumptionIsWhatTheVectorsSay plays one end, against a peer who says what
// the vectors say.
func TestResumptionIsWhatTheVectorsSay(t *testing.T) {
	for _, who := range []string{"client", "server"} {
		t.Run(who, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newEnd(t, who)
				for _, v := range vectors(t, "resume.txt") {
					if v.who != "breach" && v.who != "harmless" {
						e.play(v)
					}
				}
				if who == "server" {
					var closed resume.PeerClosed
					if err := <-e.over; !errors.As(err, &closed) || closed.Reason != 0 {
						t.Errorf("it ended with: %v", err)
					}
				}
			})
		})
	}
}

// end is one end of a pipe. A test is its peer.
type end struct {
	*resume.Pipe
	t     *testing.T
	who   string
	peer  *tunneltest.Conn
	place Place
	hello Hello // of the last carrier
	id    [16]byte
	has   uint64       // what the peer has, as it said to the last carrier
	late  []byte       // of the peer's, and not here yet
	got   bytes.Buffer // what has come out of the pipe
	over  chan error   // and why no more does
}

func newEnd(t *testing.T, who string) *end {
	_, nobody := tunneltest.Link(tunneltest.Path{})
	e := &end{Pipe: resume.New(resume.Config{Grace: time.Minute}), t: t, who: who, peer: nobody, over: make(chan error, 1)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, err := e.got.ReadFrom(e)
		e.over <- err
	}()
	t.Cleanup(func() {
		e.Close()
		e.peer.Close()
		<-ended
	})
	return e
}

// attach gives the end a carrier.
func (e *end) attach(epoch, offset uint64) {
	e.t.Helper()
	conn, peer := tunneltest.Link(tunneltest.Path{})
	e.peer = peer
	c, err := e.Attach(conn, epoch, offset)
	if err != nil {
		e.t.Fatal(err)
	}
	go c.Serve(e.t.Context())
	synctest.Wait()
}

// play does what a vector says, or looks whether the end does.
func (e *end) play(v vector) {
	e.t.Helper()
	switch own := v.who == e.who; {
	case v.who == "place":
		copy(e.place.Server[:], v.bytes)
		copy(e.place.Carrier[:], v.bytes[32:])
	case v.does == "hello":
		e.opens(v, own)
	case v.does == "welcome":
		e.answers(v, own)
	case v.who == "switch":
		e.attach(e.hello.Epoch, e.has)
	case v.who == "late":
		e.peer.Write(e.late)
		synctest.Wait()
	case v.does == "sends" && !own:
		e.peer.Write(v.bytes)
		synctest.Wait()
	case v.does == "delays" && !own:
		e.late = v.bytes
	case !own: // this end does not see it
	case v.travels():
		b := make([]byte, len(v.bytes))
		if _, err := io.ReadFull(e.peer, b); err != nil {
			e.t.Fatalf("%s: %v", v.means, err)
		}
		e.same(v, b)
	case v.does == "writes":
		e.Write(v.bytes)
	case v.does == "reads":
		synctest.Wait()
		e.same(v, e.got.Next(e.got.Len()))
	case v.does == "datagram":
		e.SendDatagrams([]Datagram{{Head: AppendFlow(nil, uint32(v.n)), Body: v.bytes}})
	case v.does == "takes":
		var one [1][]byte
		_, err := e.ReceiveDatagrams(e.t.Context(), one[:])
		b := one[0]
		flow, n := TakeFlow(b)
		if err != nil || int(flow) != v.n {
			e.t.Fatalf("a datagram of flow %d, %v", flow, err)
		}
		e.same(v, b[n:])
	case v.does == "closes":
		e.Close()
	default:
		e.t.Fatalf("%s %s is nothing to do", v.who, v.does)
	}
}

func (e *end) same(v vector, b []byte) {
	e.t.Helper()
	if !bytes.Equal(b, v.bytes) {
		e.t.Fatalf("%s %s %s: the vector has %x, the code %x", v.who, v.does, v.means, v.bytes, b)
	}
}

func (e *end) opens(v vector, own bool) {
	e.t.Helper()
	if own {
		hello := Hello{Session: e.id, Epoch: e.hello.Epoch + 1, Received: e.Received()}
		e.same(v, hello.Sign(testKey(), e.place))
	}
	o, err := OpenAt(v.bytes, e.place)
	if err != nil || o.Hello == nil {
		e.t.Fatalf("%s: %+v, %v", v.means, o, err)
	}
	e.hello = *o.Hello
}

func (e *end) answers(v vector, own bool) {
	e.t.Helper()
	welcome, err := ParseAnswer(v.bytes)
	if err != nil {
		e.t.Fatalf("%s: %v", v.means, err)
	}
	e.id, e.has = welcome.Session, e.hello.Received
	if !own {
		e.has = welcome.Received
		return
	}
	received, err := e.Judge(e.hello.Epoch, e.hello.Received)
	if err != nil {
		e.t.Fatal(err)
	}
	e.same(v, Welcome{
		Session: [16]byte{0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf},
		Epoch:   e.hello.Epoch, Received: received,
		Streams: DefaultStreams, Grace: 600, Lanes: 1,
	}.Bytes())
}

// testKey is the key of RFC 8032 section 7.1, test 1.
func testKey() testSigner {
	seed, _ := hex.DecodeString("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
	return testSigner{ed25519.NewKeyFromSeed(seed)}
}

func TestBreachesAreWhatTheVectorsSay(t *testing.T) {
	played := make(map[string]int)
	for _, v := range vectors(t, "resume.txt") {
		if v.who != "breach" && v.who != "harmless" {
			continue
		}
		played[v.who]++
		t.Run(v.means, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newEnd(t, "client")
				e.attach(1, 0)
				e.Write([]byte("abc"))
				e.peer.Write([]byte("\x01\x00\x00\x05\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00hello"))
				e.peer.Write(v.bytes)
				synctest.Wait()
				state, _ := e.State()
				if v.who == "harmless" {
					if state.Err != nil || !state.Attached {
						t.Errorf("the pipe is %+v", state)
					}
					return
				}
				if err := <-e.over; !isBreach(err) || e.got.String() != "hello" {
					t.Errorf("it ended with %q and: %v", e.got.String(), err)
				}
				sent, _ := io.ReadAll(e.peer)
				if !bytes.HasSuffix(sent, []byte{6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}) {
					t.Errorf("the peer is told %x", sent)
				}
			})
		})
	}
	if played["breach"] == 0 || played["harmless"] == 0 {
		t.Error("there are no vectors")
	}
}

func isBreach(err error) bool {
	_, ok := errors.AsType[resume.Breach](err)
	return ok
}
