package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/adit-net/adit/tunnel"
	"github.com/adit-net/adit/tunnel/relay"
)

// How a server is replaced without losing a stream (adit server upgrade):
//
// The running process starts its successor, which gets the listeners and the lock
// on the directory. From the moment at which that one serves, the old process
// accepts no more, and a second later it drains its sessions, without a limit: clients
// open new streams in a session with the successor. The old process keeps its admin socket
// under another name. There the successor asks it about every carrier whose session
// it does not know itself, and passes on that carrier's bytes if the old process does.
//
// Every process that serves the directory follows all older ones, over a connection
// to their sockets. So one successor may follow another, and even one that was killed and
// started anew finds those before it.

// maxElders is how many older processes of a directory may hold sessions.
const maxElders = 8

// elderSocket names the admin socket of an older process.
func elderSocket(dir string, slot int) string {
	return filepath.Join(dir, fmt.Sprintf("old-%d.sock", slot+1))
}

// elders are the older processes of a directory, which still hold sessions. The
// methods are safe for concurrent use.
type elders struct {
	mu    sync.Mutex
	links map[string]net.Conn // by the process's socket; each ends with its process
}

// followElders finds the older processes of a directory, and removes the sockets
// of those that have died. The error is about those that do not answer; it follows
// the others all the same.
func followElders(ctx context.Context, dir string) (*elders, error) {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	e := &elders{links: make(map[string]net.Conn)}
	var errs []error
	for slot := range maxElders {
		socket := elderSocket(dir, slot)
		link, err := switchAt(ctx, socket, "POST /follow", nil)
		if err != nil && !dead(err) {
			// It may have been about to end, and has by now.
			link, err = switchAt(ctx, socket, "POST /follow", nil)
		}
		switch {
		case err == nil:
			e.links[socket] = link
		case dead(err):
			_ = os.Remove(socket) // the next to need its place replaces it
		default:
			errs = append(errs, fmt.Errorf("follow the older process at %s: %w", filepath.Base(socket), err))
		}
	}
	return e, errors.Join(errs...)
}

// dead tells whether an error says that nobody is at a socket any more.
func dead(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist)
}

// serve notes when older processes end, until ctx does. It follows none after
// that.
func (e *elders) serve(ctx context.Context) error {
	var following sync.WaitGroup
	for _, socket := range e.sockets() {
		link := e.link(socket)
		following.Go(func() {
			defer context.AfterFunc(ctx, func() { _ = link.Close() })()
			_, _ = link.Read(make([]byte, 1)) // nothing ever comes
			e.forget(socket)
		})
	}
	following.Wait()
	<-ctx.Done()
	return nil
}

// Close follows none any more.
func (e *elders) Close() error {
	for _, socket := range e.sockets() {
		e.forget(socket)
	}
	return nil
}

func (e *elders) sockets() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	all := make([]string, 0, len(e.links))
	for socket := range e.links {
		all = append(all, socket)
	}
	slices.Sort(all)
	return all
}

func (e *elders) link(socket string) net.Conn {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.links[socket]
}

func (e *elders) forget(socket string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if link := e.links[socket]; link != nil {
		_ = link.Close() // nothing was written
		delete(e.links, socket)
	}
}

// verdict is what an older process says about an arrival.
type verdict struct {
	socket string
	Answer []byte `json:"answer"` // nil: it knows nothing of the session
	err    error
}

// admit asks the older processes about a carrier whose session is not known
// here. It is what [server.Config] wants for Elsewhere.
func (e *elders) admit(ctx context.Context, a tunnel.Arrival) (answer []byte, serve func(context.Context, net.Conn)) {
	message, err := packArrival(a, false)
	if err != nil {
		return nil, nil
	}
	sure := true
	for v := range e.ask(ctx, message) {
		switch {
		case len(v.Answer) == tunnel.AnswerSize:
			return v.Answer, func(ctx context.Context, carrier net.Conn) { passOn(ctx, carrier, v.socket, a) }
		case v.err != nil && !dead(v.err):
			sure = false
		}
	}
	if sure {
		return nil, nil
	}
	// One that did not answer may know it. The client comes again.
	return tunnel.RefusedBusy.Bytes(), nil
}

// ask asks all older processes at once, and gives their verdicts as they come.
func (e *elders) ask(ctx context.Context, message []byte) iter.Seq[verdict] {
	return func(yield func(verdict) bool) {
		var asking sync.WaitGroup
		defer asking.Wait()
		ctx, cancel := context.WithTimeout(ctx, adminTimeout)
		defer cancel()
		sockets := e.sockets()
		verdicts := make(chan verdict, len(sockets))
		for _, socket := range sockets {
			asking.Go(func() {
				v := verdict{socket: socket}
				v.err = askAt(ctx, socket, "POST /judge", message, &v)
				verdicts <- v
			})
		}
		for range sockets {
			if !yield(<-verdicts) {
				return
			}
		}
	}
}

