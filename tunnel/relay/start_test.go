package relay

import (
	"context"
	"errors"
	"testing"
	"time"
)

// startIdle gives connections that Start has left idle.
func startIdle(t *testing.T) *running {
	t.Helper()
	return startIdleUntil(t, context.Background())
}

// startIdleUntil is startIdle for connections that the end of ctx ends.
func startIdleUntil(t *testing.T, ctx context.Context) *running {
	t.Helper()
	r := &running{result: make(chan Result, 1)}
	r.left, r.a = tcpPair(t)
	r.right, r.b = tcpPair(t)
	r.a.SetDeadline(time.Time{})
	r.b.SetDeadline(time.Time{})
	returned := make(chan struct{})
	go func() {
		StartUntil(ctx, TCP(r.a), TCP(r.b), func(end Result) { r.result <- end })
		close(returned)
	}()
	send(t, r.left, "before")
	expect(t, r.right, "before")
	select {
	case <-returned:
	case <-time.After(patience):
		t.Fatal("Start does not return although nothing comes")
	}
	return r
}

func TestStartGoesOnAfterItHasReturned(t *testing.T) {
	r := startIdle(t)
	for _, text := range []string{"one", "two"} {
		send(t, r.right, text)
		expect(t, r.left, text)
		send(t, r.left, text)
		expect(t, r.right, text)
	}
	r.right.CloseWrite()
	expectEnd(t, r.left)
	send(t, r.left, "last")
	r.left.CloseWrite()
	expect(t, r.right, "last")
	expectEnd(t, r.right)
	if got := r.end(t); got.Err != nil || got.Up != 16 || got.Down != 6 {
		t.Errorf("the result is %+v, want 16 bytes up and 6 down", got)
	}
}

func TestWhatIsIdleIsResetWhenItsContextEnds(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	r := startIdleUntil(t, ctx)
	why := errors.New("told to")
	cancel(why)
	expectReset(t, r.left)
	expectReset(t, r.right)
	if got := r.end(t); !errors.Is(got.Err, why) {
		t.Errorf("result %+v", got)
	}
}

func TestWhatIsIdleSeesAReset(t *testing.T) {
	r := startIdle(t)
	r.right.SetLinger(0)
	r.right.Close()
	expectReset(t, r.left)
	if got := r.end(t); got.Err == nil {
		t.Error("the result is a clean end")
	}
}

func TestWhatIsIdleEndsWhenItsConnIsReset(t *testing.T) {
	r := startIdle(t)
	Fail(TCP(r.b), errReset)
	expectReset(t, r.left)
	expectReset(t, r.right)
	if got := r.end(t); got.Err == nil {
		t.Error("the result is a clean end")
	}
}
