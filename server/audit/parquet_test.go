package audit

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestParquetHoldsWhatWasPrinted(t *testing.T) {
	columns := []string{"text", "number", "share", "open", "time", "never"}
	at := time.UnixMilli(1_700_000_000_123).UTC()
	rows := [][]any{
		{"", int64(0), 0.5, true, at, nil},
		{nil, nil, nil, nil, nil, nil},
		{nil, int64(-1), int64(3), false, at.Add(time.Millisecond), nil},
		{"a\x00\x1b[2J", int64(math.MinInt64), 1e300, nil, nil, nil},
	}
	for i := range 2*parquetRows + 17 {
		rows = append(rows, []any{fmt.Sprint("host", i), int64(i), float64(i), i%3 == 0, nil, nil})
	}
	var b bytes.Buffer
	p := NewParquet(&b, nil, nil)
	for _, row := range rows {
		must(t, p.Print(columns, row))
	}
	must(t, p.Flush())
	rows[2][2], rows[3][0] = float64(3), `a\x00\x1b[2J`
	got, names := readParquet(t, b.Bytes())
	if !reflect.DeepEqual(names, columns) {
		t.Errorf("the columns are %q", names)
	}
	if len(got) != len(rows) {
		t.Fatalf("%d rows of %d", len(got), len(rows))
	}
	for i := range rows {
		if !reflect.DeepEqual(got[i], rows[i]) {
			t.Fatalf("row %d: %v, want %v", i, got[i], rows[i])
		}
	}
}

func TestParquetWithoutRowsHasTheColumnsOfOneWithSome(t *testing.T) {
	columns, example := Record{}.Row()
	var with, without bytes.Buffer
	p := NewParquet(&without, columns, example)
	must(t, p.Flush())
	p = NewParquet(&with, columns, example)
	must(t, p.Print(flowNumber(1).Row()))
	must(t, p.Flush())
	if rows, names := readParquet(t, without.Bytes()); len(rows) != 0 || !reflect.DeepEqual(names, columns) {
		t.Errorf("%d rows of %q", len(rows), names)
	}
	if a, b := schemaOf(t, with.Bytes()), schemaOf(t, without.Bytes()); !reflect.DeepEqual(a, b) {
		t.Errorf("%v and %v", a, b)
	}
	if err := NewParquet(io.Discard, nil, nil).Flush(); !errors.Is(err, errParquetHead) {
		t.Errorf("a file without columns: %v", err)
	}
}

func TestParquetKeepsNoMoreThanAGroupInMemory(t *testing.T) {
	big := 64 << 10
	for kind, v := range map[string]any{"text": strings.Repeat("x", big), "blob": make([]byte, big)} {
		p := &parquetPrinter{w: io.Discard}
		for range parquetBytes/big + 1 {
			must(t, p.Print([]string{"big"}, []any{v}))
		}
		if len(p.groups) != 1 || p.rows != 1 {
			t.Errorf("%s: %d rows are kept after %d groups", kind, p.rows, len(p.groups))
		}
		must(t, p.Flush())
	}
}

func TestParquetRefusesWhatItsColumnDoesNotHold(t *testing.T) {
	p := NewParquet(io.Discard, []string{"n"}, []any{int64(0)})
	if err := p.Print(nil, []any{"no number"}); !errors.Is(err, errParquetFit) {
		t.Errorf("a text among numbers: %v", err)
	}
	if err := p.Flush(); !errors.Is(err, errParquetFit) {
		t.Errorf("a text among numbers: %v", err)
	}
}

// thriftReader reads Thrift's compact protocol without knowing what it says: structs are maps by
// number.
type thriftReader struct{ *bytes.Reader }

func (r thriftReader) value(t *testing.T, kind byte) any {
	t.Helper()
	switch kind {
	case thriftInt32, thriftInt64:
		n, err := binary.ReadVarint(r)
		must(t, err)
		return n
	case thriftText:
		n, err := binary.ReadUvarint(r)
		must(t, err)
		text := make([]byte, n)
		_, err = io.ReadFull(r, text)
		must(t, err)
		return string(text)
	case thriftList:
		head, err := r.ReadByte()
		must(t, err)
		n := uint64(head >> 4)
		if n == 15 {
			n, err = binary.ReadUvarint(r)
			must(t, err)
		}
		list := []any{}
		for range n {
			list = append(list, r.value(t, head&15))
		}
		return list
	case thriftStruct:
		fields, id := map[int]any{}, 0
		for {
			head, err := r.ReadByte()
			must(t, err)
			if head == 0 {
				return fields
			}
			if head>>4 == 0 {
				t.Fatal("a field is more than 15 after the one before")
			}
			id += int(head >> 4)
			fields[id] = r.value(t, head&15)
		}
	}
	t.Fatalf("there are no fields of type %d", kind)
	return nil
}

