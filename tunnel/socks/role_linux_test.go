package socks

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A test that needs another process starts its own binary again in a role:
//
//	app ADDRESS    asks the door at ADDRESS in each dialect, and prints the answers
//	door           serves a door until standard input ends, and prints its address
const roleVariable = "ADIT_TEST_ROLE"

// anotherUser is nobody's uid on most systems. Nothing has to exist with it.
const anotherUser = 65534

// askings are requests that a door answers with a yes, if it does.
var askings = []struct{ request, yes string }{
	{"\x05\x01\x00\x05\x01\x00\x03\x0bexample.com\x00\x50", "\x05\x00"},
	{"\x05\x02\x00\x02", "\x05\x00"},
	{"\x04\x01\x00\x50\x00\x00\x00\x01\x00example.com\x00", "\x00\x5a"},
	{"CONNECT example.com:80 HTTP/1.1\r\n\r\n", "HTTP/1.1 200"},
	{"GET http://example.com/ HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 502"}, // a sink is no web site
}

func playRole() {
	role := os.Getenv(roleVariable)
	if role == "" {
		return
	}
	var err error
	if door, ok := strings.CutPrefix(role, "app "); ok {
		err = playApp(door)
	} else {
		err = playDoor()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func playApp(door string) error {
	for _, a := range askings {
		answer, err := ask(door, a.request)
		if err != nil {
			return err
		}
		fmt.Printf("%x\n", answer)
	}
	return nil
}

// ask gives a door's whole answer to a request, after which the app says no more.
func ask(door, request string) ([]byte, error) {
	c, err := net.Dial("tcp", door)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, request); err != nil {
		return nil, err
	}
	b := make([]byte, 512)
	n, err := c.Read(b)
	if err == io.EOF {
		err = nil
	}
	return b[:n], err
}

func playDoor() error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()
	fmt.Println(ln.Addr())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	return (&Door{Relay: &recorder{}}).Serve(ctx, ln)
}

// start runs this binary in a role as a user, and gives its first line. The
// function waits for its end, and gives all lines.
func start(t *testing.T, role string, uid int) (firstLine string, all func() []string) {
	t.Helper()
	// By this name the binary runs also for a user who may not see its directory.
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	var errors bytes.Buffer
	cmd.Stderr = &errors
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if uid != os.Getuid() {
		if os.Getuid() != 0 {
			t.Fatal("only root can start a process of another user: run this test as root")
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var line []byte
	for b := make([]byte, 1); ; line = append(line, b[0]) {
		if _, err := io.ReadFull(out, b); err != nil || b[0] == '\n' {
			break
		}
	}
	return string(line), func() []string {
		in.Close()
		rest, _ := io.ReadAll(out)
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v\n%s", role, err, errors.Bytes())
		}
		return strings.Split(strings.TrimSpace(string(line)+"\n"+string(rest)), "\n")
	}
}
