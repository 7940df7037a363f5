package audit

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"time"
)

// What a row group of a Parquet file has at most: it is in memory until it is written.
const (
	parquetRows  = 1 << 15
	parquetBytes = 8 << 20 // of texts
)

var (
	errParquetFit  = errors.New("its rows differ in kind: CAST it to one")
	errParquetHead = errors.New("nothing fits, and without a row nobody knows what the columns are")
)

// NewParquet gives a Printer for programs that keep tables by column (Apache Parquet, format
// version 1). Columns may be empty everywhere; times are in UTC to the millisecond. The example is a
// row that tells what the columns hold; nil: the first rows tell. Flush ends the file.
func NewParquet(w io.Writer, columns []string, example []any) Printer {
	p := &parquetPrinter{w: w}
	if example != nil {
		p.name(columns)
		p.learn([][]any{example})
	}
	return p
}

type parquetPrinter struct {
	w       io.Writer
	written int64
	columns []parquetColumn
	learned bool
	rows    [][]any // of the group under way
	texts   int     // bytes in it
	groups  []parquetGroup
}

type parquetColumn struct {
	name string
	kind parquetKind
}

type parquetGroup struct {
	rows   int
	chunks []parquetChunk
}

// parquetChunk is where a group's values of one column are.
type parquetChunk struct{ offset, size, plain int64 }

// parquetKind is a Type of Parquet's.
type parquetKind int64

const (
	parquetBool   parquetKind = 0
	parquetInt    parquetKind = 2
	parquetDouble parquetKind = 5
	parquetText   parquetKind = 6
	parquetTime   parquetKind = -parquetInt // an integer that is shown as a time
	parquetAny    parquetKind = -1          // nothing but NULL so far
)

func (p *parquetPrinter) name(columns []string) {
	for _, name := range columns {
		p.columns = append(p.columns, parquetColumn{Show(name), parquetAny})
	}
}

// learn finds what each column holds.
func (p *parquetPrinter) learn(rows [][]any) {
	p.learned = true
	for i := range p.columns {
		c := &p.columns[i]
		for _, row := range rows {
			c.kind = wider(c.kind, parquetKindOf(row[i]))
		}
		if c.kind == parquetAny {
			c.kind = parquetText
		}
	}
}

func parquetKindOf(v any) parquetKind {
	switch v.(type) {
	case nil:
		return parquetAny
	case bool:
		return parquetBool
	case int64:
		return parquetInt
	case float64:
		return parquetDouble
	case time.Time:
		return parquetTime
	}
	return parquetText
}

// wider gives the kind that holds values of two.
func wider(a, b parquetKind) parquetKind {
	switch {
	case a == b || b == parquetAny:
		return a
	case a == parquetAny:
		return b
	case min(a, b) == parquetInt && max(a, b) == parquetDouble:
		return parquetDouble
	}
	return parquetText
}

func (p *parquetPrinter) Print(columns []string, row []any) error {
	if p.columns == nil {
		p.name(columns)
	}
	if row == nil {
		return nil
	}
	p.rows = append(p.rows, slices.Clone(row))
	for _, v := range row {
		if s, ok := v.(string); ok {
			p.texts += len(s)
		}
	}
	if len(p.rows) < parquetRows && p.texts < parquetBytes {
		return nil
	}
	return p.group()
}

// Flush writes what is left, and the end of the file.
func (p *parquetPrinter) Flush() error {
	if len(p.columns) == 0 {
		return errParquetHead
	}
	if len(p.rows) > 0 || p.written == 0 {
		if err := p.group(); err != nil {
			return err
		}
	}
	foot := p.footer()
	foot = binary.LittleEndian.AppendUint32(foot, uint32(len(foot)))
	return p.write(append(foot, parquetMagic...))
}

const parquetMagic = "PAR1"

func (p *parquetPrinter) write(b []byte) error {
	n, err := p.w.Write(b)
	p.written += int64(n)
	return err
}

// group writes the rows that wait.
func (p *parquetPrinter) group() error {
	if p.written == 0 {
		if err := p.write([]byte(parquetMagic)); err != nil {
			return err
		}
	}
	if !p.learned {
		p.learn(p.rows)
	}
	if len(p.rows) == 0 {
		return nil
	}
	g := parquetGroup{rows: len(p.rows)}
	for i, c := range p.columns {
		chunk, err := p.chunk(i, c.kind)
		if err != nil {
			return fmt.Errorf("spell %s: %w", c.name, err)
		}
		g.chunks = append(g.chunks, chunk)
	}
	p.groups = append(p.groups, g)
	p.rows, p.texts = p.rows[:0], 0
	return nil
}

