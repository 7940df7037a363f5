// Adit is a secure-channel VPN in the style of a SOCKS hub: see "adit help".
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() { os.Exit(mainCode()) }

// mainCode runs the command that the process was started for, and gives its
// exit code.
func mainCode() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The first signal asks for an orderly end. The second finds no handler any
	// more and ends the process at once.
	context.AfterFunc(ctx, stop)
	return execute(ctx, systemEnv(), os.Args[1:])
}
