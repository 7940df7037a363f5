//go:build unix

package main

import (
	"bytes"
	"context"
	"flag"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

const flowsPolicy = `
[[rule]]
name = "not these"
networks = ["127.1.3.0/24"]
then = "deny"
[[rule]]
name = "the rest"
then = "allow"
`

var recordFlows = flag.Int("flows", 10_000, "how many flows to put on record before they are asked for")

// BenchmarkFlowsOnRecord opens and ends flows to a thousand addresses, some of which the
// policy denies, through a client and a server with real sockets. Then it asks for them as an
// administrator would.
func BenchmarkFlowsOnRecord(b *testing.B) {
	flows := *recordFlows
	policy := filepath.Join(b.TempDir(), "policy.toml")
	if err := os.WriteFile(policy, []byte(flowsPolicy), 0o600); err != nil {
		b.Fatal(err)
	}
	c := startChainWith(b, defaultServerConfig(), "[policy]", "file = "+strconv.Quote(policy))
	at := netip.MustParseAddrPort(startTargets(b, "0.0.0.0:0"))
	began, cpu := time.Now(), processorTime()
	var apps sync.WaitGroup
	for range 16 {
		apps.Go(func() {
			for range flows / 16 {
				target := netip.AddrFrom4([4]byte{127, 1, byte(rand.IntN(4)), byte(rand.IntN(250))})
				err := oneFlow(b.Context(), c.dial, netip.AddrPortFrom(target, at.Port()).String())
				if denied := target.As4()[2] == 3; (err != nil) != denied {
					b.Errorf("%v: %v", target, err)
					return
				}
			}
		})
	}
	apps.Wait()
	b.Logf("%d flows in %v, %v of processor", flows, time.Since(began).Round(time.Second), (processorTime() - cpu).Round(time.Second))
	time.Sleep(time.Second) // two batches
	c.askAudit(b, flows)
	b.ReportMetric(0, "ns/op")
}

// askAudit asks what is on record, and says how long that takes.
func (c *chain) askAudit(b *testing.B, flows int) {
	dir := c.server
	files, err := filepath.Glob(filepath.Join(auditDir(dir), "*.db*"))
	if err != nil {
		b.Fatal(err)
	}
	var size int64
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			b.Fatal(err)
		}
		size += info.Size()
	}
	b.Logf("the files have %d bytes, %d a flow", size, size/int64(flows))
	for _, line := range []string{
		"--by user,protocol",
		"--by to --top 10",
		"--by rule --denied",
		"--to 127.1.2.7",
		"--to 127.1.2.0/24 --last 50",
		"--denied --last 50",
		"--since 1m --by rule",
		"--format parquet",
		"verify",
	} {
		var out, complaint bytes.Buffer
		asked := time.Now()
		root := newRoot(env{stdout: &out, stderr: &complaint})
		root.SetArgs(append([]string{"audit", "--dir", dir}, strings.Fields(line)...))
		if err := root.ExecuteContext(context.Background()); err != nil {
			b.Fatalf("%s: %v %s", line, err, &complaint)
		}
		b.Logf("%7.3f s  adit audit %s  (%d bytes, %d lines)", time.Since(asked).Seconds(), line, out.Len(), strings.Count(out.String(), "\n"))
	}
}
