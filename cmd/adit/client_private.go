package main

import (
	"context"
	"fmt"
	"io"
)

// withOwnClient runs do with the door of a client that runs only as long as do does.
func withOwnClient(ctx context.Context, e env, dir string, do func(doorway) error) error {
	// do ends by itself when the command that it runs does.
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	started := make(chan doorReport, 1)
	failed := make(chan error, 1)
	go func() {
		failed <- runClient(ctx, clientOptions{
			dir:     dir,
			flags:   logFlags{Level: "warn"},
			door:    "127.0.0.1:0",
			stderr:  io.Discard,
			private: true,
			started: func(p *clientProcess) { started <- p.way },
		})
	}()
	select {
	case err := <-failed:
		return err
	case door := <-started:
		way, err := door.way()
		if err == nil {
			err = do(way)
		}
		stop()
		if failure := <-failed; failure != nil {
			fmt.Fprintf(e.stderr, "adit: %s\n", shown(failure))
		}
		return err
	}
}
