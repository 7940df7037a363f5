package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/user"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/adit-net/adit/server/audit"
)

// recorded makes a command one that is on record when it has been carried out.
func recorded(c *cobra.Command, d *dirFlag) *cobra.Command {
	run := c.RunE
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := run(c, args); err != nil {
			return err
		}
		dir, err := d.open()
		if err == nil {
			err = recordAct(c.Context(), dir, commandText(c, args))
		}
		if err != nil {
			return fmt.Errorf("it was done, but it is not on record: %w", err)
		}
		return nil
	}
	return c
}

// commandText is what was asked, without what says where. No flag of such a command is a
// secret.
func commandText(c *cobra.Command, args []string) string {
	words := append([]string{c.CommandPath()}, args...)
	c.Flags().Visit(func(f *pflag.Flag) {
		if f.Name != "dir" {
			words = append(words, "--"+f.Name, f.Value.String())
		}
	})
	return strings.Join(words, " ")
}

// recordAct leaves a record of what somebody has done to a server, which may be running.
func recordAct(ctx context.Context, dir, what string) error {
	cfg := defaultServerConfig()
	if err := loadConfig(dir, serverKind, &cfg); err != nil {
		cfg = defaultServerConfig() // a file that is being edited keeps nothing off the record
	}
	if cfg.Audit.Mode == auditOff {
		return nil
	}
	to := cfg.writer(dir, slog.New(slog.DiscardHandler))
	// The running server removes what is old.
	to.Keep, to.MaxSize = 0, 0
	w, err := audit.Open(ctx, to)
	if err != nil {
		return err
	}
	who := strconv.Itoa(os.Geteuid())
	if u, err := user.Current(); err == nil {
		who = u.Username
	}
	err = w.Note(audit.Record{Kind: audit.Act, Begin: time.Now(), What: what + ", by " + who})
	return errors.Join(err, w.Close())
}
