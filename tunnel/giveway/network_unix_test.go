//go:build unix

package giveway

import (
	"net"
	"runtime"
	"sync/atomic"
	"testing"
)

// TestToNetworkFindsWhatHasCome has one processor, on which somebody is always busy.
func TestToNetworkFindsWhatHasCome(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	in, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	var heard atomic.Int32
	done := make(chan struct{})
	go func() {
		defer close(done)
		for b := make([]byte, 1); ; heard.Add(1) {
			if _, err := out.Read(b); err != nil {
				return
			}
		}
	}()
	const words = 100
	late := 0
	for i := range int32(words) {
		for heard.Load() < i {
			runtime.Gosched()
		}
		runtime.Gosched() // who reads waits now
		if _, err := in.Write([]byte{1}); err != nil {
			t.Fatal(err)
		}
		ToNetwork()
		if runtime.Gosched(); heard.Load() == i {
			late++
		}
	}
	out.Close()
	<-done
	if late > words/10 { // the kernel may take its time
		t.Errorf("%d words of %d were not heard at once", late, words)
	}
}
