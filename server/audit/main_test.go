package audit

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	for role, be := range map[string]func(context.Context, string) error{asVictim: beVictim, asCramped: beCramped} {
		if dir := os.Getenv(role); dir != "" {
			if err := be(context.Background(), dir); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		}
	}
	goleak.VerifyTestMain(m)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newWriter opens a warehouse that nobody serves: the test says when it is written.
func newWriter(t testing.TB, cfg Config) *Writer {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = filepath.Join(t.TempDir(), "audit")
	}
	cfg.Log = quiet()
	w, err := Open(t.Context(), cfg)
	must(t, err)
	return w
}

// quiet is a log that nobody reads.
func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// open is a thing that goes on.
type open struct {
	line Record
	up   int64
	cut  error
}

func (o *open) Progress(r *Record) { *r, r.Up = o.line, o.up }
func (o *open) Cut(reason error)   { o.cut = reason }

// begin has it go on as a record.
func (o *open) begin(w *Writer, r Record) (*Entry, error) {
	o.line = r
	return w.Begin(o)
}

// flowNumber makes up a flow.
func flowNumber(n int) Record {
	protocols := []string{"tls", "http", "ssh", "dns"}
	return Record{
		Kind: Flow,
		Origin: Origin{
			User: fmt.Sprintf("user%d", n%100), Groups: "staff", Session: fmt.Sprintf("s%d", n%200), Dialect: "socks5", Method: "device",
			Source: netip.AddrFrom4([4]byte{198, 51, 100, byte(n % 200)}), Carrier: "tls", Version: "TLS 1.3",
		},
		SourcePort: uint16(n), Begin: time.Now(), Duration: time.Duration(n%5000) * time.Millisecond,
		Command: "connect", Name: fmt.Sprintf("host%d.example.org", n*n%20011), Address: netip.AddrFrom4([4]byte{203, 0, byte(n * n >> 4), byte(n)}),
		Port: 443, Protocol: protocols[n%4], Decision: Allowed, Rule: "staff may", Up: int64(n % 10_000), Down: int64(n % 1_000_000),
		Connect: 12 * time.Millisecond, End: "ended",
	}
}

// contextOf is a context that ends before the test does.
func contextOf(t testing.TB) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	return ctx, cancel
}
