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
	parquetBytes = 8 << 20 // of texts and blobs
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
	first   [][]any // rows that wait until it is known what the columns hold
	rows    int     // of the group under way
	texts   int     // bytes in it
	groups  []parquetGroup
	zip     *gzip.Writer
	packed  bytes.Buffer
	err     error // the first one; then there is no file
}

type parquetColumn struct {
	name string
	kind parquetKind

	// Of the group under way: which rows have a value, as runs, and the values.
	levels []byte
	run    uint64 // rows in the last one, which is not in levels yet
	filled bool   // they have
	values []byte
	bits   int // how many, of a column of truths
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
		p.columns = append(p.columns, parquetColumn{name: Show(name), kind: parquetAny})
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
	if row == nil || p.err != nil {
		return p.err
	}
	for _, v := range row {
		switch v := v.(type) {
		case string:
			p.texts += len(v)
		case []byte:
			p.texts += len(v)
		}
	}
	if p.learned {
		p.add(row)
	} else {
		p.first = append(p.first, slices.Clone(row))
	}
	if p.rows+len(p.first) >= parquetRows || p.texts >= parquetBytes {
		p.group()
	}
	return p.err
}

// add puts a row into the group.
func (p *parquetPrinter) add(row []any) {
	for i := range p.columns {
		c := &p.columns[i]
		if err := c.add(row[i]); err != nil && p.err == nil {
			p.err = fmt.Errorf("spell %s: %w", c.name, err)
		}
	}
	p.rows++
}

// Flush writes what is left, and the end of the file.
func (p *parquetPrinter) Flush() error {
	if len(p.columns) == 0 {
		return errParquetHead
	}
	if p.rows+len(p.first) > 0 || p.written == 0 {
		p.group()
	}
	if p.err != nil {
		return p.err
	}
	foot := p.footer()
	foot = binary.LittleEndian.AppendUint32(foot, uint32(len(foot)))
	p.write(append(foot, parquetMagic...))
	return p.err
}

const parquetMagic = "PAR1"

func (p *parquetPrinter) write(b []byte) {
	if p.err == nil {
		var n int
		n, p.err = p.w.Write(b)
		p.written += int64(n)
	}
}

// group writes the rows that wait.
func (p *parquetPrinter) group() {
	if p.written == 0 {
		p.write([]byte(parquetMagic))
	}
	if !p.learned {
		p.learn(p.first)
	}
	for _, row := range p.first {
		p.add(row)
	}
	p.first = nil
	if p.rows == 0 || p.err != nil {
		return
	}
	g := parquetGroup{rows: p.rows}
	for i := range p.columns {
		g.chunks = append(g.chunks, p.chunk(&p.columns[i]))
	}
	p.groups = append(p.groups, g)
	p.rows, p.texts = 0, 0
}

// chunk writes what a column has of the group, as one page.
func (p *parquetPrinter) chunk(c *parquetColumn) parquetChunk {
	c.endRun()
	p.packed.Reset()
	if p.zip == nil {
		p.zip, _ = gzip.NewWriterLevel(&p.packed, gzip.BestSpeed) // a level that there is
	} else {
		p.zip.Reset(&p.packed)
	}
	_, _ = p.zip.Write(binary.LittleEndian.AppendUint32(nil, uint32(len(c.levels)))) // a buffer takes all
	_, _ = p.zip.Write(c.levels)
	_, _ = p.zip.Write(c.values)
	_ = p.zip.Close()
	size := 4 + len(c.levels) + len(c.values)
	var head thrift
	head.integer(1, 0) // a data page
	head.integer(2, int64(size))
	head.integer(3, int64(p.packed.Len()))
	head.begin(5)
	head.integer(1, int64(p.rows))
	head.integer(2, parquetPlain)
	head.integer(3, parquetRLE) // levels
	head.integer(4, parquetRLE)
	head.end()
	head.end()
	chunk := parquetChunk{
		offset: p.written, plain: int64(len(head.b) + size), size: int64(len(head.b) + p.packed.Len()),
	}
	p.write(head.b)
	p.write(p.packed.Bytes())
	c.levels, c.values, c.bits = c.levels[:0], c.values[:0], 0
	return chunk
}

// The encodings and the codec in use.
const (
	parquetPlain = 0
	parquetRLE   = 3
	parquetGzip  = 2
)

// add spells a value.
func (c *parquetColumn) add(v any) error {
	if filled := v != nil; filled != c.filled {
		c.endRun()
		c.filled = filled
	}
	c.run++
	known := parquetKindOf(v)
	switch {
	case v == nil:
	case c.kind == parquetText:
		s := Show(text(v))
		c.values = append(binary.LittleEndian.AppendUint32(c.values, uint32(len(s))), s...)
	case wider(c.kind, known) != c.kind:
		return errParquetFit
	case c.kind == parquetBool:
		if c.bits%8 == 0 {
			c.values = append(c.values, 0)
		}
		if v.(bool) {
			c.values[len(c.values)-1] |= 1 << (c.bits % 8)
		}
		c.bits++
	case known == parquetDouble:
		c.values = binary.LittleEndian.AppendUint64(c.values, math.Float64bits(v.(float64)))
	case c.kind == parquetDouble:
		c.values = binary.LittleEndian.AppendUint64(c.values, math.Float64bits(float64(v.(int64))))
	case c.kind == parquetTime:
		c.values = binary.LittleEndian.AppendUint64(c.values, uint64(v.(time.Time).UnixMilli()))
	default:
		c.values = binary.LittleEndian.AppendUint64(c.values, uint64(v.(int64)))
	}
	return nil
}

// endRun ends a run of rows that have a value, or have none.
func (c *parquetColumn) endRun() {
	if c.run == 0 {
		return
	}
	level := byte(0)
	if c.filled {
		level = 1
	}
	c.levels = append(binary.AppendUvarint(c.levels, c.run<<1), level)
	c.run = 0
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