// report says what the older processes hold. One that does not answer within a
// second is left out.
func (e *elders) report() []elderReport {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	sockets := e.sockets()
	found := make([]report, len(sockets))
	var asking sync.WaitGroup
	for i, socket := range sockets {
		asking.Go(func() {
			if err := askAt(ctx, socket, "GET /status", nil, &found[i]); err != nil {
				found[i] = report{}
			}
		})
	}
	asking.Wait()
	var all []elderReport
	for _, r := range found {
		if r.Server != nil {
			all = append(all, reportElder(r))
		}
	}
	slices.SortFunc(all, func(a, b elderReport) int { return a.Since.Compare(b.Since) })
	return all
}

// passOn lets an older process use a carrier that has come to this one, until
// either of them ends it. It holds 64 KiB meanwhile. What protects the carrier's path is kept, as
// the older process cannot see to that when it turns out to need it.
func passOn(ctx context.Context, carrier net.Conn, socket string, a tunnel.Arrival) {
	asking, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	message, err := packArrival(a, a.Keep != nil && a.Keep() == nil)
	if err != nil {
		_ = carrier.Close() // it has been packed before, so this is not reached
		return
	}
	elder, err := switchAt(asking, socket, "POST /carry", message)
	if err != nil {
		_ = carrier.Close() // the client makes another
		return
	}
	relay.Copy(ctx, whole{carrier}, elder)
}

// whole is a carrier as one end of a copy. It has no half-close and no reset.
type whole struct{ net.Conn }

func (c whole) CloseWrite() error { return c.Close() }
func (c whole) Reset() error      { return c.Close() }

// elderConn is a connection to an older process.
type elderConn struct{ *net.UnixConn }

func (c elderConn) Reset() error { return c.Close() }

// switchAt asks the process at a socket to use the connection for something
// else from now on.
func switchAt(ctx context.Context, socket, question string, body []byte) (relay.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	c, err := negotiate(ctx, elderConn{conn.(*net.UnixConn)}, question, body)
	if err != nil {
		_ = conn.Close() // the error says more
		return nil, err
	}
	return c, nil
}

func negotiate(ctx context.Context, conn elderConn, question string, body []byte) (relay.Conn, error) {
	req, err := newQuestion(ctx, question, body)
	if err != nil {
		return nil, err
	}
	if err := req.Write(conn); err != nil {
		return nil, fmt.Errorf("ask %s: %w", question, err)
	}
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, req)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", question, err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return nil, fmt.Errorf("ask %s: %s", question, resp.Status)
	}
	more, err := r.Peek(r.Buffered())
	return relay.WithPrefix(conn, more), err
}

// passedArrival is an arrival on its way to an older process. Versions of adit
// understand each other's: fields may come, but none go.
type passedArrival struct {
	Opening    []byte           `json:"opening"`
	Server     []byte           `json:"server"`
	Channel    []byte           `json:"channel"`
	Local      netip.AddrPort   `json:"local,omitzero"`
	Remote     netip.AddrPort   `json:"remote"`
	Protection protectionReport `json:"protection"`
	WireGuard  []byte           `json:"wireguard,omitempty"`
	Kept       bool             `json:"kept,omitempty"` // nothing goes by other ways than the protected one
}

// maxArrival bounds one, in bytes.
const maxArrival = 4 << 10

func packArrival(a tunnel.Arrival, kept bool) ([]byte, error) {
	p := passedArrival{
		Opening:    a.Opening,
		Server:     a.Place.Server[:],
		Channel:    a.Place.Carrier[:],
		Local:      a.Local,
		Remote:     a.Remote,
		Protection: reportProtection(a.Protection, nil),
		Kept:       kept,
	}
	if a.WireGuard != [32]byte{} {
		p.WireGuard = a.WireGuard[:]
	}
	return json.Marshal(p)
}

var errArrival = errors.New("not an arrival")

func unpackArrival(message []byte) (tunnel.Arrival, error) {
	var p passedArrival
	if len(message) > maxArrival {
		return tunnel.Arrival{}, errArrival
	}
	if err := json.Unmarshal(message, &p); err != nil {
		return tunnel.Arrival{}, fmt.Errorf("%w: %w", errArrival, err)
	}
	if len(p.Opening) != tunnel.OpeningSize || len(p.Server) != 32 || len(p.Channel) != 32 {
		return tunnel.Arrival{}, errArrival
	}
	a := tunnel.Arrival{
		Opening:    p.Opening,
		Place:      tunnel.Place{Server: [32]byte(p.Server), Carrier: [32]byte(p.Channel)},
		Local:      p.Local,
		Remote:     p.Remote,
		Protection: p.Protection.of(),
		Keep: func() error {
			if p.Kept {
				return nil
			}
			return errNoSocket
		},
	}
	switch len(p.WireGuard) {
	case 0:
	case 32:
		a.WireGuard = [32]byte(p.WireGuard)
	default:
		return tunnel.Arrival{}, errArrival
	}
	return a, nil
}
