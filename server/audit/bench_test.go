package audit

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

// How many records a second one goroutine brings to the disk, and how large they are there: of many
// users in turn, and of one whose flows are alike.
func BenchmarkWriter(b *testing.B) {
	var many, one [1 << 10]Record
	for n := range many {
		many[n], one[n] = flowNumber(n), flowNumber(n)
		one[n].Origin, one[n].Name, one[n].Address, one[n].Protocol = one[0].Origin, "", one[0].Address, one[0].Protocol
	}
	for _, flows := range []struct {
		name string
		of   *[1 << 10]Record
	}{{"many users", &many}, {"one user", &one}} {
		b.Run(flows.name, func(b *testing.B) {
			w := newWriter(b, Config{})
			b.ReportAllocs()
			for n := 0; b.Loop(); n++ {
				must(b, w.Note(flows.of[n%len(flows.of)]))
				if n%maxBatch == maxBatch-1 {
					flush(b, w)
				}
			}
			must(b, w.Close())
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
			all, err := files(w.cfg.Dir)
			must(b, err)
			b.ReportMetric(float64(all[0].size())/float64(b.N), "bytes/record")
		})
	}
}

// likelyFlow makes up a flow of a day with n of them: a thousand users, and targets of
// which few are asked for often and many once.
func likelyFlow(i, n int, day time.Time) Record {
	r := flowNumber(i)
	user, session := rand.IntN(1000), rand.IntN(3)
	r.User = fmt.Sprintf("user%d", user)
	r.Session = fmt.Sprintf("%s-%d", r.User, session)
	r.Source = netip.AddrFrom4([4]byte{198, 51, byte(user), byte(session)})
	r.Groups = []string{"staff", "staff,admins", "guests", "sales"}[len(r.User)%4]
	r.Begin = day.Add(time.Duration(float64(i) / float64(n) * float64(24*time.Hour)))
	target := int(math.Pow(200_000, rand.Float64()))
	r.Name = fmt.Sprintf("host%d.example.org", target)
	r.Protocol = []string{"tls", "tls", "tls", "http", "quic", "dns", "ssh", "ntp"}[rand.IntN(8)]
	if rand.IntN(50) == 0 {
		r.Decision, r.Rule = Refused, "nobody may"
	}
	return r
}

// How long answers take on a day of a million flows, or ten million with ADIT_FULL=1.
func BenchmarkDay(b *testing.B) {
	n := 1_000_000
	if full {
		n *= 10
	}
	w := newWriter(b, Config{})
	day := w.now().UTC().Truncate(24 * time.Hour)
	began := time.Now()
	for i := range n {
		must(b, w.Note(likelyFlow(i, n, day)))
		if i%maxBatch == maxBatch-1 {
			flush(b, w)
		}
	}
	must(b, w.Close())
	all, err := files(w.cfg.Dir)
	must(b, err)
	b.Logf("%d flows in %v, %d bytes each", n, time.Since(began).Round(time.Millisecond), all[0].size()/int64(n))
	reader := NewReader(w.cfg.Dir)
	night := Query{Since: day.Add(90 * time.Minute), Until: day.Add(270 * time.Minute)}
	rare, often, user := night, night, Query{Users: []string{"user7"}}
	rare.To, often.To = []string{"host150001.example.org"}, []string{"host30.example.org"}
	denied := night
	denied.Denied = true
	records := func(q Query) func() int {
		return func() (n int) {
			for _, err := range reader.Records(b.Context(), q) {
				must(b, err)
				n++
			}
			return n
		}
	}
	sums := func(q Query, by ...string) func() int {
		return func() int {
			all, err := reader.Sums(b.Context(), q, by)
			must(b, err)
			return len(all)
		}
	}
	for _, ask := range []struct {
		name string
		do   func() int
	}{
		{"by_user_and_protocol", sums(Query{}, "user", "protocol")},
		{"by_group_at_night", sums(night, "group", "rule")},
		{"denied_by_user", sums(Query{Denied: true}, "user")},
		{"rare_host_at_night", records(rare)},
		{"frequent_host_at_night", records(often)},
		{"denied_at_night", records(denied)},
		{"last_50", func() int {
			all, err := reader.Last(b.Context(), Query{}, 50)
			must(b, err)
			return len(all)
		}},
		{"hosts_of_a_user", sums(user, "to")},
	} {
		b.Run(ask.name, func(b *testing.B) {
			n := 0
			for b.Loop() {
				n = ask.do()
			}
			b.ReportMetric(float64(n), "answers")
		})
	}
}