func parquetFooter(t *testing.T, file []byte) map[int]any {
	t.Helper()
	n := len(file)
	if !bytes.HasPrefix(file, []byte(parquetMagic)) || !bytes.HasSuffix(file, []byte(parquetMagic)) {
		t.Fatalf("it begins or ends otherwise: %q", file[:4])
	}
	size := int(binary.LittleEndian.Uint32(file[n-8:]))
	r := bytes.NewReader(file[n-8-size : n-8])
	foot := thriftReader{r}.value(t, thriftStruct).(map[int]any)
	if r.Len() > 0 {
		t.Fatalf("%d bytes are left after the footer", r.Len())
	}
	return foot
}

func schemaOf(t *testing.T, file []byte) []any {
	t.Helper()
	return parquetFooter(t, file)[2].([]any)
}

// readParquet reads a file as this package writes them, and nothing else.
func readParquet(t *testing.T, file []byte) (rows [][]any, names []string) {
	t.Helper()
	foot := parquetFooter(t, file)
	schema := foot[2].([]any)
	if root := schema[0].(map[int]any); root[5] != int64(len(schema)-1) {
		t.Fatalf("the root is %v", root)
	}
	schema = schema[1:]
	for _, c := range schema {
		names = append(names, c.(map[int]any)[4].(string))
	}
	at := int64(len(parquetMagic))
	for _, g := range foot[4].([]any) {
		group := g.(map[int]any)
		first := len(rows)
		for range group[3].(int64) {
			rows = append(rows, make([]any, len(schema)))
		}
		for i, chunk := range group[1].([]any) {
			meta := chunk.(map[int]any)[3].(map[int]any)
			if meta[9] != at || meta[4] != int64(parquetGzip) || !reflect.DeepEqual(meta[3], []any{names[i]}) {
				t.Fatalf("chunk %v at %d", meta, at)
			}
			end := at + meta[7].(int64)
			for n, v := range readParquetPage(t, file[at:end], schema[i].(map[int]any), len(rows)-first) {
				rows[first+n][i] = v
			}
			at = end
		}
	}
	if foot[3] != int64(len(rows)) {
		t.Fatalf("the file speaks of %v rows, not %d", foot[3], len(rows))
	}
	return rows, names
}

func readParquetPage(t *testing.T, chunk []byte, column map[int]any, rows int) (values []any) {
	t.Helper()
	r := bytes.NewReader(chunk)
	head := thriftReader{r}.value(t, thriftStruct).(map[int]any)
	if int(head[3].(int64)) != r.Len() || head[5].(map[int]any)[1] != int64(rows) {
		t.Fatalf("page %v of %d rows and %d bytes", head, rows, r.Len())
	}
	zip, err := gzip.NewReader(r)
	must(t, err)
	page, err := io.ReadAll(zip)
	must(t, err)
	if int(head[2].(int64)) != len(page) {
		t.Fatalf("page %v has %d bytes", head, len(page))
	}
	size := binary.LittleEndian.Uint32(page)
	levels, plain := bytes.NewReader(page[4:4+size]), page[4+size:]
	bit := 0
	for levels.Len() > 0 {
		run, err := binary.ReadUvarint(levels)
		must(t, err)
		level, err := levels.ReadByte()
		must(t, err)
		for range run >> 1 {
			var v any
			if level == 1 {
				v, plain = readParquetValue(plain, &bit, column)
			}
			values = append(values, v)
		}
	}
	if bit > 0 {
		plain = plain[1:]
	}
	if len(values) != rows || len(plain) > 0 {
		t.Fatalf("%d values of %d, and %d bytes are left", len(values), rows, len(plain))
	}
	return values
}

func readParquetValue(b []byte, bit *int, column map[int]any) (v any, rest []byte) {
	switch parquetKind(column[1].(int64)) {
	case parquetBool:
		if *bit == 8 {
			b, *bit = b[1:], 0
		}
		v = b[0]>>*bit&1 == 1
		*bit++
		return v, b
	case parquetInt:
		n := int64(binary.LittleEndian.Uint64(b))
		if column[6] == int64(9) {
			return time.UnixMilli(n).UTC(), b[8:]
		}
		return n, b[8:]
	case parquetDouble:
		return math.Float64frombits(binary.LittleEndian.Uint64(b)), b[8:]
	}
	n := 4 + binary.LittleEndian.Uint32(b)
	return string(b[4:n]), b[n:]
}
