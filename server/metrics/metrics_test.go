package metrics

import (
	"math"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestPageIsInTheTextFormat(t *testing.T) {
	var p Page
	p.Counter("flows_total", "Flows\nthat have \\ ended.", Sample{Labels{{"decision", "allowed"}, {"protocol", "web"}}, 3}, Sample{Labels{{"decision", "a\"b\\c\nd\xff"}}, 1e9})
	p.Level("room", "What is left.", math.Inf(1))
	want := `# HELP flows_total Flows\nthat have \\ ended.
# TYPE flows_total counter
flows_total{decision="allowed",protocol="web"} 3
flows_total{decision="a\"b\\c\nd` + "\ufffd" + `"} 1e+09
# HELP room What is left.
# TYPE room gauge
room +Inf
`
	if got := string(p.Text()); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestHistogramHasBucketsThatAddUp(t *testing.T) {
	h := NewHistogram(time.Millisecond, time.Second)
	for _, d := range []time.Duration{0, time.Millisecond, time.Millisecond + 1, time.Second, 2 * time.Second} {
		h.Observe(d)
	}
	var p Page
	p.Histogram("wait_seconds", "Waits.", h)
	want := `# HELP wait_seconds Waits.
# TYPE wait_seconds histogram
wait_seconds_bucket{le="0.001"} 2
wait_seconds_bucket{le="1"} 4
wait_seconds_bucket{le="+Inf"} 5
wait_seconds_sum 3.002000001
wait_seconds_count 5
`
	if got := string(p.Text()); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestHistogramIsWholeWhileOthersObserve(t *testing.T) {
	h := NewHistogram(time.Second)
	var observing sync.WaitGroup
	for range 4 {
		observing.Go(func() {
			for range 1000 {
				h.Observe(time.Millisecond)
			}
		})
	}
	for range 100 {
		var p Page
		p.Histogram("wait_seconds", "Waits.", h)
		inf, count := lineOf(t, &p, `wait_seconds_bucket{le="+Inf"} `), lineOf(t, &p, "wait_seconds_count ")
		if inf != count {
			t.Fatalf("%s in the last bucket, and %s in all", inf, count)
		}
	}
	observing.Wait()
	var p Page
	p.Histogram("wait_seconds", "Waits.", h)
	if got := lineOf(t, &p, "wait_seconds_count "); got != "4000" {
		t.Errorf("%s have been observed", got)
	}
}

func TestProcessTellsWhatItUses(t *testing.T) {
	var p Page
	p.Process(time.Unix(1_700_000_000, 0))
	if got := lineOf(t, &p, "process_start_time_seconds "); got != "1.7e+09" {
		t.Errorf("it began at %s", got)
	}
	if got := lineOf(t, &p, "go_goroutines "); got == "0" {
		t.Error("there are no goroutines")
	}
}

// lineOf gives what follows in the line with a prefix.
func lineOf(t *testing.T, p *Page, prefix string) string {
	t.Helper()
	for line := range strings.Lines(string(p.Text())) {
		if rest, ok := strings.CutPrefix(line, prefix); ok {
			return strings.TrimSpace(rest)
		}
	}
	t.Fatalf("there is no line %q in\n%s", prefix, p.Text())
	return ""
}

func BenchmarkObserve(b *testing.B) {
	h := NewHistogram(time.Millisecond, 10*time.Millisecond, 100*time.Millisecond, time.Second)
	for b.Loop() {
		h.Observe(20 * time.Millisecond)
	}
}
