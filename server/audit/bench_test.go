package audit

import (
	"testing"
)

func BenchmarkWriter(b *testing.B) {
	w := newWriter(b, Config{})
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		must(b, w.Note(flowNumber(n)))
		if n%maxBatch == maxBatch-1 {
			w.flush(b.Context())
			must(b, w.Failed())
		}
	}
	must(b, w.Close())
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
	all, err := files(w.cfg.Dir)
	must(b, err)
	b.ReportMetric(float64(all[0].size())/float64(b.N), "bytes/record")
}
