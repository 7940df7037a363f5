package server

import (
	"cmp"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/adit-net/adit/server/policy"
	"github.com/adit-net/adit/tunnel/relay"
	"github.com/adit-net/adit/tunnel/socks"
)

// onset notes when a target gets the first byte.
type onset struct {
	relay.Conn
	at chan time.Time
}

func (o onset) Write(b []byte) (int, error) {
	select {
	case o.at <- time.Now():
	default:
	}
	return len(b), nil
}

func TestNothingIsHeldBackForLongerThanItTakesToKnow(t *testing.T) {
	h := newHouse(t, func(c *Config) { c.Policy = rules(t, noSSH) })
	for _, test := range []struct {
		name, app, target string // what they say
		held              time.Duration
	}{
		{"HTTP", httpRequest, "", 0},
		{"HTTP in pieces", httpRequest[:9], "", sniffLimit},
		{"a server that speaks first", "EHLO a.example\r\n", "220 mx.example ESMTP ready\r\n", 0},
		{"an unknown protocol", "\xa5\x5a\xa5\x5a\xa5\x5a", "", sniffLimit},
		{"more of it than is looked at", strings.Repeat("\xa5", maxHeld+1), "", 0},
		{"a target that nobody knows either", strings.Repeat("\x07\xa5", 50), strings.Repeat("\x07\x99", 50), 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			c := newCaller(h.Server, "anna", func() policy.Who { return policy.Who{} }, h.cfg.Log)
			request := socks.Request{Command: socks.Connect, Dst: onLoopback(80)}
			f, err := c.begin(t.Context(), request)
			if err != nil {
				t.Fatal(err)
			}
			defer f.end(nil, socks.Succeeded)
			l := newListener(f, onset{at: make(chan time.Time, 1)})
			defer l.stop()
			began := time.Now()
			if test.target != "" {
				l.heard([]byte(test.target))
			}
			if _, err := l.said([]byte(test.app)); err != nil {
				t.Fatal(err)
			}
			if held := (<-l.conn.(onset).at).Sub(began); held != test.held {
				t.Errorf("%s is held back for %s, want %s", test.name, held, test.held)
			}
		})
	}
}

// What looking costs: from the first byte that an app says until it has the answer.
func BenchmarkFirstAnswer(b *testing.B) {
	for _, test := range []struct{ name, rules, said, greeting string }{
		{"nobody looks", "", httpRequest, ""},
		{"looked at", noSSH, httpRequest, ""},
		{"nobody looks, greeted", "", "EHLO a.example\r\n", "220 mx.example ESMTP ready\r\n"},
		{"looked at, greeted", noSSH, "EHLO a.example\r\n", "220 mx.example ESMTP ready\r\n"},
		{"looked at, unknown", noSSH, "\xa5\x5a\xa5\x5a", ""},
	} {
		b.Run(test.name, func(b *testing.B) {
			h := newHouse(b, func(c *Config) {
				if test.rules != "" {
					c.Policy = rules(b, test.rules)
				}
			})
			port := target(b, func(c *net.TCPConn) {
				_, _ = io.WriteString(c, test.greeting)
				_, _ = io.Copy(c, c)
			})
			v, err := h.Visit(b.Context(), Visitor{User: "anna"})
			h.must(err)
			defer v.Close()
			var took []time.Duration
			for b.Loop() {
				conn, _, err := v.Connect(b.Context(), socks.Request{Command: socks.Connect, Dst: onLoopback(port)})
				h.must(err)
				_, err = io.ReadFull(conn, make([]byte, len(test.greeting)))
				h.must(err)
				began := time.Now()
				_, err = io.WriteString(conn, test.said)
				h.must(err)
				_, err = io.ReadFull(conn, make([]byte, len(test.said)))
				h.must(err)
				took = append(took, time.Since(began))
				conn.Reset()
			}
			slices.SortFunc(took, cmp.Compare)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "µs-median")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "µs-p99")
		})
	}
}
