package audit

import (
	"errors"
	"io"
	"testing"
	"time"
)

// What each row costs of answers for which all are read.
func BenchmarkRow(b *testing.B) {
	const n = 200_000
	w := newWriter(b, Config{})
	day := w.now().UTC().Truncate(24 * time.Hour)
	for i := range n {
		must(b, w.Note(likelyFlow(i, n, day)))
		if i%maxBatch == maxBatch-1 {
			flush(b, w)
		}
	}
	must(b, w.Close())
	reader := NewReader(w.cfg.Dir)
	printed := func(p func() Printer) func() {
		return func() {
			p := p()
			for r, err := range reader.Records(b.Context(), Query{}) {
				if err = errors.Join(err, p.Print(r.Row())); err != nil {
					b.Fatal(err)
				}
			}
			must(b, p.Flush())
		}
	}
	summed := func(by ...string) func() {
		return func() {
			_, err := reader.Sums(b.Context(), Query{}, by)
			must(b, err)
		}
	}
	for _, ask := range []struct {
		name string
		do   func()
	}{
		{"records", func() {
			for _, err := range reader.Records(b.Context(), Query{}) {
				if err != nil {
					b.Fatal(err)
				}
			}
		}},
		{"csv", printed(func() Printer { return NewCSV(io.Discard) })},
		{"json", printed(func() Printer { return NewJSON(io.Discard) })},
		{"table", printed(func() Printer { return NewTable(io.Discard) })},
		{"parquet", printed(func() Printer { columns, row := Record{}.Row(); return NewParquet(io.Discard, columns, row) })},
		{"by_to", summed("to")},
		{"by_session_and_port", summed("session", "port")},
		{"by_address", summed("address")},
	} {
		b.Run(ask.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				ask.do()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/row")
		})
	}
}
