package relay

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds what a test waits for.
const patience = 10 * time.Second

// tcpPair gives both ends of a TCP connection.
func tcpPair(t testing.TB) (*net.TCPConn, *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	near, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	far, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []net.Conn{near, far} {
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(patience))
	}
	return near.(*net.TCPConn), far.(*net.TCPConn)
}

// running is a Copy between two TCP connections, seen from the other ends of
// these.
type running struct {
	left, right *net.TCPConn
	a, b        *net.TCPConn // Copy's ends
	result      chan Result
}

func start(t *testing.T, prefix string) *running {
	t.Helper()
	r := &running{result: make(chan Result, 1)}
	r.left, r.a = tcpPair(t)
	r.right, r.b = tcpPair(t)
	r.a.SetDeadline(time.Time{})
	r.b.SetDeadline(time.Time{})
	go func() { r.result <- Copy(t.Context(), WithPrefix(TCP(r.a), []byte(prefix)), TCP(r.b)) }()
	return r
}

func (r *running) end(t *testing.T) Result {
	t.Helper()
	select {
	case result := <-r.result:
		return result
	case <-time.After(patience):
		t.Fatal("Copy does not return")
		panic("unreachable")
	}
}

func send(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
}

func expect(t *testing.T, c net.Conn, text string) {
	t.Helper()
	b := make([]byte, len(text))
	if _, err := io.ReadFull(c, b); err != nil || string(b) != text {
		t.Fatalf("read %q (%v), want %q", b, err, text)
	}
}

func expectEnd(t *testing.T, c net.Conn) {
	t.Helper()
	if b, err := io.ReadAll(c); err != nil || len(b) > 0 {
		t.Fatalf("read %q and then %v, want a clean end", b, err)
	}
}

func expectReset(t *testing.T, c net.Conn) {
	t.Helper()
	if b, err := io.ReadAll(c); !errors.Is(err, syscall.ECONNRESET) || len(b) > 0 {
		t.Fatalf("read %q and then %v, want a reset", b, err)
	}
}

func TestCopyKeepsOneDirectionOpenAfterTheOtherEnds(t *testing.T) {
	for _, name := range []string{"up ends first", "down ends first"} {
		t.Run(name, func(t *testing.T) {
			r := start(t, "")
			first, last := r.left, r.right
			if name == "down ends first" {
				first, last = last, first
			}
			send(t, first, "question")
			first.CloseWrite()
			expect(t, last, "question")
			expectEnd(t, last)
			send(t, last, "a long answer")
			expect(t, first, "a long answer")
			last.CloseWrite()
			expectEnd(t, first)
			got := r.end(t)
			if got.Err != nil || got.Up+got.Down != int64(len("question"+"a long answer")) {
				t.Errorf("result %+v", got)
			}
		})
	}
}

func TestCopyPassesResetsOn(t *testing.T) {
	for _, name := range []string{"left", "right"} {
		t.Run(name, func(t *testing.T) {
			r := start(t, "")
			near, far := r.left, r.right
			if name == "right" {
				near, far = far, near
			}
			send(t, near, "some")
			expect(t, far, "some")
			near.SetLinger(0)
			near.Close()
			expectReset(t, far)
			if got := r.end(t); !errors.Is(got.Err, syscall.ECONNRESET) {
				t.Errorf("result %+v", got)
			}
		})
	}
}

func TestCopyPassesAResetOnAfterAnEnd(t *testing.T) {
	r := start(t, "")
	r.left.CloseWrite()
	expectEnd(t, r.right)
	r.right.SetLinger(0)
	r.right.Close()
	expectReset(t, r.left)
	r.end(t)
}

func TestCopyDeliversWhatCameBeforeAReset(t *testing.T) {
	r := start(t, "")
	send(t, r.left, "last words")
	r.left.SetLinger(0)
	r.left.Close()
	expect(t, r.right, "last words")
	expectReset(t, r.right)
	r.end(t)
}

func TestCopyCountsAndKeepsEveryByte(t *testing.T) {
	r := start(t, "")
	up, down := bytes.Repeat([]byte("up"), 1<<20), bytes.Repeat([]byte("down"), 1<<20)
	var all sync.WaitGroup
	for _, c := range []struct {
		from, to *net.TCPConn
		text     []byte
	}{{r.left, r.right, up}, {r.right, r.left, down}} {
		all.Go(func() {
			if _, err := c.from.Write(c.text); err != nil {
				t.Error(err)
			}
			c.from.CloseWrite()
		})
		all.Go(func() {
			if got, err := io.ReadAll(c.to); err != nil || !bytes.Equal(got, c.text) {
				t.Errorf("read %d bytes (%v), want %d", len(got), err, len(c.text))
			}
		})
	}
	all.Wait()
	if got, want := r.end(t), (Result{Up: int64(len(up)), Down: int64(len(down))}); got != want {
		t.Errorf("result %+v, want %+v", got, want)
	}
}

