package tunnel

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/adit-net/adit/tunnel/resume"
)

// What a session's carriers are made of. Package resume documents them; whoever
// uses sessions needs no other package.
type (
	// Carrier is a conn that carries a session from Attach until it is lost.
	Carrier = resume.Carrier
	// State is how a session's pipe is doing.
	State = resume.State
	// Memory bounds what many sessions keep to send again, and of datagrams.
	Memory = resume.Memory
)

// NewMemory gives a Memory of limit bytes.
func NewMemory(limit int) *Memory { return resume.NewMemory(limit) }

// Why a carrier is not attached, or was lost.
var (
	ErrStale    = resume.ErrStale    // a later carrier is there already
	ErrReplaced = resume.ErrReplaced // a later carrier took over
	ErrSilent   = resume.ErrSilent   // the peer was not heard of for too long
	ErrGrace    = resume.ErrGrace    // the session: no carrier came in time
)

// ErrDetached says that a session has had no carrier for as long as somebody
// was ready to wait.
var ErrDetached = errors.New("the session has no carrier at the moment")

var errFixedPipe = errors.New("the session cannot change its pipe")

// New gives a session that outlives its carriers. It has none yet: Attach gives
// it one after another. Nothing happens before Serve.
func New(client bool, cfg Config) *Session {
	pipe := resume.New(resume.Config{Grace: cfg.Grace, Idle: cfg.Idle, Memory: cfg.Memory})
	s := NewSession(pipe, client, cfg)
	s.resumes = pipe
	return s
}

// Judge tells whether a carrier of this epoch could be attached for a peer that
// waits for offset, and gives the offset that this end waits for. The error is
// [ErrStale] if a later carrier is there; any other error means that the session cannot
// go on with this peer.
func (s *Session) Judge(epoch, offset uint64) (received uint64, err error) {
	if s.resumes == nil {
		return 0, errFixedPipe
	}
	return s.resumes.Judge(epoch, offset)
}

// Received gives the offset that this end waits for: what a [Hello] says.
func (s *Session) Received() uint64 {
	if s.resumes == nil {
		return 0
	}
	return s.resumes.Received()
}

// Written gives the offset behind all that this end's streams have written so far: a peer
// that waits for it, or for a later one, has it all.
func (s *Session) Written() uint64 { return s.out.written() }

// Attach makes conn the session's carrier, in place of the one before, for a
// peer that waits for offset. The carrier's Serve must be called. On an error, see Judge, the
// session is as it was and conn is still the caller's.
func (s *Session) Attach(conn net.Conn, epoch, offset uint64) (*Carrier, error) {
	if s.resumes == nil {
		return nil, errFixedPipe
	}
	return s.resumes.Attach(conn, epoch, offset)
}

// State gives the state of the session's pipe, and a channel that is closed
// when it changes.
func (s *Session) State() (State, <-chan struct{}) {
	if s.resumes == nil {
		return State{Attached: !s.over(), Err: s.Err()}, s.done
	}
	return s.resumes.State()
}

// Probe asks the peer now whether it is there: the state tells.
func (s *Session) Probe() {
	if s.resumes != nil {
		s.resumes.Probe()
	}
}

// SetGrace changes how long the session outlives its last carrier, from the next
// loss on.
func (s *Session) SetGrace(d time.Duration) {
	if s.resumes != nil {
		s.resumes.SetGrace(d)
	}
}

func (s *Session) isAttached() bool {
	state, _ := s.State()
	return state.Attached
}

// attached waits until there is a carrier.
func (s *Session) attached(ctx context.Context) error {
	for {
		state, changed := s.State()
		switch {
		case state.Attached:
			return nil
		case state.Err != nil:
			return ErrSessionLost
		}
		select {
		case <-changed:
		case <-s.draining:
			return ErrDraining
		case <-s.done:
			return ErrSessionLost
		case <-ctx.Done():
			return errors.Join(ErrDetached, context.Cause(ctx))
		}
	}
}
