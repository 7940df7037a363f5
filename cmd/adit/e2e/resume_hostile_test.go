//go:build linux

package e2e

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/adit-net/adit/crypto/keys"
	"github.com/adit-net/adit/tunnel"
)

const (
	strangerNS namespace = "stranger"

	stranger4   = "10.77.4.1"
	strangers4  = "10.77.4.2" // the server, as strangers see it
	attackSpeed = 300         // attaches a second, so that the strangers leave a processor to the others
)

// TestStrangersCannotDisturbASession attacks a session that moves bytes all the time,
// with all that somebody can know who is not its device.
func TestStrangersCannotDisturbASession(t *testing.T) {
	road := newEmptyRoad(t, usual(sized(20, 50)))
	witness := newWitness(t, road)
	strangers := newStrangers(t, road, witness)

	l := startLoad(t, atTarget(t), road.throughDoor, loadConfig{streams: 64, ahead: 64 << 10})
	road.waitUntilItMoves(t, l)
	// In turns: what else the machine does is the same for both.
	var quiet, attacked float64
	var attackTook time.Duration
	rounds := sized(2, 20)
	for range rounds {
		quiet += l.goodput(sized(time.Second, 5*time.Second)) / float64(rounds)
		before, began := l.moved(), time.Now()
		strangers.attack(t, sized(1000, 5000))
		took := time.Since(began)
		attacked += float64(l.moved()-before) / took.Seconds() / float64(rounds)
		attackTook += took
	}

	t.Logf("%d attaches in %v, %d reached the server, %d were refused with an answer", strangers.tried.Load(),
		attackTook.Round(time.Second), strangers.reached.Load(), strangers.refused.Load())
	t.Logf("%.2f MB/s under attack, %.2f MB/s without: %.1f %%", attacked/1e6, quiet/1e6, 100*attacked/quiet)
	if *full && attacked < 0.95*quiet {
		t.Error("want 95 % at least")
	}
	if n, _, _ := witness.attached(); n != 1 {
		t.Errorf("the session needed %d carriers, want the first alone", n)
	}
	if err := l.finish(time.Minute); err != nil {
		t.Error(err)
	}
	l.checkWhole(t)
}

// strangers know everything about a session but its device's key.
type strangers struct {
	server  [32]byte // the hash of its key
	opening []byte   // recorded
	device  *keys.Device
	other   *keys.Device // enrolled too
	session [16]byte
	epoch   uint64

	tried, reached, refused atomic.Int64 // attaches
}

// newStrangers gives them a namespace with a link to the server.
func newStrangers(t *testing.T, r *road, w *witness) *strangers {
	t.Helper()
	err := ip("netns add stranger",
		"link add x0 netns stranger type veth peer name s2 netns server",
		"-n stranger addr add "+stranger4+"/24 dev x0", "-n stranger link set x0 up",
		"-n server addr add "+strangers4+"/24 dev s2", "-n server link set s2 up")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ip("netns del stranger"); err != nil {
			t.Error(err)
		}
	})
	_, opening, welcome := w.attached()
	s := &strangers{opening: opening, session: welcome.Session, epoch: welcome.Epoch}
	s.server = pinIn(t, filepath.Join(r.clientDir, "client.toml"))
	otherDir := shared.path("road-other")
	r.join(t, otherDir)
	for dir, device := range map[string]**keys.Device{r.clientDir: &s.device, otherDir: &s.other} {
		if *device, err = keys.LoadDevice(filepath.Join(dir, "device.key")); err != nil {
			t.Fatal(err)
		}
	}
	s.checkTools(t)
	return s
}

// checkTools opens a session as the other device may. If that failed, all else
// would fail for the wrong reason.
func (s *strangers) checkTools(t *testing.T) {
	t.Helper()
	c, place, err := s.dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	answer, err := ask(c, tunnel.Hello{Epoch: 1}.Sign(s.other, place))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tunnel.ParseAnswer(answer); err != nil {
		t.Fatal(err)
	}
}

// attack makes n hostile attaches while 500 more connections do nothing.
func (s *strangers) attack(t *testing.T, n int) {
	ctx, cancel := context.WithCancel(t.Context())
	var stalling, attacking sync.WaitGroup
	defer stalling.Wait()
	defer cancel()
	for i := range 500 {
		stalling.Go(func() { s.stall(ctx, i) })
	}
	tick := time.NewTicker(time.Second / attackSpeed)
	defer tick.Stop()
	slots := make(chan struct{}, 100)
	for i := range n {
		<-tick.C
		slots <- struct{}{}
		attacking.Go(func() {
			defer func() { <-slots }()
			s.tried.Add(1)
			if err := s.attach(ctx, i); err != nil {
				t.Errorf("attach %d: %v", i, err)
			}
		})
	}
	attacking.Wait()
}

