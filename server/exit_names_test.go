package server

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/adit-net/adit/tunnel/relay"
	"github.com/adit-net/adit/tunnel/socks"
)

// framed gives messages as they go over TCP.
func framed(messages ...string) []byte {
	var b []byte
	for _, m := range messages {
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(m))), m...)
	}
	return b
}

// unframed reads all messages up to the end.
func unframed(t testing.TB, r io.Reader) (messages []string) {
	t.Helper()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	for len(b) > 0 {
		size := 2 + int(binary.BigEndian.Uint16(b))
		messages = append(messages, string(b[2:size]))
		b = b[size:]
	}
	return messages
}

var _ relay.Conn = (*nameConn)(nil)

func TestNameServiceAnswersAllThatIsAsked(t *testing.T) {
	ask := func(_ context.Context, query []byte) ([]byte, error) { return append([]byte("re: "), query...), nil }
	var asked []string
	for i := range 3 * maxNameQueries {
		asked = append(asked, string(rune('a'+i)))
	}
	early := framed(asked[:10]...)
	late := framed(asked[10:]...)
	c := newNameConn(t.Context(), early[:len(early)-1], ask)
	defer c.Close()
	sent := make(chan error, 1)
	go func() {
		for _, octet := range slices.Concat(early[len(early)-1:], late) {
			if _, err := c.Write([]byte{octet}); err != nil {
				sent <- err
				return
			}
		}
		sent <- c.CloseWrite()
	}()
	got := unframed(t, c)
	if err := <-sent; err != nil {
		t.Error(err)
	}
	slices.Sort(got)
	for i := range asked {
		asked[i] = "re: " + asked[i]
	}
	if !slices.Equal(got, asked) {
		t.Errorf("%d answers to %d queries: %q", len(got), len(asked), got)
	}
}

func TestNameServiceLetsNoQueryWaitForAnother(t *testing.T) {
	slow := make(chan struct{})
	c := newNameConn(t.Context(), framed("slow", "fast"), func(_ context.Context, query []byte) ([]byte, error) {
		if string(query) == "slow" {
			<-slow
		}
		return query, nil
	})
	defer c.Close()
	b := make([]byte, 6)
	if _, err := io.ReadFull(c, b); err != nil || string(b[2:]) != "fast" {
		t.Errorf("%q, %v", b, err)
	}
	close(slow)
	c.CloseWrite()
	if got := unframed(t, c); !slices.Equal(got, []string{"slow"}) {
		t.Errorf("%q", got)
	}
}

func TestNameServiceEndsWhenItIsClosed(t *testing.T) {
	asked := make(chan struct{}, maxNameQueries)
	c := newNameConn(t.Context(), framed("a", "b"), func(ctx context.Context, _ []byte) ([]byte, error) {
		asked <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	})
	<-asked
	c.Close() // waits for all of it
	if _, err := c.Write([]byte("x")); err == nil {
		t.Error("there is somebody to ask")
	}
}

func TestNameServiceLeavesWhoSaysNonsense(t *testing.T) {
	for name, asked := range map[string][]byte{"nonsense": framed("nonsense"), "half a query": {0, 9, 'a'}} {
		c := newNameConn(t.Context(), asked, func(context.Context, []byte) ([]byte, error) { return nil, errors.New("nonsense") })
		if name == "half a query" {
			c.CloseWrite()
		}
		if got := unframed(t, c); got != nil {
			t.Errorf("%s: answered by %q", name, got)
		}
		c.Close()
	}
}

func TestNameServiceLeavesWhoAsksNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newNameConn(t.Context(), nil, nil)
		defer c.Close()
		began := time.Now()
		if got := unframed(t, c); got != nil || time.Since(began) != namesIdle {
			t.Errorf("%q after %v", got, time.Since(began))
		}
	})
}

func TestZeroAddressIsTheNameService(t *testing.T) {
	query := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 7, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName("x.example."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
	}
	b, err := query.Pack()
	if err != nil {
		t.Fatal(err)
	}
	e := &Exit{Resolver: &answers{addrs: addrs("192.0.2.7")}}
	for _, host := range []string{"0.0.0.0", "::", "::ffff:0.0.0.0"} {
		r := connectTo(t, host, 53)
		r.Initial = framed(string(b))
		c, _, err := e.Connect(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		c.CloseWrite()
		got := unframed(t, c)
		c.Close()
		var m dnsmessage.Message
		if len(got) != 1 || m.Unpack([]byte(got[0])) != nil || m.ID != 7 || len(m.Answers) != 1 {
			t.Fatalf("%s: %q", host, got)
		}
		if a, ok := m.Answers[0].Body.(*dnsmessage.AResource); !ok || netip.AddrFrom4(a.A) != netip.MustParseAddr("192.0.2.7") {
			t.Errorf("%s: %v", host, m.Answers)
		}
	}
	for _, other := range []socks.Addr{
		{IP: netip.IPv4Unspecified(), Port: 54}, {Name: "0", Port: 53}, {Port: 53}, {IP: netip.MustParseAddr("127.0.0.1"), Port: 53},
	} {
		if isNameService(other) {
			t.Errorf("%v is the name service", other)
		}
	}
}

// FuzzNameService checks that no bytes make the service hang, and that what it gives
// to be answered is what was sent.
func FuzzNameService(f *testing.F) {
	f.Add(framed("a", "", "query"), 3)
	f.Add([]byte{0xff, 0xff, 0}, 1)
	f.Fuzz(func(t *testing.T, b []byte, split int) {
		split = max(0, min(split, len(b)))
		c := newNameConn(t.Context(), b[:split], func(_ context.Context, query []byte) ([]byte, error) { return query, nil })
		var asking sync.WaitGroup
		defer asking.Wait()
		defer c.Close()
		asking.Go(func() {
			c.Write(b[split:])
			c.CloseWrite()
		})
		size := 0
		for _, m := range unframed(t, c) {
			size += 2 + len(m)
		}
		if size > len(b) {
			t.Errorf("%d bytes answered, %d sent", size, len(b))
		}
	})
}
