//go:build linux

package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"math"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// column shows one figure, or two with a slash between them.
type column struct {
	head    string
	figures []figure
	digits  int // behind the point
}

// speed and delay are the two tables: what passes and what it costs, and how long it takes
// when little passes, with what is counted one by one.
func speed() []column {
	return []column{
		{"down1, Gbit/s", []figure{"down1"}, 2},
		{"up1", []figure{"up1"}, 2},
		{"down8", []figure{"down8"}, 2},
		{"up8", []figure{"up8"}, 2},
		{"both ways at once, down / up", []figure{"both down", "both up"}, 2},
		{"CPU s/GiB, down1 / up1 / down8", []figure{"down1" + cpuPart, "up1" + cpuPart, "down8" + cpuPart}, 2},
		{"idle KiB, client / server", []figure{"idle client", "idle server"}, 0},
	}
}

func delay() []column {
	return []column{
		{"connect µs, p50 / p99", []figure{"connect p50", "connect p99"}, 0},
		{"echo µs, p50 / p99", []figure{"echo p50", "echo p99"}, 0},
		{"loaded, p99 ms / Gbit/s", []figure{"loaded p99", "loaded"}, 2},
		{"stalled, p99 ms / Gbit/s", []figure{"stalled p99", "stalled"}, 2},
		{"sessions/s", []figure{"rate"}, 0},
		{"CPU µs/session", []figure{"rate" + cpuPart}, 0},
		{"UDP echoes/s", []figure{"udp"}, 0},
		{"CPU µs/echo", []figure{"udp" + cpuPart}, 0},
	}
}

// tables are what was measured, in Markdown.
func (b *bench) tables() string { return b.table(speed()) + "\n" + b.table(delay()) }

func (b *bench) table(columns []column) string {
	var text strings.Builder
	text.WriteString("| |")
	for _, c := range columns {
		fmt.Fprintf(&text, " %s |", c.head)
	}
	text.WriteString("\n| --- |" + strings.Repeat(" --- |", len(columns)) + "\n")
	for _, e := range b.endpoints {
		fmt.Fprintf(&text, "| %s |", cmp.Or(titles[e.name], e.name))
		for _, c := range columns {
			fmt.Fprintf(&text, " %s |", b.cell(e, c))
		}
		text.WriteString("\n")
	}
	return text.String()
}

func (b *bench) cell(e endpoint, c column) string {
	var parts []string
	for _, f := range c.figures {
		values := b.values[e.name][f]
		if len(values) == 0 || strings.HasSuffix(string(f), cpuPart) && e.door == "" {
			continue // direct has no process of its own
		}
		m := median(values)
		if math.IsInf(m, 1) {
			return "hangs"
		}
		parts = append(parts, number(m, c.digits))
	}
	return cmp.Or(strings.Join(parts, " / "), "–")
}

// median sorts the values.
func median(values []float64) float64 {
	slices.Sort(values)
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}

// number writes thousands apart.
func number(v float64, digits int) string {
	text := strconv.FormatFloat(v, 'f', digits, 64)
	whole, _, _ := strings.Cut(text, ".")
	for i := len(whole) - 3; i > 0 && whole[i-1] != '-'; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

var model = regexp.MustCompile(`(?m)^model name\s*:\s*(.*)$`)

// circumstances says when, where and with what a table was made.
func circumstances(ctx context.Context, o options, measured []endpoint) string {
	info, _ := os.ReadFile("/proc/cpuinfo")
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	processor := runtime.GOARCH // where the kernel has no name for it
	if m := model.FindSubmatch(info); m != nil {
		processor = string(bytes.TrimSpace(m[1]))
	}
	with := []string{strings.Replace(runtime.Version(), "go", "Go ", 1)}
	for _, e := range measured {
		if version := e.installed(ctx); version != "" {
			with = append(with, version)
		}
	}
	rounds := "one round"
	if o.rounds > 1 {
		rounds = fmt.Sprintf("medians of %d rounds", o.rounds)
	}
	return fmt.Sprintf("%s, %d × %s, Linux %s; %s; %s of %v, %d idle sessions.",
		time.Now().UTC().Format(time.DateOnly), runtime.NumCPU(), processor, bytes.TrimSpace(release),
		strings.Join(with, ", "), rounds, o.window, o.idle)
}

// Lines around a table that is to be replaced.
const (
	tableBegins = "<!-- bench -->"
	tableEnds   = "<!-- /bench -->"
)

func replaceTable(path, table string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read the old table: %w", err)
	}
	before, rest, begins := strings.Cut(string(text), tableBegins+"\n")
	_, after, ends := strings.Cut(rest, tableEnds+"\n")
	if !begins || !ends {
		return fmt.Errorf("replace the table in %s: no lines %s and %s", path, tableBegins, tableEnds)
	}
	replaced := before + tableBegins + "\n" + table + tableEnds + "\n" + after
	if err := os.WriteFile(path, []byte(replaced), 0o644); err != nil {
		return fmt.Errorf("write the new table: %w", err)
	}
	return nil
}
