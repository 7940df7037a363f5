package audit

import "encoding/binary"

// Types of fields in Thrift's compact protocol.
const (
	thriftInt32  = 5
	thriftInt64  = 6
	thriftText   = 8
	thriftList   = 9
	thriftStruct = 12
)

// thrift spells a struct in Thrift's compact protocol, field by field in the order of their
// numbers. Its zero value begins one.
type thrift struct {
	b    []byte
	last []int // the field before, in the structs around the one under way
	id   int   // the field before
}

func (t *thrift) field(id, kind int) {
	// None of ours is more than 15 after the one before.
	t.b = append(t.b, byte((id-t.id)<<4|kind))
	t.id = id
}

func (t *thrift) varint(n int64) { t.b = binary.AppendVarint(t.b, n) }

func (t *thrift) integer(id int, n int64) {
	t.field(id, thriftInt32)
	t.varint(n)
}

func (t *thrift) integer64(id int, n int64) {
	t.field(id, thriftInt64)
	t.varint(n)
}

func (t *thrift) text(id int, s string) {
	t.field(id, thriftText)
	t.word(s)
}

// word spells an element of a list of texts.
func (t *thrift) word(s string) { t.b = append(binary.AppendUvarint(t.b, uint64(len(s))), s...) }

// list begins a list. Its elements follow.
func (t *thrift) list(id, kind, n int) {
	t.field(id, thriftList)
	if n < 15 {
		t.b = append(t.b, byte(n<<4|kind))
		return
	}
	t.b = binary.AppendUvarint(append(t.b, byte(0xf0|kind)), uint64(n))
}

// begin begins a field that is a struct, and enter an element of a list that is one.
func (t *thrift) begin(id int) {
	t.field(id, thriftStruct)
	t.enter()
}

func (t *thrift) enter() {
	t.last = append(t.last, t.id)
	t.id = 0
}

// end ends the struct under way.
func (t *thrift) end() {
	t.b = append(t.b, 0)
	if n := len(t.last); n > 0 {
		t.id, t.last = t.last[n-1], t.last[:n-1]
	}
}
