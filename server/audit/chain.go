package audit

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"strconv"
	"strings"
)

// Head is the end of the chain at some moment. Whoever notes one down elsewhere can say
// later on that nothing before it has been rewritten: see [Verify].
type Head struct {
	N    int64 // how many seals there have been
	Hash [sha256.Size]byte
}

// String spells a head as [ParseHead] reads it.
func (h Head) String() string {
	return strconv.FormatInt(h.N, 10) + ":" + hex.EncodeToString(h.Hash[:])
}

var errHead = errors.New("a head is NUMBER:HASH as it was printed")

// ParseHead reads a head.
func ParseHead(text string) (Head, error) {
	number, hash, _ := strings.Cut(text, ":")
	n, err := strconv.ParseInt(number, 10, 64)
	sum, err2 := hex.DecodeString(hash)
	if err != nil || err2 != nil || n < 0 || len(sum) != sha256.Size {
		return Head{}, fmt.Errorf("read %q: %w", text, errHead)
	}
	return Head{N: n, Hash: [sha256.Size]byte(sum)}, nil
}

// The tables that are sealed, in the order in which their hashes go into the seal.
const (
	tableWords = iota
	tableOrigins
	tableOpened
	tableRecords
	tables
)

var tableNames = [tables]string{"words", "origins", "opened", "records"}

// seal is a row of seals.
type seal struct {
	Head
	time int64
	last [tables]int64 // ids
}

// sealing makes the seal that follows another one.
type sealing struct {
	before seal
	last   [tables]int64
	sums   [tables]hash.Hash
	buffer []byte
}

func newSealing(before seal) *sealing {
	s := &sealing{before: before, last: before.last}
	for i := range s.sums {
		s.sums[i] = sha256.New()
	}
	return s
}

// add puts the next row of a table under the seal. Its first value is its id.
func (s *sealing) add(table int, row []any) {
	s.last[table], _ = row[0].(int64)
	s.buffer = appendRow(s.buffer[:0], row)
	s.sums[table].Write(s.buffer)
}

// close gives the seal.
func (s *sealing) close(time int64) seal {
	next := seal{Head: Head{N: s.before.N + 1}, time: time, last: s.last}
	b := append([]byte("adit audit 1\x00"), s.before.Hash[:]...)
	for _, n := range append([]int64{next.N, time}, next.last[:]...) {
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	for _, sum := range s.sums {
		b = sum.Sum(b)
	}
	next.Hash = sha256.Sum256(b)
	return next
}

// appendRow spells a row so that no other row is spelled the same way. NULLs at the end
// are left out: a column that a later version has added changes no hash.
func appendRow(b []byte, row []any) []byte {
	for len(row) > 0 && row[len(row)-1] == nil {
		row = row[:len(row)-1]
	}
	b = binary.AppendUvarint(b, uint64(len(row)))
	for _, value := range row {
		switch v := value.(type) {
		case nil:
			b = append(b, 0)
		case int64:
			b = binary.AppendVarint(append(b, 1), v)
		case string:
			b = append(binary.AppendUvarint(append(b, 2), uint64(len(v))), v...)
		case []byte:
			b = append(binary.AppendUvarint(append(b, 3), uint64(len(v))), v...)
		default:
			b = fmt.Appendf(append(b, 4), "%T %v", v, v) // none of ours; it has been tampered with
		}
	}
	return b
}
