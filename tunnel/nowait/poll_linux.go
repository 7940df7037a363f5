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

// poller tells conns when something happens. It has a poll as long as somebody needs it.
type poller struct {
	mu    sync.Mutex
	needs int     // conns that are open, and holds
	poll  *poll   // nil: there is none yet
	conns []*Conn // by descriptor; nil: there is none
	life  uint32  // of the conn that was opened last
}

// poll is one of the kernel's, which is one descriptor to Go's, and a goroutine that waits for it.
type poll struct {
	fd    int
	file  *os.File      // has fd
	ended chan struct{} // closed when the goroutine has
}

const all = unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET

// Hold keeps the goroutine of all Conns, which otherwise ends with the last one, from ending
// between one and the next. It ends with the last Conn and the last hold, and whoever gives
// that up waits for it. Release is called once.
func Hold() (release func()) {
	sockets.mu.Lock()
	defer sockets.mu.Unlock()
	sockets.needs++
	return func() {
		sockets.mu.Lock()
		over := sockets.leave()
		sockets.mu.Unlock()
		over.end()
	}
}

// add has a conn told of what happens, until remove, which is due even if it fails.
func (p *poller) add(c *Conn) (err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.conns) <= c.fd {
		p.conns = append(p.conns, nil)
	}
	p.conns[c.fd] = c
	p.life++
	c.life = p.life
	p.needs++
	if p.poll == nil {
		if p.poll, err = p.start(); err != nil {
			return err
		}
	}
	event := unix.EpollEvent{Events: all, Fd: int32(c.fd), Pad: int32(c.life)}
	_, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(p.poll.fd), unix.EPOLL_CTL_ADD, uintptr(c.fd), uintptr(unsafe.Pointer(&event)), 0, 0)
	if errno != 0 {
		return os.NewSyscallError("epoll_ctl", errno)
	}
	return nil
}

// remove forgets a conn whose descriptor is closed next, which ends what the kernel has of it.
// After that the poll is ended that it gives, if any.
func (p *poller) remove(c *Conn) (over *poll) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns[c.fd] = nil
	return p.leave()
}

// leave notes that somebody has no need of the poll any more, and gives it if nobody has. The
// caller holds mu.
func (p *poller) leave() (over *poll) {
	if p.needs--; p.needs == 0 {
		over, p.poll = p.poll, nil
	}
	return over
}

// start makes the poll. The caller holds mu.
func (p *poller) start() (*poll, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // so that Go waits for it
		unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	one := &poll{fd: fd, file: os.NewFile(uintptr(fd), "epoll"), ended: make(chan struct{})}
	err = one.file.SetReadDeadline(time.Time{}) // fails if Go cannot wait for it
	raw, rawErr := one.file.SyscallConn()
	if err := errors.Join(err, rawErr); err != nil {
		return nil, errors.Join(err, one.file.Close())
	}
	go func() {
		defer close(one.ended)
		p.run(raw)
	}()
	return one, nil
}

// end ends a poll, if there is one, and waits for its goroutine, which is never the caller.
func (p *poll) end() {
	if p == nil {
		return
	}
	_ = p.file.Close() // which ends run, and whatever it says the descriptor is gone
	<-p.ended
}

// run tells conns what happens, until the poll is closed.
func (p *poller) run(poll syscall.RawConn) {
	events := make([]unix.EpollEvent, 128)
	_ = poll.Read(func(fd uintptr) bool {
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

// tell tells conns what has happened.
func (p *poller) tell(events []unix.EpollEvent) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range events {
		// A descriptor may have been closed and opened anew meanwhile, and in another poll.
		if c := p.conns[e.Fd]; c != nil && c.life == uint32(e.Pad) {
			c.happens(e.Events&^unix.EPOLLOUT != 0, e.Events&^(unix.EPOLLIN|unix.EPOLLRDHUP) != 0)
		}
	}
}