// chunk writes a column of the rows that wait, as one page.
func (p *parquetPrinter) chunk(column int, kind parquetKind) (parquetChunk, error) {
	page, err := appendParquetPage(nil, p.rows, column, kind)
	if err != nil {
		return parquetChunk{}, err
	}
	var packed bytes.Buffer
	zip, _ := gzip.NewWriterLevel(&packed, gzip.BestSpeed) // a level that there is
	_, err = zip.Write(page)
	if err := errors.Join(err, zip.Close()); err != nil {
		return parquetChunk{}, err
	}
	var head thrift
	head.integer(1, 0) // a data page
	head.integer(2, int64(len(page)))
	head.integer(3, int64(packed.Len()))
	head.begin(5)
	head.integer(1, int64(len(p.rows)))
	head.integer(2, parquetPlain)
	head.integer(3, parquetRLE) // levels
	head.integer(4, parquetRLE)
	head.end()
	head.end()
	c := parquetChunk{
		offset: p.written, plain: int64(len(head.b) + len(page)), size: int64(len(head.b) + packed.Len()),
	}
	return c, errors.Join(p.write(head.b), p.write(packed.Bytes()))
}

// The encodings and the codec in use.
const (
	parquetPlain = 0
	parquetRLE   = 3
	parquetGzip  = 2
)

// appendParquetPage spells a column: which rows have a value, and then the values.
func appendParquetPage(b []byte, rows [][]any, column int, kind parquetKind) ([]byte, error) {
	b = append(b, 0, 0, 0, 0) // how long the levels are
	for from := 0; from < len(rows); {
		to, level := from, byte(1)
		if rows[from][column] == nil {
			level = 0
		}
		for to < len(rows) && (rows[to][column] == nil) == (level == 0) {
			to++
		}
		b = append(binary.AppendUvarint(b, uint64(to-from)<<1), level)
		from = to
	}
	binary.LittleEndian.PutUint32(b, uint32(len(b)-4))
	bit := 8
	for _, row := range rows {
		v := row[column]
		switch known := parquetKindOf(v); {
		case v == nil:
		case kind == parquetText:
			s := Show(text(v))
			b = append(binary.LittleEndian.AppendUint32(b, uint32(len(s))), s...)
		case wider(kind, known) != kind:
			return nil, errParquetFit
		case kind == parquetBool:
			if bit == 8 {
				b, bit = append(b, 0), 0
			}
			if v.(bool) {
				b[len(b)-1] |= 1 << bit
			}
			bit++
		case known == parquetDouble:
			b = binary.LittleEndian.AppendUint64(b, math.Float64bits(v.(float64)))
		case kind == parquetDouble:
			b = binary.LittleEndian.AppendUint64(b, math.Float64bits(float64(v.(int64))))
		case kind == parquetTime:
			b = binary.LittleEndian.AppendUint64(b, uint64(v.(time.Time).UnixMilli()))
		default:
			b = binary.LittleEndian.AppendUint64(b, uint64(v.(int64)))
		}
	}
	return b, nil
}

// footer says what is where (FileMetaData).
func (p *parquetPrinter) footer() []byte {
	var t thrift
	t.integer(1, 1) // the format's version
	t.list(2, thriftStruct, len(p.columns)+1)
	t.enter()
	t.text(4, "records")
	t.integer(5, int64(len(p.columns)))
	t.end()
	for _, c := range p.columns {
		t.enter()
		t.integer(1, c.physical())
		t.integer(3, 1) // optional
		t.text(4, c.name)
		switch c.kind {
		case parquetText:
			t.integer(6, 0) // UTF-8
		case parquetTime:
			t.integer(6, 9) // milliseconds since 1970
		}
		t.end()
	}
	rows := 0
	for _, g := range p.groups {
		rows += g.rows
	}
	t.integer64(3, int64(rows))
	t.list(4, thriftStruct, len(p.groups))
	for _, g := range p.groups {
		t.enter()
		p.describe(&t, g)
		t.end()
	}
	t.text(6, "adit")
	t.end()
	return t.b
}

func (c parquetColumn) physical() int64 {
	if c.kind == parquetTime {
		return int64(parquetInt)
	}
	return int64(c.kind)
}

func (p *parquetPrinter) describe(t *thrift, g parquetGroup) {
	var plain int64
	t.list(1, thriftStruct, len(g.chunks))
	for i, chunk := range g.chunks {
		c := p.columns[i]
		plain += chunk.plain
		t.enter()
		t.integer64(2, chunk.offset)
		t.begin(3)
		t.integer(1, c.physical())
		t.list(2, thriftInt32, 2)
		t.varint(parquetPlain)
		t.varint(parquetRLE)
		t.list(3, thriftText, 1)
		t.word(c.name)
		t.integer(4, parquetGzip)
		t.integer64(5, int64(g.rows))
		t.integer64(6, chunk.plain)
		t.integer64(7, chunk.size)
		t.integer64(9, chunk.offset)
		t.end()
		t.end()
	}
	t.integer64(2, plain)
	t.integer64(3, int64(g.rows))
}
