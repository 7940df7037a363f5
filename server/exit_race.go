package server

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/adit-net/adit/tunnel/relay"
	"github.com/adit-net/adit/tunnel/socks"
)

// attemptDelay is how long an attempt to connect has before the next one joins
// it: the Connection Attempt Delay of RFC 8305 section 5.
const attemptDelay = 250 * time.Millisecond

// dialled is how one attempt has ended.
type dialled struct {
	conn relay.Conn
	err  error
}

// race connects to one of the targets (RFC 8305 section 5): to each in turn,
// the next as soon as one fails or [attemptDelay] has passed. The first
// connection wins. All attempts have ended when race returns, and the other
// connections are closed. There is at least one target. On failure the error
// is the most telling one.
func race(ctx context.Context, targets []netip.AddrPort, dial func(context.Context, netip.AddrPort) (relay.Conn, error)) (relay.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	results := make(chan dialled, len(targets)) // room for all: no attempt waits to be heard
	var attempts sync.WaitGroup
	defer func() {
		cancel()
		attempts.Wait()
		close(results)
		for late := range results {
			if late.conn != nil {
				late.conn.Close()
			}
		}
	}()

	var errs []error
	delay := time.NewTimer(attemptDelay)
	defer delay.Stop()
	for started := 0; len(errs) < len(targets); {
		if started < len(targets) {
			target := targets[started]
			attempts.Go(func() {
				conn, err := dial(ctx, target)
				results <- dialled{conn, err}
			})
			started++
			delay.Reset(attemptDelay)
		}
		select {
		case r := <-results:
			if r.err == nil {
				return r.conn, nil
			}
			errs = append(errs, r.err)
		case <-delay.C:
		}
	}
	return nil, mostTelling(errs)
}

// mostTelling picks the error that says most about the target, the earliest of
// those that say as much.
func mostTelling(errs []error) error {
	order := []socks.Code{
		socks.ConnectionRefused, socks.HostUnreachable, socks.NetworkUnreachable,
		socks.TTLExpired, socks.TimedOut, socks.NotAllowed,
		socks.AddressNotSupported, socks.GeneralFailure,
	}
	rank := func(err error) int { return slices.Index(order, socks.CodeOf(err)) }
	return slices.MinFunc(errs, func(a, b error) int { return cmp.Compare(rank(a), rank(b)) })
}
