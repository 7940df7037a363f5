package sniff

import "bytes"

// A test says whether the first bytes of one side are of its protocol. It
// depends on nothing else, and once it said never or sure it says the same of
// whatever these bytes are the beginning of. That, and that the engine heeds
// the order of the tests, is why it does not matter how a connection is cut
// into pieces.
type test func(head) answer

// grade is how far a test came.
type grade uint8

const (
	never   grade = iota // it is not this, whatever follows
	perhaps              // too little is here
	likely               // nothing else is known to look like this, and more would prove it
	known                // it is this, and more would only tell more of it
	sure                 // it is this, and what is to be known of it is here
)

type answer struct {
	grade    grade
	protocol Protocol
	need     int // how many bytes must be here before the test is asked again
}

// text, as a need, waits for the end of the first line, or of the head, rather
// than for a number of bytes.
const text = 1 << 20

func no() answer                            { return answer{} }
func want(need int) answer                  { return answer{perhaps, "", need} }
func looksLike(p Protocol, need int) answer { return answer{likely, p, need} }
func surelyIs(p Protocol, need int) answer  { return answer{known, p, need} }
func is(p Protocol) answer                  { return answer{sure, p, 0} }
func when(isIt bool, p Protocol) answer {
	if isIt {
		return is(p)
	}
	return no()
}

// head is what is here of one side, from its first byte on.
type head struct {
	b    []byte
	eol  int // behind the line feed of the first line, or 0
	eoh  int // behind the empty line that ends a head of lines, or 0
	read int // how far eol and eoh were looked for
}

// scan looks for the ends of lines in what came since the last scan, and tells
// whether it found one that counts.
func (h *head) scan() (found bool) {
	for h.eoh == 0 {
		i := bytes.IndexByte(h.b[h.read:], '\n')
		if i < 0 {
			h.read = len(h.b)
			return found
		}
		h.read += i + 1
		if h.eol == 0 {
			h.eol, found = h.read, true
		} else if endsHead(h.b[:h.read]) {
			h.eoh, found = h.read, true
		}
	}
	return found
}

// endsHead tells whether the last line of b, which ends in a line feed, is empty.
func endsHead(b []byte) bool {
	return bytes.HasSuffix(b, []byte("\n\n")) || bytes.HasSuffix(b, []byte("\n\r\n"))
}

// line gives the first line without its end. It may be asked for if eol is not 0.
func (h head) line() []byte { return bytes.TrimRight(h.b[:h.eol], "\r\n") }

// begun gives of the first line what is here.
func (h head) begun() []byte {
	if h.eol == 0 {
		return h.b
	}
	return h.b[:h.eol]
}

// begins tells whether b begins with a magic string, in which a question mark
// stands for any byte: perhaps, as long as it is too short.
func begins(b []byte, magic string) grade {
	n := min(len(b), len(magic))
	for i, c := range b[:n] {
		if c != magic[i] && magic[i] != '?' {
			return never
		}
	}
	if n < len(magic) {
		return perhaps
	}
	return sure
}

// upper gives b in capitals, for words whose case does not matter. Only its
// first 16 bytes are looked at.
func upper(b []byte) string {
	var word [16]byte
	n := copy(word[:], b)
	for i, c := range word[:n] {
		if 'a' <= c && c <= 'z' {
			word[i] = c - 'a' + 'A'
		}
	}
	return string(word[:n])
}
