package main

import (
	"context"
	"errors"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/adit-net/adit/client"
)

const (
	// narrowSegment is a segment of TCP, in bytes of payload, that comes through wherever IPsec
	// is, once or twice, over any link that is good for IPv6.
	narrowSegment = 960

	// narrowFor is for how long connections have such ones, after large ones seem to have
	// vanished.
	narrowFor = 10 * time.Minute
)

// narrows makes the next connections' segments small after one has come to nothing because nothing
// came back: on the way there may be who drops large packets and says nothing, or whose word is
// dropped. What opens a carrier has large ones both ways. The zero value is ready.
type narrows struct{ until atomic.Pointer[time.Time] }

// control is next, with small segments if it is time for them.
func (n *narrows) control(next control) control {
	return func(ctx context.Context, network, address string, c syscall.RawConn) error {
		if next != nil {
			if err := next(ctx, network, address, c); err != nil {
				return err
			}
		}
		if until := n.until.Load(); until != nil && time.Now().Before(*until) {
			_ = setSegment(c, narrowSegment) // without it this one is as good as others
		}
		return nil
	}
}

// dial is a dialer of whose connections control is.
func (n *narrows) dial(next client.Dialer) client.Dialer {
	return func(ctx context.Context) (client.Carrier, error) {
		c, err := next(ctx)
		if err != nil && timedOut(err) && !errors.Is(ctx.Err(), context.Canceled) {
			until := time.Now().Add(narrowFor)
			n.until.Store(&until)
		}
		return c, err
	}
}

func timedOut(err error) bool {
	failure, ok := errors.AsType[net.Error](err)
	return ok && failure.Timeout() || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)
}
