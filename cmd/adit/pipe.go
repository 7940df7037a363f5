package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/spf13/cobra"

	"github.com/adit-net/adit/tunnel/socks"
)

const pipeHelp = `Connect standard input and output to a target through the running client's door.
It is made for ssh:

  ssh -o ProxyCommand='adit pipe %h %p' user@host`

func newPipe(e env) *cobra.Command {
	d := dirFlag{kind: clientKind}
	var door string
	c := &cobra.Command{
		Use:   "pipe HOST PORT",
		Short: "Connect standard input and output to a target, for ssh's ProxyCommand",
		Long:  pipeHelp,
		Args:  exactly("HOST", "PORT"),
		RunE: func(c *cobra.Command, args []string) error {
			target, err := socks.ParseAddr(net.JoinHostPort(args[0], args[1]))
			if err != nil {
				return hint(usageError{err}, "usage: %s", c.UseLine())
			}
			way := doorway{network: "tcp", address: door}
			if door == "" {
				if way, err = openDoorway(c.Context(), &d); err != nil {
					return err
				}
			}
			conn, err := way.dial(c.Context(), target)
			if err != nil {
				return fmt.Errorf("connect to %s: %w", target, err)
			}
			return pipe(c.Context(), e, conn)
		},
	}
	d.add(c)
	c.Flags().StringVar(&door, "door", "", "`address` of a door that asks for no password (default: ask the running client)")
	return c
}

// openDoorway finds the door of the client that runs in the flag's directory.
func openDoorway(ctx context.Context, d *dirFlag) (doorway, error) {
	dir, err := d.place()
	if err != nil {
		return doorway{}, err
	}
	way, err := findDoorway(ctx, dir)
	if errors.Is(err, errNotRunning) {
		return way, hint(fmt.Errorf("no client runs in %s", dir), "start it: adit client run --dir %s", dir)
	}
	return way, err
}

// pipe copies both ways until the target has ended its direction. It does not
// wait for standard input, which nobody may ever end.
func pipe(ctx context.Context, e env, conn net.Conn) error {
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	go func() {
		// What fails here ends the other direction too, which tells of it.
		_, _ = io.Copy(conn, e.stdin)
		if c, ok := conn.(interface{ CloseWrite() error }); ok {
			_ = c.CloseWrite()
		}
	}()
	_, err := io.Copy(e.stdout, conn)
	if err := errors.Join(err, conn.Close()); err != nil {
		return fmt.Errorf("copy from the target: %w", err)
	}
	return nil
}
