package sniff

import "encoding/binary"

const headerOfDNS = 12

// question is what is read of a message of DNS.
type question struct {
	kind    uint16
	length  int // of the name
	longest int // of its labels
	answer  bool
}

// readDNS reads a message of at least a header, strictly: one question, counts
// that fit the kind of message, and bits that are zero.
func readDNS(b []byte) (q question, ok bool) {
	if len(b) < headerOfDNS+5 {
		return q, false
	}
	flags := binary.BigEndian.Uint16(b[2:])
	questions, answers := binary.BigEndian.Uint16(b[4:]), binary.BigEndian.Uint16(b[6:])
	authorities, additional := binary.BigEndian.Uint16(b[8:]), binary.BigEndian.Uint16(b[10:])
	opcode := flags >> 11 & 15
	q.answer = flags&0x8000 != 0
	switch {
	case questions != 1, flags&0x40 != 0, opcode != 0 && opcode != 4 && opcode != 5:
		return q, false
	case !q.answer && opcode == 0 && (answers > 0 || authorities > 0 || additional > 2 || flags&15 != 0):
		return q, false
	}
	at := headerOfDNS
	for at < len(b) && b[at] != 0 {
		n := int(b[at])
		if n > 63 || q.length+n+1 > 254 || at+1+n >= len(b) {
			return q, false
		}
		q.length += n + 1
		q.longest = max(q.longest, n)
		at += 1 + n
	}
	if len(b) < at+5 {
		return q, false
	}
	q.kind = binary.BigEndian.Uint16(b[at+1:])
	class := binary.BigEndian.Uint16(b[at+3:]) &^ 0x8000 // a bit of multicast DNS
	if class != 1 && class != 3 && class != 255 || q.kind == 0 {
		return q, false
	}
	exact := at+5 == len(b)
	return q, exact == (answers|authorities|additional == 0)
}

// dnsOfTCP is the test for a message behind its length.
func dnsOfTCP(h head) answer {
	b := h.b
	if len(b) < 2 {
		return want(2)
	}
	size := int(binary.BigEndian.Uint16(b))
	switch {
	case size < headerOfDNS+5 || size+2 > limit:
		return no()
	case len(b) >= 8 && (b[6] != 0 || b[7] != 1):
		return no() // not one question
	case len(b) < headerOfDNS+2:
		return want(headerOfDNS + 2)
	case len(b) < 2+size:
		return want(2 + size)
	}
	_, ok := readDNS(b[2 : 2+size])
	return when(ok, DNS)
}

func readQueryOfTCP(v *Verdict, b []byte) {
	if len(b) < 2 {
		return
	}
	var w odd
	if q, ok := readDNS(b[2:min(len(b), 2+int(binary.BigEndian.Uint16(b)))]); ok {
		v.Doubt = w.see(q)
	}
}

// odd weighs the queries of a flow: a tunnel in DNS carries its bytes in long
// names, and wants answers with room in them. What single queries of mail and
// content networks weigh is far below.
type odd struct{ weight, queries int }

// Types of records in which tunnels carry answers.
const (
	typeNULL    = 10
	typeTXT     = 16
	typePrivate = 65280
)

const enoughOdd = 12

// see gives a doubt as soon as there is reason for it.
func (o *odd) see(q question) string {
	if q.answer {
		return ""
	}
	o.queries++
	if q.kind == typeNULL || q.kind >= typePrivate {
		o.weight += 3
	}
	if q.kind == typeTXT {
		o.weight++
	}
	if q.length > 120 {
		o.weight += 2
	}
	if q.length > 200 {
		o.weight += 2
	}
	if q.longest > 50 {
		o.weight += 2
	}
	if o.weight >= enoughOdd && o.weight > 2*o.queries {
		return "queries look like a tunnel in DNS"
	}
	return ""
}
