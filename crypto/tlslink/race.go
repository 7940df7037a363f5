package tlslink

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

// attemptDelay is how long an attempt to connect has before the next one joins
// it: the Connection Attempt Delay of RFC 8305 section 5.
const attemptDelay = 250 * time.Millisecond

// target is one way to reach the server.
type target struct {
	addr  netip.Addr
	plain bool // not by Multipath TCP, whatever the Dialer says
}

// reached is how one attempt has ended.
type reached struct {
	conn net.Conn
	to   target
	err  error
}

// connect searches for the server and connects to the first of its addresses that
// answers. Everything that it has started has ended when it returns.
func (s *search) connect(ctx context.Context, dial func(context.Context, target) (net.Conn, error)) (reached, error) {
	searching, cancel := context.WithCancel(ctx)
	targets := make(chan target)
	var over sync.WaitGroup
	over.Go(func() { s.run(searching, targets) })
	r, err := race(ctx, targets, dial)
	cancel()
	over.Wait()
	if r.conn != nil || err != nil {
		return r, err
	}
	return r, &net.OpError{Op: "dial", Net: "tcp", Err: cmp.Or(s.err, ctx.Err(), errNoAddress)}
}

// race connects to one of the targets (RFC 8305 section 5): to each as it
// comes, the next as soon as one fails or [attemptDelay] has passed. The first
// connection wins. All attempts have ended when race returns, and the other
// connections are closed. Without any target the error is nil, as is the
// connection. The sender of targets must be done with them soon after ctx ends.
func race(ctx context.Context, targets <-chan target, dial func(context.Context, target) (net.Conn, error)) (reached, error) {
	ctx, cancel := context.WithCancel(ctx)
	results := make(chan reached, maxTargets) // room for all: no attempt waits to be heard
	var attempts sync.WaitGroup
	defer func() {
		cancel()
		attempts.Wait()
		close(results)
		for late := range results {
			if late.conn != nil {
				_ = late.conn.Close() // it has carried nothing
			}
		}
	}()

	var failed error
	running := 0
	delay := time.NewTimer(attemptDelay)
	defer delay.Stop()
	next := targets // nil while the latest attempt has its time alone
	for targets != nil || running > 0 {
		select {
		case t, ok := <-next:
			if next = nil; !ok {
				targets = nil
				continue
			}
			running++
			attempts.Go(func() {
				conn, err := dial(ctx, t)
				results <- reached{conn, t, err}
			})
			delay.Reset(attemptDelay)
		case r := <-results:
			if r.err == nil {
				return r, nil
			}
			running--
			failed = moreTelling(failed, r.err)
			next = targets
		case <-delay.C:
			next = targets
		}
	}
	return reached{}, failed
}

// moreTelling picks the error that says more about the server: the earlier
// one, unless it only says that this host does not speak an address family.
func moreTelling(earlier, later error) error {
	if earlier == nil || errors.Is(earlier, syscall.ENETUNREACH) {
		return later
	}
	return earlier
}