func TestPrefixComesFirst(t *testing.T) {
	r := start(t, "read too far, ")
	send(t, r.left, "and the rest")
	expect(t, r.right, "read too far, and the rest")
	r.left.CloseWrite()
	r.right.CloseWrite()
	if got := r.end(t); got.Up != int64(len("read too far, and the rest")) || got.Err != nil {
		t.Errorf("result %+v", got)
	}

	near, far := tcpPair(t)
	send(t, far, "and the rest")
	far.CloseWrite()
	c := WithPrefix(TCP(near), []byte("read too far, "))
	if n, err := c.Read(nil); n != 0 || err != nil {
		t.Errorf("Read(nil) gives %d, %v", n, err)
	}
	if got, err := io.ReadAll(c); string(got) != "read too far, and the rest" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
}

func TestCopyResetsBothWhenItsContextEnds(t *testing.T) {
	r := &running{result: make(chan Result, 1)}
	r.left, r.a = tcpPair(t)
	r.right, r.b = tcpPair(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() { r.result <- Copy(ctx, TCP(r.a), TCP(r.b)) }()
	send(t, r.left, "some")
	expect(t, r.right, "some")
	why := errors.New("told to")
	cancel(why)
	expectReset(t, r.left)
	expectReset(t, r.right)
	if got := r.end(t); !errors.Is(got.Err, why) || got.Up != 4 {
		t.Errorf("result %+v", got)
	}
}

// refusing is a conn whose peer has gone: a Write fails, and only then Read
// gives what the peer had sent before.
type refusing struct {
	net.Conn
	failed chan struct{} // closed when Write has failed
	words  io.Reader
	err    error // what Read gives at the end
}

func newRefusing(words string, err error) *refusing {
	return &refusing{failed: make(chan struct{}), words: iotest.OneByteReader(strings.NewReader(words)), err: err}
}

func (c *refusing) Write([]byte) (int, error) {
	close(c.failed)
	return 0, syscall.ECONNRESET
}

func (c *refusing) Read(p []byte) (int, error) {
	<-c.failed
	n, err := c.words.Read(p)
	if err != nil {
		err = c.err
	}
	return n, err
}

func (c *refusing) CloseWrite() error { return nil }
func (c *refusing) Reset() error      { return nil }
func (c *refusing) Close() error      { return nil }

// listening is a conn whose peer says one thing, and hears at its own pace.
type listening struct {
	net.Conn
	said  bool
	pause time.Duration // before each piece is taken

	heard bytes.Buffer
	ended bool
	reset chan struct{} // closed by Reset
	once  sync.Once
}

func (c *listening) Read(p []byte) (int, error) {
	if !c.said {
		c.said = true
		return copy(p, "hello?"), nil
	}
	<-c.reset
	return 0, net.ErrClosed
}

func (c *listening) Write(p []byte) (int, error) {
	select {
	case <-time.After(c.pause):
		return c.heard.Write(p)
	case <-c.reset:
		return 0, net.ErrClosed
	}
}

func (c *listening) CloseWrite() error { c.ended = true; return nil }
func (c *listening) Close() error      { return c.Reset() }
func (c *listening) Reset() error      { c.once.Do(func() { close(c.reset) }); return nil }

// A web server that has seen enough of an upload answers and closes: what was
// under way to it is then answered by a reset. Its answer counts all the same.
func TestLastWordsArriveAlthoughAWriteFailedBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, pause := range []time.Duration{0, lastWords - 1} {
			b := &listening{reset: make(chan struct{}), pause: pause}
			r := Copy(t.Context(), newRefusing("413 too large", syscall.ECONNRESET), b)
			if b.heard.String() != "413 too large" || b.ended {
				t.Errorf("%q was heard, and a clean end: %v", b.heard.String(), b.ended)
			}
			if !errors.Is(r.Err, syscall.ECONNRESET) {
				t.Errorf("result %+v", r)
			}
		}
	})
}

func TestAnEndBehindLastWordsReachesASocket(t *testing.T) {
	peer, own := tcpPair(t)
	result := make(chan Result, 1)
	go func() { result <- Copy(t.Context(), newRefusing("done", io.EOF), TCP(own)) }()
	send(t, peer, "hello?")
	expect(t, peer, "done")
	expectEnd(t, peer)
	if r := <-result; !errors.Is(r.Err, syscall.ECONNRESET) {
		t.Errorf("result %+v", r)
	}
}

func TestAnEndBehindLastWordsIsPassedOnAndTheRestBroken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		b := &listening{reset: make(chan struct{})}
		r := Copy(t.Context(), newRefusing("done", io.EOF), b)
		if b.heard.String() != "done" || !b.ended {
			t.Errorf("%q was heard, and a clean end: %v", b.heard.String(), b.ended)
		}
		if !errors.Is(r.Err, syscall.ECONNRESET) || time.Since(began) > 0 {
			t.Errorf("result %+v after %v", r, time.Since(began))
		}
	})
}

