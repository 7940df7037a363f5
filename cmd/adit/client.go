package main

import "github.com/spf13/cobra"

func newClient(e env) *cobra.Command {
	return group("client", "Run the client", "",
		newClientRun(e), newUnit(e, clientKind, clientUnit))
}
