package main

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/adit-net/adit/server/audit"
)

func TestAnswerInParquetThatBreaksOffLooksUnfinished(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	w, err := audit.Open(t.Context(), audit.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Note(audit.Record{Kind: audit.Act, Begin: time.Now()}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for statement, whole := range map[string]bool{
		"SELECT 1 AS n": true,
		"SELECT":        false,
		"SELECT 1 AS n UNION ALL SELECT abs(-1 << 63)":    false,
		"SELECT 1 AS n FROM nowhere WHERE n = 'nothing' ": false,
	} {
		var out bytes.Buffer
		q := auditQuestion{sql: statement, format: "parquet"}
		err := q.ask(t.Context(), env{stdout: &out}, audit.NewReader(dir))
		if (err == nil) != whole || strings.HasSuffix(out.String(), "PAR1") != whole {
			t.Errorf("%s: %d bytes, %v", statement, out.Len(), err)
		}
		if err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: that is more than one reason: %v", statement, err)
		}
	}
}
