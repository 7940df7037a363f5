package resume

import "sync"

// classes are the sizes of the replay buffer's pieces, so that a keystroke
// does not hold what a full batch needs.
var classes = [...]int{512, 2 << 10, 8 << 10, maxData + dataHead}

// pieces has a pool of *[]byte for each class.
var pieces [len(classes)]sync.Pool

func classOf(n int) int {
	for i, size := range classes {
		if dataHead+n <= size {
			return i
		}
	}
	panic("resume: more than a data frame holds")
}

// sizeOf is how much memory a piece with n bytes of payload holds.
func sizeOf(n int) int { return classes[classOf(n)] }

// Headroom is how many bytes a buffer of [NewBuffer] has before its payload,
// for the pipe's own use.
const Headroom = dataHead

// NewBuffer gives a buffer for [Pipe.WriteBuffer], with its headroom and no
// payload yet. Its capacity is what one batch can have.
func NewBuffer() *[]byte { return piece(len(classes) - 1) }

// FreeBuffer takes a buffer back that WriteBuffer has not got.
func FreeBuffer(b *[]byte) {
	if cap(*b) == classes[len(classes)-1] { // else it has been made to grow
		pieces[len(classes)-1].Put(b)
	}
}

// piece gives a piece with nothing but its headroom.
func piece(class int) *[]byte {
	b, _ := pieces[class].Get().(*[]byte)
	if b == nil {
		b = new(make([]byte, classes[class]))
	}
	*b = (*b)[:Headroom]
	return b
}

// record is what one Write has put in: one data frame, which is sent again as
// it is.
type record struct {
	offset uint64
	frame  *[]byte // room for the header, and the payload
	class  int
}

func newRecord(offset uint64, payload []byte) *record {
	class := classOf(len(payload))
	frame := piece(class)
	*frame = append(*frame, payload...)
	return &record{offset: offset, frame: frame, class: class}
}

func (r *record) free() {
	pieces[r.class].Put(r.frame)
	r.frame = nil
}

func (r *record) length() int { return len(*r.frame) - Headroom }
func (r *record) end() uint64 { return r.offset + uint64(r.length()) }
func (r *record) size() int   { return classes[r.class] }

// seal gives the frame of what the peer does not have. Its header takes the
// place of what it has, which is never sent again.
func (r *record) seal(acked, acknowledged uint64) []byte {
	known := int(max(acked, r.offset) - r.offset)
	frame := (*r.frame)[known:]
	putData(frame, r.length()-known, r.offset+uint64(known), acknowledged)
	return frame
}

// replay holds what the peer has not acknowledged, in order. Its zero value is
// empty.
type replay struct {
	records []*record
	first   int     // how many records have been dropped since the start: records[0]'s number
	acked   uint64  // offset up to which the peer has everything
	end     uint64  // offset up to which there is something
	sent    uint64  // offset up to which something has ever been sent
	held    int     // bytes of memory
	busy    *record // being written to a carrier: not to be given back yet
	also    *record // being written behind busy
}

// add appends a record with a copy of payload.
func (r *replay) add(payload []byte) { r.put(newRecord(r.end, payload)) }

// adopt appends a record with a full buffer of [NewBuffer]'s.
func (r *replay) adopt(b *[]byte) {
	r.put(&record{offset: r.end, frame: b, class: len(classes) - 1})
}

func (r *replay) put(rec *record) {
	r.records = append(r.records, rec)
	r.end = rec.end()
	r.held += rec.size()
}

// past is the number that the next record will have.
func (r *replay) past() int { return r.first + len(r.records) }

func (r *replay) record(number int) *record { return r.records[number-r.first] }

// acknowledge drops what the peer has, and says how much memory that freed.
func (r *replay) acknowledge(offset uint64) (freed int) {
	r.acked = max(r.acked, offset)
	n := 0
	for n < len(r.records) && r.records[n].end() <= offset {
		freed += r.drop(r.records[n])
		r.records[n] = nil
		n++
	}
	r.records = r.records[n:]
	r.first += n
	if len(r.records) == 0 {
		r.records = nil
	}
	return freed
}

// drop gives a record back, or leaves that to whoever is writing it.
func (r *replay) drop(rec *record) int {
	size := rec.size()
	r.held -= size
	if rec != r.busy && rec != r.also {
		rec.free()
	}
	return size
}

// locate gives the number of the record that holds offset, or follows it.
func (r *replay) locate(offset uint64) int {
	for i, rec := range r.records {
		if rec.end() > offset {
			return r.first + i
		}
	}
	return r.past()
}

// begin says that a record is being written, or a second one behind it, and finish that they are
// no more.
func (r *replay) begin(rec *record) {
	if r.busy == nil {
		r.busy = rec
	} else {
		r.also = rec
	}
}

func (r *replay) finish() {
	for _, rec := range [...]*record{r.busy, r.also} {
		if rec != nil && !r.holds(rec) {
			rec.free()
		}
	}
	r.busy, r.also = nil, nil
}

func (r *replay) holds(rec *record) bool {
	return len(r.records) > 0 && rec.offset >= r.records[0].offset
}

// clear drops everything.
func (r *replay) clear() (freed int) {
	for _, rec := range r.records {
		freed += r.drop(rec)
	}
	r.first = r.past()
	r.records = nil
	return freed
}
