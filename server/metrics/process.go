package metrics

import (
	"bytes"
	"os"
	"runtime"
	"runtime/metrics"
	"strconv"
	"time"
)

// Process writes what everybody's dashboards know of a process, by the names that
// Prometheus's own libraries use. Where the system has no /proc there is less of it.
func (p *Page) Process(since time.Time) {
	p.Level("process_start_time_seconds", "When the process began, in seconds since 1970.", float64(since.UnixMilli())/1000)
	p.Level("go_goroutines", "Goroutines that there are.", float64(runtime.NumGoroutine()))
	p.Level("go_memstats_heap_alloc_bytes", "Memory that Go's heap has in use.", runtimeValue("/memory/classes/heap/objects:bytes"))
	p.Level("go_memstats_sys_bytes", "Memory that Go has from the system.", runtimeValue("/memory/classes/total:bytes"))
	if cpu, resident, ok := readStat(); ok {
		p.Counter("process_cpu_seconds_total", "Processor time that the process has used.", Sample{Value: cpu})
		p.Level("process_resident_memory_bytes", "Memory that the process has resident.", resident)
	}
	if files, err := os.ReadDir("/proc/self/fd"); err == nil {
		p.Level("process_open_fds", "Descriptors that are open.", float64(len(files)-1)) // but for that of the directory
	}
}

func runtimeValue(name string) float64 {
	sample := []metrics.Sample{{Name: name}}
	metrics.Read(sample)
	return float64(sample[0].Value.Uint64())
}

// ticks is Linux's USER_HZ, which is the same for all programs.
const ticks = 100

// readStat reads proc_pid_stat(5).
func readStat() (cpuSeconds, residentBytes float64, ok bool) {
	text, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return 0, 0, false
	}
	// The second field is a name in parentheses, and may hold anything.
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	const utime, stime, rss = 14 - 3, 15 - 3, 24 - 3
	if len(fields) <= rss {
		return 0, 0, false
	}
	var values [3]float64
	for i, field := range []int{utime, stime, rss} {
		if values[i], err = strconv.ParseFloat(string(fields[field]), 64); err != nil {
			return 0, 0, false
		}
	}
	return (values[0] + values[1]) / ticks, values[2] * float64(os.Getpagesize()), true
}
