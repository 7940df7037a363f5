package main

import (
	"runtime/metrics"
	"time"
)

// work is what a process did in a period.
type work struct {
	load  float64 // in processors
	begin float64 // goroutines that began, in each second
	wait  float64 // part of the goroutines that ran, and had waited for longWait before
}

// meter measures work. Its zero value is ready.
type meter struct {
	at        time.Time
	processor time.Duration
	begun     uint64
	ran, late uint64
	samples   []metrics.Sample
}

// read gives the work since it was called before. What it gives the first time means nothing.
func (m *meter) read() work {
	if m.samples == nil {
		m.samples = []metrics.Sample{{Name: "/sched/goroutines-created:goroutines"}, {Name: "/sched/latencies:seconds"}}
	}
	metrics.Read(m.samples)
	before := *m
	m.at, m.processor, m.begun = time.Now(), processorTime(), m.samples[0].Value.Uint64()
	m.ran, m.late = countWaits(m.samples[1].Value.Float64Histogram())
	period := m.at.Sub(before.at)
	w := work{
		load:  float64(m.processor-before.processor) / float64(period),
		begin: float64(m.begun-before.begun) / period.Seconds(),
	}
	if ran := m.ran - before.ran; ran > 0 {
		w.wait = float64(m.late-before.late) / float64(ran)
	}
	return w
}

// countWaits counts all, and those of longWait or more.
func countWaits(h *metrics.Float64Histogram) (all, late uint64) {
	for i, n := range h.Counts {
		all += n
		if h.Buckets[i] >= longWait {
			late += n
		}
	}
	return all, late
}
