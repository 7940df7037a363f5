package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// upgradeLimit bounds how long a successor may take until it serves.
const upgradeLimit = 30 * time.Second

// handoverEnv tells a successor which descriptors it has got: words, for
// descriptors from 3 on.
const handoverEnv = "ADIT_HANDOVER"

// The words of handoverEnv. Other words may come: their descriptors are closed.
const (
	wordHear   = "hear"   // a pipe: what the predecessor says
	wordSay    = "say"    // a pipe to it
	wordLock   = "lock"   // the directory
	wordListen = "listen" // a listener
)

// notice is what the two say to each other, in JSON. This is all, in order:
type notice struct {
	// The successor has all that it needs. The predecessor moves its admin socket.
	Prepared bool `json:"prepared,omitempty"`
	// The admin socket's place is free.
	Proceed bool `json:"proceed,omitempty"`
	// The successor serves.
	Serving bool `json:"serving,omitempty"`
	// Systemd knows, and the predecessor accepts no more.
	Yours bool `json:"yours,omitempty"`

	// Instead of any of its own: why the successor gives up.
	Error string `json:"error,omitempty"`
	Hint  string `json:"hint,omitempty"`
}

// upgradeReport is the answer to POST /upgrade.
type upgradeReport struct {
	PID   int    `json:"pid"`
	Error string `json:"error,omitempty"`
	Hint  string `json:"hint,omitempty"`
}

func (p *serverProcess) answerUpgrade(w http.ResponseWriter, r *http.Request) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(upgradeLimit + adminTimeout))
	// Whoever asks may go: a handover ends in one of two ways, and in no third.
	pid, err := p.upgrade(context.WithoutCancel(r.Context()))
	answer := upgradeReport{PID: pid}
	if err != nil {
		p.log.Warn("no other process has taken over", "reason", err)
		answer.Error, answer.Hint = inWords(err)
	}
	reply(w, answer)
}

// inWords gives an error and what to do about it.
func inWords(err error) (what, todo string) {
	if h, ok := errors.AsType[hinted](err); ok {
		todo = h.hint
	}
	return err.Error(), todo
}

// upgrade starts a successor, and lets it take over. If it cannot, all is as it
// was.
func (p *serverProcess) upgrade(ctx context.Context) (pid int, err error) {
	s := p.succession
	if !s.upgrading.TryLock() {
		return 0, errors.New("another upgrade is under way")
	}
	defer s.upgrading.Unlock()
	if s.isLeaving() {
		return 0, errors.New("another process has taken over already")
	}
	socket, err := freeSlot(p.dir)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, upgradeLimit, fmt.Errorf("it did not serve within %s", upgradeLimit))
	defer cancel()
	next, err := p.startSuccessor(ctx)
	if err != nil {
		return 0, fmt.Errorf("start another process: %w", err)
	}
	defer next.release()
	if err := p.handOver(next, socket); err != nil {
		next.kill()
		return 0, err
	}
	return next.pid(), nil
}

// handOver goes through the steps of a handover.
func (p *serverProcess) handOver(next *successor, socket string) error {
	if err := next.await(func(n notice) bool { return n.Prepared }); err != nil {
		return err
	}
	s, own := p.succession, filepath.Join(p.dir, socketFile)
	if err := os.Rename(own, socket); err != nil {
		return fmt.Errorf("move the admin socket: %w", err)
	}
	s.setLeaving(true)
	err := next.say(notice{Proceed: true})
	if err == nil {
		err = next.await(func(n notice) bool { return n.Serving })
	}
	if err != nil {
		s.setLeaving(false)
		return errors.Join(err, os.Rename(socket, own))
	}
	// There is no way back from here.
	if err := notifySuccessor(next.pid()); err != nil {
		p.log.Warn("notify systemd", "error", err)
	}
	closeAll(p.allListeners())
	if err := p.lock.Close(); err != nil {
		p.log.Warn("unlock directory", "error", err)
	}
	s.socket = socket
	close(s.done)
	_ = next.say(notice{Yours: true}) // it goes on without, too
	return nil
}

// freeSlot finds a name for the socket of a process that retires.
func freeSlot(dir string) (string, error) {
	for slot := range maxElders {
		socket := elderSocket(dir, slot)
		c, err := net.Dial("unix", socket)
		switch {
		case dead(err):
			return socket, nil
		case err == nil:
			_ = c.Close() // nothing was written
		}
	}
	return "", hint(fmt.Errorf("%d older processes still hold sessions, which is as many as there may be", maxElders),
		"wait until their streams end, or end the oldest: adit status names their processes")
}

// successor is a process that is to take over from this one.
type successor struct {
	cmd  *exec.Cmd
	ctx  context.Context // of the attempt
	hear *json.Decoder
	in   *os.File // what it says
	out  *os.File
	stop func() bool
}

// commandLine is how this process was started.
type commandLine struct {
	path string
	args []string
}