func TestCopyDoesNotWaitForEverForLastWordsToBeTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		b := &listening{reset: make(chan struct{}), pause: time.Hour}
		r := Copy(t.Context(), newRefusing("413 too large", syscall.ECONNRESET), b)
		if took := time.Since(began); took != lastWords {
			t.Errorf("Copy gives up after %v, want %v", took, lastWords)
		}
		if !errors.Is(r.Err, syscall.ECONNRESET) {
			t.Errorf("result %+v", r)
		}
	})
}

// slow is a conn that wakes those who wait as soon as it is being reset, and takes
// its time until it says so.
type slow struct{ *listening }

func (c slow) Reset() error {
	c.listening.Reset()
	time.Sleep(time.Second)
	return nil
}

// first notes what is called first, Close or Reset.
type first struct {
	*listening
	once sync.Once
	call string
}

func (c *first) Close() error {
	c.once.Do(func() { c.call = "Close" })
	return c.listening.Close()
}

func (c *first) Reset() error {
	c.once.Do(func() { c.call = "Reset" })
	return c.listening.Reset()
}

// The app waits in Write and has nothing more to say, so both directions are over as
// soon as it is reset, and before its target is.
func TestNobodyIsClosedBeforeHeIsReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		app := slow{&listening{said: true, reset: make(chan struct{}), pause: time.Hour}}
		target := &first{listening: &listening{reset: make(chan struct{})}}
		time.AfterFunc(time.Second, cancel)
		if r := Copy(ctx, app, target); !errors.Is(r.Err, context.Canceled) {
			t.Errorf("result %+v", r)
		}
		if target.call != "Reset" {
			t.Errorf("the target's first call is %s", target.call)
		}
	})
}

// telling is a conn that tells when it has something to read, and is not read before.
type telling struct {
	*net.TCPConn // what is written goes there
	t            *testing.T

	mu    sync.Mutex
	words []string
	err   error
	tell  func()
}

func (c *telling) say(words string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if words != "" {
		c.words = append(c.words, words)
	}
	c.err = err
	if c.tell != nil {
		c.tell()
		c.tell = nil
	}
}

func (c *telling) Withdraw() {}

func (c *telling) Await(_ func([]byte) int, f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.words) > 0 || c.err != nil {
		return false
	}
	if c.tell != nil {
		c.t.Error("two await it")
	}
	c.tell = f
	return true
}

func (c *telling) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.words) > 0 {
		n := copy(p, c.words[0])
		c.words = c.words[1:]
		return n, nil
	}
	if c.err == nil {
		c.t.Error("it is read although it has nothing")
	}
	return 0, c.err
}

func (c *telling) Reset() error {
	c.TCPConn.SetLinger(0)
	c.TCPConn.Close()
	c.say("", net.ErrClosed)
	return nil
}

// SyscallConn is not promoted: the conn is no plain socket.
func (c *telling) SyscallConn() (syscall.RawConn, error) { return nil, errors.ErrUnsupported }

func TestASourceThatTellsIsReadOnlyWhenItHasSomething(t *testing.T) {
	for _, name := range []string{"up", "down"} {
		for _, last := range []error{io.EOF, syscall.ECONNRESET} {
			t.Run(name+" "+last.Error(), func(t *testing.T) {
				app, a := tcpPair(t)
				target, b := tcpPair(t)
				a.SetDeadline(time.Time{})
				b.SetDeadline(time.Time{})
				source := &telling{TCPConn: a, t: t}
				source.say("early, ", nil)
				result := make(chan Result, 1)
				go func() {
					if name == "up" {
						result <- Copy(t.Context(), source, TCP(b))
					} else {
						result <- Copy(t.Context(), TCP(b), source)
					}
				}()
				expect(t, target, "early, ")
				for range 100 {
					source.say("some", nil)
					expect(t, target, "some")
					send(t, target, "back")
					expect(t, app, "back")
				}
				source.say("and the last", last)
				if last == io.EOF {
					expect(t, target, "and the last")
					expectEnd(t, target)
					target.CloseWrite()
					expectEnd(t, app)
				}
				got := <-result
				want := Result{Up: 419, Down: 400}
				if name == "down" {
					want.Up, want.Down = want.Down, want.Up
				}
				if got.Up != want.Up || got.Down != want.Down || (got.Err == nil) != (last == io.EOF) {
					t.Errorf("result %+v, want %+v", got, want)
				}
			})
		}
	}
}

func TestASourceThatIsSilentIsResetWhenItsContextEnds(t *testing.T) {
	app, a := tcpPair(t)
	target, b := tcpPair(t)
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan Result, 1)
	go func() { result <- Copy(ctx, &telling{TCPConn: a, t: t}, TCP(b)) }()
	send(t, target, "hello")
	expect(t, app, "hello")
	cancel()
	expectReset(t, app)
	expectReset(t, target)
	if got := <-result; !errors.Is(got.Err, context.Canceled) || got.Down != 5 {
		t.Errorf("result %+v", got)
	}
}
