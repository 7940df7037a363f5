package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"
)

const serverUpgradeHelp = `Let a new process take over from the server that runs in a directory, without
losing a session, and print its id: to change to another version of adit, or to a
config that needs a restart.

The running server starts it as it was started itself: by the same path, where there
may be another version by now, with the same arguments. The new process reads the
config, and gets the listeners whose addresses are still in it; these keep their
"mptcp". If it does not serve within 30 seconds the old one goes on as if nothing
had happened, and the error says why. Under systemd the unit follows the new process.

Rules hold in the old process, too, also new ones that say require_ipsec. Where the new config
says it of a listener or a door, connections that are there already are not held to it: they go on
in the old process until they end, or that is ended by SIGTERM.

What survives what:
  upgrade  All sessions and doors. New streams are the new process's. The old one stays
           for those that it has, also when a client loses its connection later and
           comes back from elsewhere, and ends after the last of them. Up to 8 old
           processes may stay. Limits per user and on memory hold for each process by
           itself. Connections of devices without adit, which use WireGuard alone, end;
           their WireGuard is back after 15 seconds.
  SIGTERM  Streams have as long as "drain" in server.toml says, and are reset then. So
           it is with old processes, once no server has run for so long.
  kill -9  The streams of that process alone are lost: apps see a reset, and targets
           what the system makes of the sockets of a dead process. Clients have a new
           session as soon as a server runs again, which also finds the old processes.`

func newServerUpgrade(e env) *cobra.Command {
	d := dirFlag{kind: serverKind}
	c := &cobra.Command{
		Use:   "upgrade",
		Short: "Let a new process take over from the running server, without losing a connection",
		Long:  serverUpgradeHelp,
		Args:  exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			dir, err := d.open()
			if err != nil {
				return err
			}
			pid, err := upgradeServer(c.Context(), dir)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(e.stdout, pid)
			return err
		},
	}
	d.add(c)
	return c
}

// upgradeServer asks the server that runs in a directory to let another
// process take over, and gives that one's id.
func upgradeServer(ctx context.Context, dir string) (pid int, err error) {
	ctx, cancel := context.WithTimeout(ctx, upgradeLimit+adminTimeout)
	defer cancel()
	var answer upgradeReport
	err = askAt(ctx, filepath.Join(dir, socketFile), "POST /upgrade", nil, &answer)
	switch {
	case errors.Is(err, errNotRunning):
		return 0, hint(fmt.Errorf("no server runs in %s", dir), "start it: adit server run --dir %s", dir)
	case err != nil:
		return 0, err
	case answer.Error == "":
		return answer.PID, nil
	case answer.Hint == "":
		return 0, errors.New(answer.Error)
	}
	return 0, hint(errors.New(answer.Error), "%s", answer.Hint)
}
