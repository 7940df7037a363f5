package main

import (
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"

	"github.com/spf13/cobra"
)

// logConfig is the [log] table of both config files.
type logConfig struct {
	Level  string `toml:"level"`
	Format string `toml:"format"`
}

func defaultLogConfig() logConfig { return logConfig{Level: "info", Format: "text"} }

func levels() []string  { return []string{"debug", "info", "warn", "error"} }
func formats() []string { return []string{"text", "json"} }

func (c logConfig) validate(report func(key, what, todo string)) {
	if !slices.Contains(levels(), c.Level) {
		report("log.level", "unknown level "+strconv.Quote(c.Level), oneOf(levels()))
	}
	if !slices.Contains(formats(), c.Format) {
		report("log.format", "unknown format "+strconv.Quote(c.Format), oneOf(formats()))
	}
}

// logFlags are --log-level and --log-format, which go before the config file.
type logFlags logConfig

func (f *logFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.Level, "log-level", "", "log this and above: debug, info, warn, error (default from the config file)")
	c.Flags().StringVar(&f.Format, "log-format", "", "text or json (default from the config file)")
}

func (f logFlags) over(c logConfig) (logConfig, error) {
	if f.Level != "" {
		c.Level = f.Level
	}
	if f.Format != "" {
		c.Format = f.Format
	}
	var err error
	c.validate(func(key, what, todo string) {
		err = hint(usageError{fmt.Errorf("--%s: %s", map[string]string{"log.level": "log-level", "log.format": "log-format"}[key], what)}, "%s", todo)
	})
	return c, err
}

// journal is a process's log, whose level can change while it runs.
type journal struct {
	*slog.Logger
	level *slog.LevelVar
}

// newJournal logs to w. c is valid.
func newJournal(w io.Writer, c logConfig) journal {
	j := journal{level: new(slog.LevelVar)}
	j.set(c)
	options := &slog.HandlerOptions{Level: j.level}
	if c.Format == "json" {
		j.Logger = slog.New(slog.NewJSONHandler(w, options))
	} else {
		j.Logger = slog.New(slog.NewTextHandler(w, options))
	}
	return j
}

func (j journal) set(c logConfig) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Level)); err == nil {
		j.level.Set(level)
	}
}
