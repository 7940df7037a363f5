//go:build linux

package e2e

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/adit-net/adit/client"
	"github.com/adit-net/adit/crypto/keys"
	"github.com/adit-net/adit/crypto/tlslink"
	"github.com/adit-net/adit/tunnel"
	"github.com/adit-net/adit/tunnel/socks"
)

// witness is a client in this process that keeps what crosses its carriers in
// the beginning: what somebody would know who has broken TLS, or read the
// client's memory.
type witness struct {
	mu       sync.Mutex
	openings [][]byte // that the server has taken
	welcomes []tunnel.Welcome
}

// witnessed is a carrier that tells the witness.
type witnessed struct {
	*tlslink.Carrier
	witness *witness
}

func (c witnessed) Place() tunnel.Place {
	return tunnel.Place{Server: c.Server(), Carrier: c.Channel()}
}

func (c witnessed) Protection() tunnel.Protection { return tunnel.Protection{Carrier: "tls"} }

func (c witnessed) Attach(ctx context.Context, opening []byte) (net.Conn, []byte, error) {
	conn, answer, err := c.Carrier.Attach(ctx, opening)
	if welcome, refused := tunnel.ParseAnswer(answer); err == nil && refused == nil {
		c.witness.mu.Lock()
		defer c.witness.mu.Unlock()
		c.witness.openings = append(c.witness.openings, opening)
		c.witness.welcomes = append(c.witness.welcomes, welcome)
	}
	return conn, answer, err
}

// attached tells how often the server has let the client in, and the last time.
func (w *witness) attached() (n int, opening []byte, welcome tunnel.Welcome) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n = len(w.openings)
	if n > 0 {
		opening, welcome = w.openings[n-1], w.welcomes[n-1]
	}
	return n, opening, welcome
}

// newWitness starts a client in the roamer's namespace, with a door at
// roadDoor. It ends with the test.
func newWitness(t *testing.T, r *road) *witness {
	t.Helper()
	r.join(t, r.clientDir)
	device, err := keys.LoadDevice(filepath.Join(r.clientDir, "device.key"))
	if err != nil {
		t.Fatal(err)
	}
	w := new(witness)
	dial := &tlslink.Dialer{
		Address: net.JoinHostPort(roadside4, roadPort),
		Pin:     pinIn(t, filepath.Join(r.clientDir, "client.toml")),
		DialTCP: func(ctx context.Context, network, address string) (c net.Conn, err error) {
			err = roamerNS.do(func() error {
				c, err = new(net.Dialer).DialContext(ctx, network, address)
				return err
			})
			return c, err
		},
	}
	c := client.New(client.Config{
		Device: device,
		Log:    slog.New(slog.DiscardHandler),
		Dial: func(ctx context.Context) (client.Carrier, error) {
			carrier, err := dial.Dial(ctx)
			if err != nil {
				return nil, err
			}
			return witnessed{carrier, w}, nil
		},
	})
	ln, err := roamerNS.listen(roadDoor)
	if err != nil {
		t.Fatal(err)
	}
	door := &socks.Door{Relay: c, Admission: socks.Admission{Anyone: true}}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = c.Serve(ctx) }) // ends with ctx
	running.Go(func() { _ = door.Serve(ctx, ln) })
	t.Cleanup(func() { cancel(); running.Wait() })
	if err := c.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	return w
}

// pinIn reads the server's pin from a client's config.
func pinIn(t *testing.T, config string) keys.Pin {
	t.Helper()
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var pin string
		if n, _ := fmt.Sscanf(line, "pin = %q", &pin); n == 1 {
			parsed, err := keys.ParsePin(pin)
			if err != nil {
				t.Fatal(err)
			}
			return parsed
		}
	}
	t.Fatalf("no pin in %s", config)
	return keys.Pin{}
}
