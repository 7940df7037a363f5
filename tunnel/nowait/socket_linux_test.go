package nowait

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pair gives a Conn and the other end of it.
func pair(t testing.TB) (*Conn, *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	at := l.Addr().(*net.TCPAddr).AddrPort()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	c, err := Open(fd, at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	peer, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { peer.Close() })
	if got, want := c.Connected().String(), peer.RemoteAddr().String(); got != want {
		t.Fatalf("the local address is %s, want %s", got, want)
	}
	return c, peer.(*net.TCPConn)
}

func TestConnCarriesBothWaysUntilBothEnd(t *testing.T) {
	c, peer := pair(t)
	said := bytes.Repeat([]byte("what is said "), 1<<18) // more than there is room for
	var both sync.WaitGroup
	both.Go(func() {
		if _, err := c.Write(said); err != nil {
			t.Error(err)
		}
		if err := c.CloseWrite(); err != nil {
			t.Error(err)
		}
	})
	both.Go(func() {
		heard, err := io.ReadAll(c)
		if err != nil || !bytes.Equal(heard, said) {
			t.Errorf("heard %d bytes, %v", len(heard), err)
		}
	})
	time.Sleep(10 * time.Millisecond) // both wait
	heard, err := io.ReadAll(peer)
	if err != nil || !bytes.Equal(heard, said) {
		t.Errorf("the peer heard %d bytes, %v", len(heard), err)
	}
	if _, err := peer.Write(said); err != nil {
		t.Error(err)
	}
	peer.CloseWrite()
	both.Wait()
}

func TestConnDeadlines(t *testing.T) {
	c, peer := pair(t)
	b := make([]byte, 1)
	c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	if _, err := c.Read(b); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
	if _, err := c.Read(b); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("a second time:", err)
	}
	c.SetReadDeadline(time.Now().Add(time.Millisecond))
	c.SetReadDeadline(time.Time{})
	time.AfterFunc(20*time.Millisecond, func() { peer.Write([]byte("x")) })
	if n, err := c.Read(b); n != 1 || err != nil {
		t.Error("without a deadline:", n, err)
	}
	c.SetReadDeadline(time.Now().Add(-time.Second))
	peer.Write([]byte("y"))
	if _, err := c.Read(b); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("one that has passed:", err)
	}
	c.SetDeadline(time.Now().Add(time.Hour))
	if n, err := c.Read(b); n != 1 || err != nil {
		t.Error("a late one:", n, err)
	}
	time.AfterFunc(20*time.Millisecond, func() { c.SetDeadline(time.Unix(1, 0)) })
	if _, err := c.Read(b); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("one that is set meanwhile:", err)
	}
	if _, err := c.Write(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("for writes:", err)
	}
}

func TestConnCloseEndsWaitsAndTellsPeer(t *testing.T) {
	for _, reset := range []bool{false, true} {
		c, peer := pair(t)
		ended := make(chan error)
		go func() {
			_, err := c.Read(make([]byte, 1))
			ended <- err
		}()
		time.Sleep(10 * time.Millisecond)
		if reset {
			c.Reset()
		} else {
			c.Close()
		}
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
		_, err := peer.Read(make([]byte, 1))
		if reset != errors.Is(err, syscall.ECONNRESET) || !reset && err != io.EOF {
			t.Errorf("reset %v: the peer has %v", reset, err)
		}
		raw, _ := c.SyscallConn()
		never := func(uintptr) bool { t.Error("used after the end"); return true }
		for _, err := range []error{c.Close(), c.Reset(), c.CloseWrite(), c.SetDeadline(time.Time{}),
			raw.Read(never), raw.Write(never), raw.Control(func(uintptr) { t.Error("used after the end") })} {
			if !errors.Is(err, net.ErrClosed) {
				t.Error(err)
			}
		}
	}
}

