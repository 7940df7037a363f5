package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

const completionHelp = `Print a script that teaches a shell to complete adit's commands and flags.

  bash:        adit completion bash > ~/.local/share/bash-completion/completions/adit
  zsh:         adit completion zsh > "${fpath[1]}/_adit"
  fish:        adit completion fish > ~/.config/fish/completions/adit.fish
  powershell:  adit completion powershell | Out-String | Invoke-Expression`

func newCompletion(e env) *cobra.Command {
	return &cobra.Command{
		Use:       "completion bash|zsh|fish|powershell",
		Short:     "Print a shell completion script",
		Long:      completionHelp,
		ValidArgs: []string{"bash", "zsh", "fish", "powershell"},
		Args:      exactly("SHELL"),
		RunE: func(c *cobra.Command, args []string) error {
			root := c.Root()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(e.stdout, true)
			case "zsh":
				return root.GenZshCompletion(e.stdout)
			case "fish":
				return root.GenFishCompletion(e.stdout, true)
			case "powershell":
				return root.GenPowerShellCompletionWithDesc(e.stdout)
			}
			err := usageError{fmt.Errorf("no completion for shell %q", args[0])}
			return hint(err, "bash, zsh, fish and powershell are known")
		},
	}
}
