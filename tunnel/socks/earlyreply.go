package socks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"
)

// earlyWait is how long the first words of an app that has its answer early may take. Whoever
// waits for the target to speak loses that much.
const earlyWait = 50 * time.Millisecond

// early tells whether an app is to have its answer before there is a connection. In
// SOCKS 6 apps send their first words with the request if they like.
func (a *app) early(r *Request) bool {
	return r.Command == Connect && r.Dialect != SOCKS6 && slices.Contains(a.door.EarlyReply, r.Dst.Port)
}

// carryEarly tells an app that it is connected, and only then connects: the app's first
// words travel with the request. Nothing more is read from it meanwhile than what a.in holds.
func (a *app) carryEarly(ctx context.Context, g *guest, r *Request, answer answer) error {
	if err := a.tell(answer(Reply{})); err != nil {
		return err
	}
	a.told = true
	var err error
	if r.Initial, err = a.firstWords(); err != nil {
		return err
	}
	target, _, err := a.connect(ctx, g, r)
	if err != nil {
		_ = a.conn.Reset() // there is no other way to say so; it fails if the app has gone
		return err
	}
	_, _ = a.in.Discard(len(r.Initial)) // they are there
	a.relayTo(target)
	return nil
}

// firstWords gives what an app says at once, and leaves it in a.in. There is nothing if it
// waits, or has said its last word.
func (a *app) firstWords() ([]byte, error) {
	a.conn.SetReadDeadline(time.Now().Add(earlyWait))
	_, err := a.in.Peek(1)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: %w", errGone, err)
	}
	said := readAhead(a.in)
	return slices.Clone(said[:min(len(said), MaxInitialData6)]), a.conn.SetReadDeadline(time.Time{})
}
