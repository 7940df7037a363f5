package main

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"strconv"
	"time"

	"github.com/adit-net/adit/server/audit"
)

// auditConfig says what is on record, and for how long.
type auditConfig struct {
	Mode     string `toml:"mode"`
	KeepDays int    `toml:"keep_days"`    // 0: for ever
	MaxSize  int    `toml:"max_size_mib"` // MiB; 0: no limit
}

// The values of audit.mode.
const (
	auditLenient = "lenient"
	auditStrict  = "strict"
	auditOff     = "off"
)

func defaultAuditConfig() auditConfig {
	return auditConfig{Mode: auditLenient, KeepDays: 90, MaxSize: 10 << 10}
}

func (c auditConfig) validate(report func(key, what, todo string)) {
	switch c.Mode {
	case auditLenient, auditStrict, auditOff:
	default:
		report("audit.mode", "unknown mode "+strconv.Quote(c.Mode), "known are: lenient, strict, off")
	}
	if c.KeepDays < 0 || c.KeepDays > 36_500 {
		report("audit.keep_days", strconv.Itoa(c.KeepDays)+" is out of range", "write a number from 1 to 36500, or 0 to keep all")
	}
	if c.MaxSize != 0 && (c.MaxSize < 64 || c.MaxSize > 64<<20) {
		report("audit.max_size_mib", strconv.Itoa(c.MaxSize)+" is out of range", fmt.Sprintf("write a number from 64 to %d, or 0 for no limit", 64<<20))
	}
}

// auditDir is where the records of a server's directory are.
func auditDir(dir string) string { return filepath.Join(dir, "audit") }

// writer is what a Writer needs.
func (c *serverConfig) writer(dir string, log *slog.Logger) audit.Config {
	return audit.Config{
		Dir:     auditDir(dir),
		Exit:    c.Name,
		Strict:  c.Audit.Mode == auditStrict,
		Keep:    time.Duration(c.Audit.KeepDays) * 24 * time.Hour,
		MaxSize: int64(c.Audit.MaxSize) << 20,
		Log:     log,
	}
}
