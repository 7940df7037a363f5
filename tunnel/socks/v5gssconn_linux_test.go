package socks

import (
	"errors"
	"io"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/adit-net/adit/tunnel/relay"
)

// lateNews is a connection whose Write keeps its error to itself for a while.
type lateNews struct {
	relay.Conn
	known, told chan struct{}
}

func (c lateNews) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	close(c.known)
	<-c.told
	return n, err
}

func (c lateNews) SyscallConn() (syscall.RawConn, error) { return c.Conn.(syscall.Conn).SyscallConn() }

// The kernel tells of a reset once. Between the moment that a Write hears of it and
// the moment that this is known, Read must not believe in a clean end.
func TestResetThatAWriteIsAboutToReportIsNoCleanEnd(t *testing.T) {
	app, door := tcpPair(t)
	late := lateNews{door, make(chan struct{}), make(chan struct{})}
	c := (&GSSChannel{Level: GSSLevelIntegrity, context: &paperGSS{}}).Conn(late)
	app.Reset()
	for deadline := time.Now().Add(patience); !relay.Gone(door); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the reset does not come")
		}
	}
	var all sync.WaitGroup
	defer all.Wait()
	all.Go(func() {
		if _, err := io.WriteString(c, "lost"); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("Write: %v", err)
		}
	})
	<-late.known
	read := make(chan error, 1)
	all.Go(func() {
		_, err := c.Read(make([]byte, 1))
		read <- err
	})
	select {
	case err := <-read:
		t.Errorf("Read = %v before the Write has returned", err)
		close(late.told)
	case <-time.After(50 * time.Millisecond): // longer than it takes to be wrong
		close(late.told)
		if err := <-read; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("Read = %v, want a reset", err)
		}
	}
}
