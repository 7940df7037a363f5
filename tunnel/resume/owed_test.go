package resume_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/adit-net/adit/tunnel/resume"
)

// TestPeerThatNeverAcknowledgesIsGivenUp talks all the time, so that it does not
// seem dead, while the pipe holds what it was sent.
func TestPeerThatNeverAcknowledgesIsGivenUp(t *testing.T) {
	for name, answers := range map[string]bool{"answers pings": true, "answers nothing": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRaw(t, resume.Config{Grace: time.Hour})
				r.read()
				_, peer, why := r.attach(0, roomy)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				r.ended.Go(func() {
					for {
						select {
						case <-time.After(time.Second):
							peer.Write(valueFrame(ack, 0))
						case <-ctx.Done():
							return
						}
					}
				})
				r.ended.Go(func() { answer(peer, answers) })
				r.ended.Go(func() { r.a.Write(make([]byte, 16<<20)) })
				began := time.Now()
				err := <-why
				took := time.Since(began)
				if _, breach := errors.AsType[resume.Breach](err); answers && (!breach || took > time.Minute) {
					t.Errorf("lost after %v: %v", took, err)
				}
				if !answers && (!errors.Is(err, resume.ErrSilent) || took > 11*time.Minute) {
					t.Errorf("lost after %v: %v", took, err)
				}
				cancel()
			})
		})
	}
}

// answer reads what a pipe sends, and answers its pings if it is to.
func answer(peer wireEnd, pings bool) {
	for {
		head := make([]byte, 4)
		if _, err := io.ReadFull(peer, head); err != nil {
			return
		}
		rest := 8
		if head[0] == 1 {
			rest = 16 + int(binary.BigEndian.Uint32(head)&0xffffff)
		}
		body := make([]byte, rest)
		if _, err := io.ReadFull(peer, body); err != nil {
			return
		}
		if head[0] == ping && pings {
			peer.Write(valueFrame(pong, binary.BigEndian.Uint64(body)))
		}
	}
}
