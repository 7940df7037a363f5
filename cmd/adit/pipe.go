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
			way, err := openDoorway(c.Context(), &d, door)
			if err != nil {
				return err
			}
			conn, err := way.dial(c.Context(), target)
			if err != nil {
				return fmt.Errorf("connect to %s: %w", target, err)
			}
			return pipe(c.Context(), e, conn)
		},
	}
	d.add(c)
	c.Flags().StringVar(&door, "door", "", "`address` of the door; with --dir, by that client's password (default: ask the running client)")
	return c
}

// openDoorway finds the door of the client that runs in the flag's directory, unless
// its address is given. Then the directory is only asked for the password, and
// only if it is given too.
func openDoorway(ctx context.Context, d *dirFlag, address string) (doorway, error) {
	if address != "" && d.path == "" {
		return doorway{network: "tcp", address: address}, nil
	}
	dir, err := d.place()
	if err != nil {
		return doorway{}, err
	}
	if address != "" {
		return doorwayAt(dir, address)
	}
	way, err := findDoorway(ctx, dir)
	if errors.Is(err, errNotRunning) {
		return way, hint(fmt.Errorf("no client runs in %s", dir), "start it: adit client run --dir %s", dir)
	}
	return way, err
}

// doorwayAt is how to come in at a door that no running client tells of, such
// as that of adit run.
func doorwayAt(dir, address string) (doorway, error) {
	cfg := defaultClientConfig()
	if err := loadConfig(dir, clientKind, &cfg); err != nil {
		return doorway{}, err
	}
	r := doorReport{Listen: address, Admission: cfg.Door.admission(), User: cfg.Door.User}
	r.PasswordFile = cfg.Door.passwordFile(dir)
	return r.way()
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
