// Package metrics counts what happens, and writes it down as Prometheus reads it: in its
// text exposition format, 0.0.4.
//
// That format has three kinds of lines. A library for it would bring eight modules,
// 2.8 MiB of program and 3 MiB of memory while nothing happens, or histograms that only one
// vendor's server can read. So adit writes them itself, and has Prometheus itself read them
// in its tests.
package metrics

import (
	"strconv"
	"strings"
	"time"
)

// ContentType is what HTTP calls a [Page].
const ContentType = "text/plain; version=0.0.4; charset=utf-8"

// Page is what is told to whoever asks for metrics: families, one after another. Names
// and labels are its writer's to choose well; what is in a label's value may be anything. The
// zero Page is empty.
type Page struct {
	text []byte
}

// Labels are names and values, which tell the samples of a family from each other. There
// must be few values, known beforehand: nobody from outside can add one.
type Labels [][2]string

// Sample is one number of a family.
type Sample struct {
	Labels Labels
	Value  float64
}

// Counter writes a family that only grows until the process ends.
func (p *Page) Counter(name, help string, samples ...Sample) {
	p.family(name, help, "counter", samples)
}

// Count is Counter without labels.
func (p *Page) Count(name, help string, value int64) {
	p.Counter(name, help, Sample{Value: float64(value)})
}

// Gauge writes a family that says how things are now.
func (p *Page) Gauge(name, help string, samples ...Sample) {
	p.family(name, help, "gauge", samples)
}

// Level is Gauge without labels.
func (p *Page) Level(name, help string, value float64) {
	p.Gauge(name, help, Sample{Value: value})
}

// Histogram writes what h has observed, in seconds.
func (p *Page) Histogram(name, help string, h *Histogram) {
	p.head(name, help, "histogram")
	total := uint64(0)
	for i := range h.counts {
		total += h.counts[i].Load()
		bound := "+Inf"
		if i < len(h.bounds) {
			bound = number(h.bounds[i].Seconds())
		}
		p.sample(name+"_bucket", Labels{{"le", bound}}, float64(total))
	}
	p.sample(name+"_sum", nil, time.Duration(h.sum.Load()).Seconds())
	// Not a count of its own, which could differ from the buckets while others observe.
	p.sample(name+"_count", nil, float64(total))
}

// Text is what has been written so far.
func (p *Page) Text() []byte { return p.text }

func (p *Page) family(name, help, kind string, samples []Sample) {
	p.head(name, help, kind)
	for _, s := range samples {
		p.sample(name, s.Labels, s.Value)
	}
}

func (p *Page) head(name, help, kind string) {
	p.text = append(p.text, "# HELP "+name+" "+helpEscaper.Replace(help)+"\n# TYPE "+name+" "+kind+"\n"...)
}

func (p *Page) sample(name string, labels Labels, value float64) {
	p.text = append(p.text, name...)
	for i, l := range labels {
		p.text = append(p.text, "{,"[min(i, 1)])
		p.text = append(p.text, l[0]+`="`+labelEscaper.Replace(strings.ToValidUTF8(l[1], "\ufffd"))+`"`...)
	}
	if len(labels) > 0 {
		p.text = append(p.text, '}')
	}
	p.text = append(p.text, " "+number(value)+"\n"...)
}

// Neither is ever changed.
var (
	helpEscaper  = strings.NewReplacer(`\`, `\\`, "\n", `\n`)
	labelEscaper = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
)

func number(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }
