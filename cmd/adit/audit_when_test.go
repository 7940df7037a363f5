package main

import (
	"testing"
	"time"
)

func TestTimesAreReadAsPeopleSayThem(t *testing.T) {
	zone := time.FixedZone("here", 2*3600)
	now := time.Date(2026, 3, 1, 14, 30, 0, 0, zone)
	for text, want := range map[string]time.Time{
		"":                     {},
		"20m":                  now.Add(-20 * time.Minute),
		"1h30m":                now.Add(-90 * time.Minute),
		"7d":                   now.AddDate(0, 0, -7),
		"today":                time.Date(2026, 3, 1, 0, 0, 0, 0, zone),
		"yesterday":            time.Date(2026, 2, 28, 0, 0, 0, 0, zone),
		"2026-02-03":           time.Date(2026, 2, 3, 0, 0, 0, 0, zone),
		"2026-02-03 20:05":     time.Date(2026, 2, 3, 20, 5, 0, 0, zone),
		"2026-02-03 20:05:09":  time.Date(2026, 2, 3, 20, 5, 9, 0, zone),
		"2026-02-03T20:05:09Z": time.Date(2026, 2, 3, 20, 5, 9, 0, time.UTC),
	} {
		if got, err := parseWhen(text, now); err != nil || !got.Equal(want) {
			t.Errorf("%q is %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"-20m", "soon", "2026-13-01", "99999999d", "d"} {
		if got, err := parseWhen(text, now); err == nil {
			t.Errorf("%q is %v", text, got)
		}
	}
}

func TestSizesAreReadWithTheirUnits(t *testing.T) {
	for text, want := range map[string]int64{"": 0, "0": 0, "1000": 1000, "10k": 10 << 10, "5M": 5 << 20, "2G": 2 << 30, "1T": 1 << 40} {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("%q is %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"k", "-1", "1.5M", "1 k", "99999999999T", "1K1"} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("%q is %d", text, got)
		}
	}
}