func TestConnOfTheSameDescriptorHearsNothingOfTheOneBefore(t *testing.T) {
	c, _ := pair(t)
	fd, life := c.fd, c.life
	c.Close()
	for range 100 {
		next, _ := pair(t)
		if next.fd != fd {
			continue
		}
		told := func(life uint32) bool {
			next.mu.Lock()
			next.in.ready = false
			next.mu.Unlock()
			sockets.tell([]unix.EpollEvent{{Events: unix.EPOLLIN, Fd: int32(fd), Pad: int32(life)}})
			next.mu.Lock()
			defer next.mu.Unlock()
			return next.in.ready
		}
		if told(life) || !told(next.life) {
			t.Error("it was told of what another one has had, or not of its own")
		}
		return
	}
	t.Skip("the number was not used again")
}

func TestConnIsNotClosedWhileItIsUsed(t *testing.T) {
	for range 200 {
		c, peer := pair(t)
		var all sync.WaitGroup
		for range 3 {
			all.Go(func() {
				for c.CloseWrite() == nil {
				}
			})
			all.Go(func() {
				b := make([]byte, 10)
				for {
					if _, err := c.Read(b); errors.Is(err, net.ErrClosed) {
						return
					} else if err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		peer.Write([]byte("some bytes that are read"))
		all.Go(func() { c.Close() })
		all.Go(func() { c.Reset() })
		all.Wait()
		c.mu.Lock()
		if c.users != 0 {
			t.Error("it is used when all is over")
		}
		c.mu.Unlock()
		peer.Close()
	}
}

func TestPollEndsWithTheLastConn(t *testing.T) {
	for range 100 {
		first, _ := pair(t)
		c, peer := pair(t)
		poll := current()
		if poll == nil {
			t.Fatal("nobody waits")
		}
		first.Close()
		if poll != current() {
			t.Fatal("it ends while there is a conn")
		}
		go peer.Write([]byte("x"))
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		c.Close()
		if !poll.isOver() {
			t.Fatal("the conn is closed, and the goroutine is still there")
		}
	}
}

func TestHoldKeepsThePollFromConnToConn(t *testing.T) {
	release := Hold()
	if current() != nil {
		t.Error("there is a poll without conns")
	}
	c, _ := pair(t)
	poll := current()
	c.Close()
	next, peer := pair(t)
	if poll != current() {
		t.Error("the next conn has another poll")
	}
	go peer.Write([]byte("x"))
	if _, err := next.Read(make([]byte, 1)); err != nil {
		t.Error(err)
	}
	next.Close()
	release()
	if !poll.isOver() {
		t.Error("nobody holds it, and the goroutine is still there")
	}

	release = Hold()
	c, _ = pair(t)
	poll = current()
	release()
	if poll.isOver() {
		t.Error("it ends while there is a conn")
	}
	c.Close()
	if !poll.isOver() {
		t.Error("the conn is closed, and the goroutine is still there")
	}
}

// isOver tells whether the goroutine has ended.
func (p *poll) isOver() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// current is the poll of now; nil if there is none.
func current() *poll {
	sockets.mu.Lock()
	defer sockets.mu.Unlock()
	return sockets.poll
}

func TestConnsThatComeAndGoAtOnceAreTold(t *testing.T) {
	t.Run("all", func(t *testing.T) {
		for range 4 {
			t.Run("one after the other", func(t *testing.T) {
				t.Parallel()
				for range 50 {
					c, peer := pair(t)
					peer.Write([]byte("x"))
					c.SetReadDeadline(time.Now().Add(10 * time.Second))
					if _, err := c.Read(make([]byte, 1)); err != nil {
						t.Error(err)
					}
					c.Close()
				}
			})
		}
	})
	if current() != nil {
		t.Error("there is a poll without conns")
	}
}

func TestSocketThatCannotBeWaitedForIsClosed(t *testing.T) {
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	fd, err := unix.Dup(int(file.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(fd, netip.AddrPort{}); !errors.Is(err, syscall.EPERM) {
		t.Error(err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != unix.EBADF {
		t.Error("it is open:", err)
	}
	if current() != nil {
		t.Error("there is a poll without conns")
	}
}

func TestTimerThatComesTooEarlyComesAgain(t *testing.T) {
	c, _ := pair(t)
	if err := c.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	c.in.timer.Stop()
	c.expire(&c.in)
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Read gives %v", err)
	}
}
