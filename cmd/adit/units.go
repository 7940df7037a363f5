package main

import (
	_ "embed"
	"io"

	"github.com/spf13/cobra"
)

var (
	//go:embed units/adit-server.service
	serverUnit string
	//go:embed units/adit-client.service
	clientUnit string
)

func newUnit(e env, kind, text string) *cobra.Command {
	return &cobra.Command{
		Use:   "unit",
		Short: "Print a systemd unit file for the " + kind + ", which says how to install it",
		Args:  exactly(),
		RunE: func(*cobra.Command, []string) error {
			_, err := io.WriteString(e.stdout, text)
			return err
		},
	}
}
