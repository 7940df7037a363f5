package audit

import (
	"bufio"
	"cmp"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Printer writes rows for people or programs. Nothing in a row can look like another row or
// column, or be taken for a command by a terminal or a spreadsheet. Whoever has written the
// last one calls Flush. No row at all is only the head.
type Printer interface {
	Print(columns []string, row []any) error
	Flush() error
}

// NewTable gives a Printer for people. Rows come out when it is flushed, or a thousand of
// them have come; columns grow wider, but never narrower again.
func NewTable(w io.Writer) Printer { return &tablePrinter{w: w} }

type tablePrinter struct {
	w      io.Writer
	widths []int
	rows   [][]string // wait
}

func (p *tablePrinter) Print(columns []string, row []any) error {
	if p.widths == nil {
		p.widths = make([]int, len(columns))
		head := make([]string, len(columns))
		for i, c := range columns {
			head[i] = strings.ToUpper(Show(c))
		}
		p.rows = append(p.rows, head)
	}
	if row == nil {
		return nil
	}
	cells := make([]string, len(row))
	for i, v := range row {
		// Two spaces part columns.
		cells[i] = cmp.Or(strings.ReplaceAll(Show(text(v)), "  ", ` \x20`), "-")
	}
	if p.rows = append(p.rows, cells); len(p.rows) < 1000 {
		return nil
	}
	return p.Flush()
}

func (p *tablePrinter) Flush() error {
	for _, row := range p.rows {
		for i, cell := range row {
			p.widths[i] = max(p.widths[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	for _, row := range p.rows {
		for i, cell := range row {
			b.WriteString(cell)
			if i < len(row)-1 {
				b.WriteString(strings.Repeat(" ", 2+p.widths[i]-utf8.RuneCountInString(cell)))
			}
		}
		b.WriteByte('\n')
	}
	p.rows = p.rows[:0]
	_, err := io.WriteString(p.w, b.String())
	return err
}

// NewCSV gives a Printer for spreadsheets (RFC 4180). A text that one of these would take for
// a formula begins with an apostrophe.
func NewCSV(w io.Writer) Printer { return &csvPrinter{w: csv.NewWriter(w)} }

type csvPrinter struct {
	w       *csv.Writer
	started bool
	cells   []string
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
	if row == nil {
		return nil
	}
	p.cells = p.cells[:0]
	for _, v := range row {
		cell := Show(text(v))
		if _, ok := v.(string); ok {
			cell = harmless(cell)
		}
		p.cells = append(p.cells, cell)
	}
	return p.w.Write(p.cells)
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
func NewJSON(w io.Writer) Printer { return &jsonPrinter{w: bufio.NewWriter(w)} }

type jsonPrinter struct {
	w    *bufio.Writer
	line []byte
}

func (p *jsonPrinter) Print(columns []string, row []any) (err error) {
	if row == nil {
		return nil
	}
	p.line = p.line[:0]
	for i, v := range row {
		p.line = append(p.line, "{,"[min(i, 1)])
		if p.line, err = appendJSON(p.line, columns[i]); err == nil {
			p.line, err = appendJSON(append(p.line, ':'), v)
		}
		if err != nil {
			return fmt.Errorf("spell %s: %w", columns[i], err)
		}
	}
	_, err = p.w.Write(append(p.line, "}\n"...))
	return err
}

func (p *jsonPrinter) Flush() error { return p.w.Flush() }

// appendJSON spells a value. Most are numbers, or texts that are in JSON what they are.
func appendJSON(b []byte, v any) ([]byte, error) {
	switch v := v.(type) {
	case int64:
		return strconv.AppendInt(b, v, 10), nil
	case bool:
		return strconv.AppendBool(b, v), nil
	case nil, float64:
		one, err := json.Marshal(v)
		return append(b, one...), err
	}
	s := text(v)
	if isPlainJSON(s) {
		return append(append(append(b, '"'), s...), '"'), nil
	}
	one, err := json.Marshal(Show(s))
	return append(b, one...), err
}

func isPlainJSON(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			return false
		}
	}
	return true
}

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
		return v.Format("2006-01-02T15:04:05.000Z07:00")
	case int64:
		return strconv.FormatInt(v, 10)
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
		r.Seq, r.ID, r.Kind.String(), r.Begin, r.Duration.Milliseconds(), r.Open,
		r.Exit, r.Session, r.User, r.Device, r.Groups, addrText(r.Source), int64(r.SourcePort), r.Door, r.Dialect, r.Method,
		r.Carrier, r.Version, r.KeyExchange, r.Cipher, r.IPsec, r.GSS, r.Command, r.Name, addrText(r.Address), int64(r.Port),
		r.Protocol, r.Host, r.Decision.String(), r.Rule, r.Up, r.Down, r.Sent, r.Received,
		r.Connect.Microseconds(), r.FirstByte.Microseconds(), int64(r.Resumes), r.End, r.What,
	}
}
