package decide

import (
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/adit-net/adit/server/metrics"
)

func TestMetricsCountWhatBecomesOfQuestions(t *testing.T) {
	o := newOracle(t, "")
	d := decider(t, o, nil)
	ask := func(user string) {
		q := question()
		q.Who.User = user
		d.Decide(q)
	}
	o.says(`{"decision": true}`)
	ask("anna")
	ask("anna") // which is known
	o.says(`{"decision": false}`)
	ask("bob")
	o.says(`{"decision": false, "context": {"needs": "protocol"}}`)
	ask("carol")
	o.says(`{"decision": "perhaps"}`)
	ask("dave")
	o.does(func(w http.ResponseWriter, _ *http.Request, _ []byte) { w.WriteHeader(http.StatusServiceUnavailable) })
	ask("erin")
	d.Close() // which waits for what is asked, and asks no more
	ask("frank")
	want := []string{
		`adit_decision_seconds_count 3`,
		`adit_decisions_total{result="allowed"} 1`, `adit_decisions_total{result="denied"} 1`, `adit_decisions_total{result="needs"} 1`,
		`adit_decisions_total{result="failed"} 2`, `adit_decisions_total{result="unasked"} 1`,
	}
	var p metrics.Page
	d.Metrics(&p)
	for _, line := range want {
		if !strings.Contains(string(p.Text()), "\n"+line+"\n") {
			t.Errorf("there is no %s in\n%s", line, p.Text())
		}
	}
}

func TestMetricsAreThereWithoutADecider(t *testing.T) {
	var p metrics.Page
	New(slog.New(slog.DiscardHandler)).Metrics(&p)
	if line := `adit_decisions_total{result="failed"} 0`; !strings.Contains(string(p.Text()), line) {
		t.Errorf("there is no %s in\n%s", line, p.Text())
	}
}
