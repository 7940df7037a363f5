package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
)

// predecessor is the process that this one takes over from. A nil one is none.
type predecessor struct {
	hear      *json.Decoder
	out       *os.File
	lock      *os.File
	listeners []net.Listener
}

// findPredecessor gives the process that has started this one so that it takes over,
// or nil.
func findPredecessor() (*predecessor, error) {
	words := os.Getenv(handoverEnv)
	if words == "" {
		return nil, nil
	}
	if err := os.Unsetenv(handoverEnv); err != nil {
		return nil, err
	}
	b := &predecessor{}
	for i, word := range strings.Fields(words) {
		closeOnExec(firstInherited + i)
		f := os.NewFile(uintptr(firstInherited+i), word)
		switch word {
		case wordHear:
			b.hear = json.NewDecoder(f)
		case wordSay:
			b.out = f
		case wordLock:
			b.lock = f
		case wordListen:
			ln, err := adoptListener(f)
			if err != nil {
				return nil, err
			}
			b.listeners = append(b.listeners, ln)
		default:
			_ = f.Close() // a later version's
		}
	}
	if b.hear == nil || b.out == nil || b.lock == nil {
		return nil, fmt.Errorf("%s=%s: not what an adit says that starts another", handoverEnv, strconv.Quote(words))
	}
	return b, nil
}

// firstInherited is the first descriptor that a process gets from the one that
// starts it, after the standard ones.
const firstInherited = 3

// adoptListener makes a listener of a descriptor, which it closes.
func adoptListener(f *os.File) (net.Listener, error) {
	defer f.Close()
	ln, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("take over a listener: %w", err)
	}
	return ln, nil
}

// systemdListeners gives the listeners of a socket unit (sd_listen_fds(3)).
func systemdListeners() ([]net.Listener, error) {
	n, err := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if err != nil || n < 1 || os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		return nil, nil
	}
	var all []net.Listener
	for i := range n {
		closeOnExec(firstInherited + i)
		ln, err := adoptListener(os.NewFile(uintptr(firstInherited+i), "LISTEN_FDS"))
		if err != nil {
			closeAll(all)
			return nil, err
		}
		all = append(all, ln)
	}
	return all, nil
}

// claim gives the lock on the directory: the predecessor's, or a new one.
func (b *predecessor) claim(dir string) (*os.File, error) {
	if b == nil {
		return lockDir(dir)
	}
	return b.lock, nil
}

// prepared says that nothing is missing any more, and waits until the admin
// socket's place is free.
func (b *predecessor) prepared() error {
	if b == nil {
		return nil
	}
	var n notice
	err := b.say(notice{Prepared: true})
	if err == nil {
		err = b.hear.Decode(&n)
	}
	if err != nil || !n.Proceed {
		return errors.Join(errors.New("the process that started this one has given up"), err)
	}
	return nil
}

// serving says that this process serves, and waits until the other one has
// stopped, or has ended.
func (b *predecessor) serving() error {
	if b == nil {
		return nil
	}
	var n notice
	if err := b.say(notice{Serving: true}); err == nil {
		_ = b.hear.Decode(&n) // if it has died, all is this one's, too
	}
	return nil
}

// fail says why this process gives up.
func (b *predecessor) fail(err error) {
	if b == nil || err == nil {
		return
	}
	what, todo := inWords(err)
	_ = b.say(notice{Error: what, Hint: todo}) // it need not listen any more
}

func (b *predecessor) say(n notice) error { return json.NewEncoder(b.out).Encode(n) }