// attach tries one of the ways in turn. Its error says that the server has let
// it in, or told it more than it tells anybody.
func (s *strangers) attach(ctx context.Context, i int) error {
	if i%5 == 0 {
		return s.shout(ctx)
	}
	c, place, err := s.dial(ctx)
	if err != nil {
		return nil // a server may turn strangers away
	}
	defer c.Close()
	s.reached.Add(1)
	hello := tunnel.Hello{Session: s.session, Epoch: s.epoch + 1}
	var opening []byte
	known := false // to the server
	switch i % 5 {
	case 1: // guesses
		opening = make([]byte, tunnel.OpeningSize)
		_, _ = rand.Read(opening) // never fails
		opening[0], opening[1], opening[2], opening[3] = tunnel.Version, 1, 0, 0
	case 2: // the recorded opening
		opening = s.opening
	case 3: // one that the device has signed for another carrier, to come next
		elsewhere := place
		elsewhere.Carrier = sha256.Sum256(place.Carrier[:])
		opening = hello.Sign(s.device, elsewhere)
	case 4: // what another device has signed
		opening, known = hello.Sign(s.other, place), true
	}
	answer, err := ask(c, opening)
	if err != nil {
		return nil // no answer
	}
	if !known {
		return errors.New("the server has answered an opening that proves nothing")
	}
	if _, err := tunnel.ParseAnswer(answer); err == nil {
		return errors.New("the server has let another device into the session")
	}
	s.refused.Add(1)
	return nil
}

// shout sends bytes that are not even TLS.
func (s *strangers) shout(ctx context.Context) error {
	c, err := s.dialTCP(ctx)
	if err != nil {
		return nil
	}
	defer c.Close()
	s.reached.Add(1)
	b := make([]byte, 300)
	_, _ = rand.Read(b) // never fails
	_, _ = c.Write(b)
	_, _ = io.Copy(io.Discard, c)
	return nil
}

// stall keeps a connection open that never gets as far as an opening.
func (s *strangers) stall(ctx context.Context, i int) {
	for ctx.Err() == nil {
		var c net.Conn
		var err error
		if i%2 == 0 {
			c, err = s.dialTCP(ctx)
		} else {
			c, _, err = s.dial(ctx)
		}
		if err != nil {
			continue
		}
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		stop := context.AfterFunc(ctx, func() { c.Close() })
		if i%2 == 1 {
			begin := flight(s.opening)
			_, _ = c.Write(begin[:len(begin)/2])
		}
		_, _ = io.Copy(io.Discard, c) // until the server has had enough
		stop()
		c.Close()
	}
}

func (s *strangers) dialTCP(ctx context.Context) (c net.Conn, err error) {
	err = strangerNS.do(func() error {
		d := net.Dialer{Timeout: 10 * time.Second}
		c, err = d.DialContext(ctx, "tcp", net.JoinHostPort(strangers4, roadPort))
		return err
	})
	if err != nil {
		return nil, err
	}
	return c, c.SetDeadline(time.Now().Add(20 * time.Second))
}

// dial makes a TLS connection, and says what an opening for it must be bound to.
func (s *strangers) dial(ctx context.Context) (net.Conn, tunnel.Place, error) {
	tcp, err := s.dialTCP(ctx)
	if err != nil {
		return nil, tunnel.Place{}, err
	}
	c := tls.Client(tcp, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err := c.HandshakeContext(ctx); err != nil {
		tcp.Close()
		return nil, tunnel.Place{}, err
	}
	state := c.ConnectionState()
	channel, err := state.ExportKeyingMaterial(tunnel.ExporterLabel, nil, 32)
	if err != nil {
		tcp.Close()
		return nil, tunnel.Place{}, err
	}
	return c, tunnel.Place{Server: s.server, Carrier: [32]byte(channel)}, nil
}

// flight is what a client writes first, as PROTOCOL.md section 2 has it.
func flight(opening []byte) []byte {
	b := []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
	b = append(b, 0, 0, 0, 4, 0, 0, 0, 0, 0) // SETTINGS
	b = append(b, 0, 1, 0, 0xad, 0, 0, 0, 0, 0)
	b = append(b, opening...)
	return append(b, 0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8) // PING
}

// ask sends an opening and waits for the answer. Its error says that there is none.
func ask(c net.Conn, opening []byte) (answer []byte, err error) {
	if _, err := c.Write(flight(opening)); err != nil {
		return nil, err
	}
	for {
		var header [9]byte
		if _, err := io.ReadFull(c, header[:]); err != nil {
			return nil, err
		}
		payload := make([]byte, binary.BigEndian.Uint32(append([]byte{0}, header[:3]...)))
		if _, err := io.ReadFull(c, payload); err != nil {
			return nil, err
		}
		switch kind, ack := header[3], header[4]&1 == 1; {
		case kind == 0xad:
			return payload, nil
		case kind == 6 && ack: // PING: then there will be none
			return nil, fmt.Errorf("the server is a web site")
		}
	}
}
