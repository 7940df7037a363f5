package audit

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// Printer writes rows for people or programs. Nothing in a row can look like another row or
// column, or be taken for a command by a terminal or a spreadsheet. Whoever has written the
// last one calls Flush.
type Printer interface {
	Print(columns []string, row []any) error
	Flush() error
}

// NewTable gives a Printer for people. The columns stand below each other once it is
// flushed, or a thousand rows have come.
func NewTable(w io.Writer) Printer {
	return &tablePrinter{w: tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)}
}

type tablePrinter struct {
	w    *tabwriter.Writer
	rows int
}

func (p *tablePrinter) Print(columns []string, row []any) error {
	if p.rows == 0 {
		if err := p.line(columns, strings.ToUpper); err != nil {
			return err
		}
	}
	cells := make([]string, len(row))
	for i, v := range row {
		if cells[i] = text(v); cells[i] == "" {
			cells[i] = "-"
		}
	}
	if p.rows++; p.rows%1000 == 0 {
		if err := p.w.Flush(); err != nil {
			return err
		}
	}
	return p.line(cells, Show)
}

func (p *tablePrinter) line(cells []string, spell func(string) string) error {
	shown := make([]string, len(cells))
	for i, c := range cells {
		shown[i] = spell(Show(c))
	}
	_, err := fmt.Fprintln(p.w, strings.Join(shown, "\t"))
	return err
}

func (p *tablePrinter) Flush() error { return p.w.Flush() }

// NewCSV gives a Printer for spreadsheets (RFC 4180). A text that one of these would take for
// a formula begins with an apostrophe.
func NewCSV(w io.Writer) Printer { return &csvPrinter{w: csv.NewWriter(w)} }

type csvPrinter struct {
	w       *csv.Writer
	started bool
}

func (p *csvPrinter) Print(columns []string, row []any) error {
	if !p.started {
		p.started = true
		head := make([]string, len(columns))
		for i, c := range columns {
			head[i] = harmless(Show(c))
		}
		if err := p.w.Write(head); err != nil {
			return err
		}
	}
	cells := make([]string, len(row))
	for i, v := range row {
		cells[i] = Show(text(v))
		if _, ok := v.(string); ok {
			cells[i] = harmless(cells[i])
		}
	}
	return p.w.Write(cells)
}

// harmless keeps a spreadsheet from computing a text.
func harmless(s string) string {
	if s != "" && strings.ContainsRune("=+-@", rune(s[0])) {
		return "'" + s
	}
	return s
}

func (p *csvPrinter) Flush() error {
	p.w.Flush()
	return p.w.Error()
}

// NewJSON gives a Printer for programs: one object a line.
func NewJSON(w io.Writer) Printer { return jsonPrinter{w} }

type jsonPrinter struct{ w io.Writer }

func (p jsonPrinter) Print(columns []string, row []any) error {
	var b bytes.Buffer
	for i, v := range row {
		b.WriteByte("{,"[min(i, 1)])
		switch v.(type) {
		case nil, int64, float64, bool:
		default:
			v = Show(text(v))
		}
		for j, part := range []any{Show(columns[i]), v} {
			one, err := json.Marshal(part)
			if err != nil {
				return fmt.Errorf("spell %s: %w", columns[i], err)
			}
			b.Write(one)
			if j == 0 {
				b.WriteByte(':')
			}
		}
	}
	if len(row) == 0 {
		b.WriteByte('{')
	}
	b.WriteString("}\n")
	_, err := p.w.Write(b.Bytes())
	return err
}

func (p jsonPrinter) Flush() error { return nil }

// text spells a value.
func text(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	case []byte:
		return fmt.Sprintf("%x", v)
	case time.Time:
		return v.Format(time.RFC3339)
	case float64:
		return strconv.FormatFloat(v, 'g', -1, 64)
	}
	return fmt.Sprint(v)
}

// recordColumnNames are the columns of [Record.Row].
var recordColumnNames = []string{
	"seq", "id", "kind", "time", "duration_ms", "open", "exit", "session", "user", "device", "groups", "source", "source_port", "door", "dialect", "method",
	"carrier", "version", "key_exchange", "cipher", "ipsec", "gss", "command", "name", "address", "port", "protocol", "host", "decision", "rule",
	"up", "down", "sent", "received", "connect_us", "first_byte_us", "resumes", "end", "what",
}

// Row gives all of a record for a [Printer].
func (r Record) Row() (columns []string, row []any) {
	return recordColumnNames, []any{
		r.Seq, r.ID, r.Kind.String(), r.Begin.Format("2006-01-02T15:04:05.000Z07:00"), r.Duration.Milliseconds(), r.Open,
		r.Exit, r.Session, r.User, r.Device, r.Groups, addrText(r.Source), int64(r.SourcePort), r.Door, r.Dialect, r.Method,
		r.Carrier, r.Version, r.KeyExchange, r.Cipher, r.IPsec, r.GSS, r.Command, r.Name, addrText(r.Address), int64(r.Port),
		r.Protocol, r.Host, r.Decision.String(), r.Rule, r.Up, r.Down, r.Sent, r.Received,
		r.Connect.Microseconds(), r.FirstByte.Microseconds(), int64(r.Resumes), r.End, r.What,
	}
}
