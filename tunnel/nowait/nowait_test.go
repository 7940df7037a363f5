//go:build unix

package nowait

import (
	"bytes"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestReadFindsWhatWasWritten(t *testing.T) {
	var fds [2]int
	if err := syscall.Pipe(fds[:]); err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		defer syscall.Close(fd)
		if err := syscall.SetNonblock(fd, true); err != nil {
			t.Fatal(err)
		}
	}
	var r Reader
	b := make([]byte, 8)
	for range 3 * restless { // by whatever call
		if n, err := r.Read(fds[0], b); n > 0 || err != syscall.EAGAIN {
			t.Fatalf("an empty pipe gives %d bytes, %v", n, err)
		}
		if n, err := Write(fds[1], []byte("words")); n != 5 || err != nil {
			t.Fatal(n, err)
		}
		if n, err := r.Read(fds[0], b); err != nil || !bytes.Equal(b[:n], []byte("words")) {
			t.Fatalf("the pipe gives %q, %v", b[:n], err)
		}
	}
	if n, err := Write(-1, b); n > 0 || err != syscall.EBADF {
		t.Errorf("Write gives %d, %v without a descriptor", n, err)
	}
	if n, err := r.Read(-1, b); n > 0 || err != syscall.EBADF {
		t.Errorf("Read gives %d, %v without a descriptor", n, err)
	}
}

func TestReaderWithoutRestLetsOthersHaveTheProcessor(t *testing.T) {
	endless, err := os.Open("/dev/zero")
	if err != nil {
		t.Fatal(err)
	}
	defer endless.Close()
	fd := int(endless.Fd())
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	silence(t)

	var others sync.WaitGroup
	var ran atomic.Bool
	others.Go(func() { ran.Store(true) })
	var r Reader
	for b := make([]byte, 4<<10); !ran.Load(); {
		if _, err := r.Read(fd, b); err != nil {
			t.Fatal(err)
		}
	}
	others.Wait()
}

// silence waits while all is idle, until the scheduler's thread sleeps. A timer's end would wake it.
func silence(t *testing.T) {
	sleep := exec.Command("sleep", "0.2")
	end, err := sleep.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sleep.Wait() })
	conn, err := end.(*os.File).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var r Reader
	if err := conn.Read(func(fd uintptr) bool {
		_, err := r.Read(int(fd), make([]byte, 1))
		return err != syscall.EAGAIN
	}); err != nil {
		t.Fatal(err)
	}
}