// ownCommand gives the path that this process was called by, if that still
// leads to it: by the time of an upgrade it may lead to another version. Links
// are not followed.
func ownCommand() (*commandLine, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find adit itself: %w", err)
	}
	if path, err := exec.LookPath(os.Args[0]); err == nil && sameFile(path, self) {
		self = path
	}
	self, err = filepath.Abs(self)
	return &commandLine{path: self, args: os.Args[1:]}, err
}

func sameFile(a, b string) bool {
	x, errX := os.Stat(a)
	y, errY := os.Stat(b)
	return errX == nil && errY == nil && os.SameFile(x, y)
}

// startSuccessor starts a process with this one's command line, listeners and
// lock. It writes to the same standard error.
func (p *serverProcess) startSuccessor(ctx context.Context) (*successor, error) {
	if err := mayHandOver(p.command); err != nil {
		return nil, err
	}
	var theirs inheritance
	defer theirs.close()
	in, err := theirs.pipeFrom(wordSay)
	if err != nil {
		return nil, err
	}
	out, err := theirs.pipeTo(wordHear)
	if err != nil {
		return nil, errors.Join(err, in.Close())
	}
	s := &successor{ctx: ctx, hear: json.NewDecoder(in), in: in, out: out}
	if err = theirs.add(p); err == nil {
		s.cmd = exec.Command(p.command.path, p.command.args...)
		s.cmd.Stdout, s.cmd.Stderr = os.Stdout, os.Stderr
		s.cmd.ExtraFiles = theirs.files
		s.cmd.Env = append(cleanEnv(os.Environ()), handoverEnv+"="+strings.Join(theirs.words, " "))
		s.cmd.SysProcAttr = besideThis()
		err = s.cmd.Start()
	}
	if err != nil {
		s.release()
		return nil, err
	}
	s.stop = context.AfterFunc(ctx, func() { _ = in.SetReadDeadline(time.Unix(1, 0)) })
	return s, nil
}

// cleanEnv leaves out what was meant for this process alone.
func cleanEnv(environ []string) []string {
	var clean []string
	for _, v := range environ {
		switch name, _, _ := strings.Cut(v, "="); name {
		case handoverEnv, "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID":
		default:
			clean = append(clean, v)
		}
	}
	return clean
}

func (s *successor) pid() int { return s.cmd.Process.Pid }

// await waits for a certain notice.
func (s *successor) await(expected func(notice) bool) error {
	var n notice
	err := s.hear.Decode(&n)
	switch {
	case err != nil && s.ctx.Err() != nil:
		return fmt.Errorf("process %d: %w", s.pid(), context.Cause(s.ctx))
	case err != nil:
		return hint(fmt.Errorf("process %d ended before it served", s.pid()), "its last words are in the server's log")
	case n.Error != "":
		err := fmt.Errorf("process %d: %s", s.pid(), n.Error)
		if n.Hint != "" {
			err = hint(err, "%s", n.Hint)
		}
		return err
	case !expected(n):
		return fmt.Errorf("process %d says what it should not: %+v", s.pid(), n)
	}
	return nil
}

func (s *successor) say(n notice) error { return json.NewEncoder(s.out).Encode(n) }

// kill ends a successor that has failed, and waits for its end where that can
// be done.
func (s *successor) kill() {
	_ = s.cmd.Process.Kill() // it may have ended
	_ = s.cmd.Wait()         // fails if this is not its parent
}

// release lets go of a successor, which goes on.
func (s *successor) release() {
	if s.stop != nil {
		s.stop()
	}
	_ = s.in.Close() // all has been said
	_ = s.out.Close()
	if s.cmd != nil && s.cmd.Process != nil {
		_ = s.cmd.Process.Release()
	}
}

// inheritance is what a successor gets.
type inheritance struct {
	words []string
	files []*os.File
}

func (i *inheritance) put(word string, f *os.File) {
	i.words, i.files = append(i.words, word), append(i.files, f)
}

// pipeFrom makes a pipe that the successor writes to, and gives this process's
// end.
func (i *inheritance) pipeFrom(word string) (*os.File, error) {
	r, w, err := os.Pipe()
	if err == nil {
		i.put(word, w)
	}
	return r, err
}

// pipeTo is the opposite of pipeFrom.
func (i *inheritance) pipeTo(word string) (*os.File, error) {
	r, w, err := os.Pipe()
	if err == nil {
		i.put(word, r)
	}
	return w, err
}

// add adds what a process has: copies.
func (i *inheritance) add(p *serverProcess) error {
	lock, err := copyFile(p.lock)
	if err != nil {
		return fmt.Errorf("copy the lock: %w", err)
	}
	i.put(wordLock, lock)
	for _, ln := range p.allListeners() {
		f, err := copyListener(ln)
		if err != nil {
			return fmt.Errorf("copy the listener on %s: %w", ln.Addr(), err)
		}
		i.put(wordListen, f)
	}
	return nil
}

// close closes the copies here.
func (i *inheritance) close() {
	for _, f := range i.files {
		_ = f.Close() // the successor has its own
	}
}
