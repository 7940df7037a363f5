package nowait

import (
	"errors"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sockets are all that are open.
var sockets poller

// linger is how long the poller's goroutine stays when nothing is open any more.
const linger = 100 * time.Millisecond

// poller tells conns when something happens. It has a poll of the kernel's of its own, which is
// one descriptor to Go's, and a goroutine while there are conns.
type poller struct {
	mu      sync.Mutex
	epoll   int
	file    *os.File // has epoll; nil: there is none yet
	conns   []*Conn  // by descriptor; nil: there is none
	open    int
	life    uint32 // of the conn that was opened last
	runs    bool   // there is a goroutine
	leaving bool   // which looks in a while whether it is needed
}

const all = unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET

// add has a conn told of what happens, until remove.
func (p *poller) add(c *Conn) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.file == nil {
		if err := p.start(); err != nil {
			return err
		}
	}
	for len(p.conns) <= c.fd {
		p.conns = append(p.conns, nil)
	}
	p.life++
	c.life = p.life
	event := unix.EpollEvent{Events: all, Fd: int32(c.fd), Pad: int32(c.life)}
	_, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(p.epoll), unix.EPOLL_CTL_ADD, uintptr(c.fd), uintptr(unsafe.Pointer(&event)), 0, 0)
	if errno != 0 {
		return os.NewSyscallError("epoll_ctl", errno)
	}
	p.conns[c.fd] = c
	p.open++
	if !p.runs {
		p.runs = true
		go p.run()
	}
	return nil
}

// remove forgets a conn whose descriptor is closed next, which ends what the kernel has of it.
func (p *poller) remove(c *Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns[c.fd] = nil
	if p.open--; p.open == 0 && !p.leaving {
		p.leaving = true
		_ = p.file.SetReadDeadline(time.Now().Add(linger)) // without it the goroutine stays
	}
}

// start makes the poll. The caller holds mu.
func (p *poller) start() error {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("epoll_create1", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // so that Go waits for it
		unix.Close(fd)
		return os.NewSyscallError("fcntl", err)
	}
	file := os.NewFile(uintptr(fd), "epoll")
	if err := file.SetReadDeadline(time.Time{}); err != nil { // Go cannot wait for it
		return errors.Join(err, file.Close())
	}
	p.epoll, p.file = fd, file
	return nil
}

// run tells conns what happens until there have been none for a while.
func (p *poller) run() {
	raw, err := p.file.SyscallConn()
	if err != nil {
		panic(err) // it is never closed
	}
	events := make([]unix.EpollEvent, 128)
	for p.stays() {
		// It ends when it is time to look whether anybody needs it.
		_ = raw.Read(func(fd uintptr) bool {
			for {
				n, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, fd, uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), 0, 0, 0)
				if errno != 0 {
					n = 0
				}
				p.tell(events[:n])
				if int(n) < len(events) {
					return false // whatever comes from now on wakes
				}
			}
		})
	}
}

// stays tells whether the goroutine goes on, which it does until nothing has been open for a while.
func (p *poller) stays() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.leaving {
		p.leaving = false
		_ = p.file.SetReadDeadline(time.Time{})
		p.runs = p.open > 0
	}
	return p.runs
}

// tell tells conns what has happened.
func (p *poller) tell(events []unix.EpollEvent) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range events {
		// A descriptor may have been closed and opened anew meanwhile.
		if c := p.conns[e.Fd]; c != nil && c.life == uint32(e.Pad) {
			c.happens(e.Events&^unix.EPOLLOUT != 0, e.Events&^(unix.EPOLLIN|unix.EPOLLRDHUP) != 0)
		}
	}
}
