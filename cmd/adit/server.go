package main

import "github.com/spf13/cobra"

func newServer(e env) *cobra.Command {
	return group("server", "Make and run an exit", "",
		newServerInit(e), newServerRun(e), newServerUpgrade(e), newStrongSwan(e), newUnit(e, serverKind, serverUnit))
}
