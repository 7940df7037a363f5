package sniff

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"slices"
)

// initials reads the ClientHello from the first packets of a QUIC client. Their
// keys are no secret: RFC 9001, section 5.2, derives them from what the packets
// say in clear.
type initials struct {
	keys    *initialKeys
	derived int
	packets int
	data    []byte // of the CRYPTO stream, with holes
	here    []span // which parts of it came
}

// span is from its first byte to behind its last.
type span struct{ from, to int }

const (
	maxInitials   = 16
	maxDerived    = 4  // after a Retry the keys are others
	maxSpans      = 64 // a hello in more pieces is left alone
	maxConnection = 20 // bytes of a connection ID
)

// dialect is what versions of QUIC differ in.
type dialect struct {
	salt    string
	label   string
	initial byte // type bits of an Initial
}

// dialectOf knows versions 1 and 2 and the last draft.
func dialectOf(version uint32) (dialect, bool) {
	switch version {
	case 1:
		return dialect{"\x38\x76\x2c\xf7\xf5\x59\x34\xb3\x4d\x17\x9a\xe6\xa4\xc8\x0c\xad\xcc\xbb\x7f\x0a", "quic ", 0}, true
	case 0x6b3343cf:
		return dialect{"\x0d\xed\xe3\xde\xf7\x00\xa6\xdb\x81\x93\x81\xbe\x6e\x26\x9d\xcb\xf9\xbd\x2e\xd9", "quicv2 ", 1}, true
	case 0xff00001d:
		return dialect{"\xaf\xbf\xec\x28\x99\x93\xd2\x4c\x9e\x97\x86\xf1\x9c\x61\x11\xe0\x43\x90\xa8\x99", "quic ", 0}, true
	}
	return dialect{}, false
}

// longHeader is what a packet with a long header says in clear.
type longHeader struct {
	dialect
	version uint32
	known   bool // the version is one of ours
	kind    byte
	dcid    []byte
	number  int // where the packet number begins
	end     int // behind the packet, 0 if it is not said
}

// readLongHeader reads a packet of RFC 8999, and more of it if its version is known.
func readLongHeader(b []byte) (h longHeader, ok bool) {
	if len(b) < 7 || b[0]&0x80 == 0 {
		return h, false
	}
	h.version = binary.BigEndian.Uint32(b[1:])
	h.dialect, h.known = dialectOf(h.version)
	h.kind = b[0] >> 4 & 3
	at := 5
	for i := range 2 {
		if at >= len(b) || h.known && b[at] > maxConnection || at+1+int(b[at]) > len(b) {
			return h, false
		}
		if i == 0 {
			h.dcid = b[at+1 : at+1+int(b[at])]
		}
		at += 1 + int(b[at])
	}
	if !h.known {
		return h, true
	}
	if h.kind == (h.initial+3)&3 { // Retry
		return h, true
	}
	if h.kind == h.initial {
		token, n := varint(b[at:])
		if n == 0 || token > uint64(len(b)-at-n) {
			return h, false
		}
		at += n + int(token)
	}
	size, n := varint(b[at:])
	if n == 0 || size > uint64(len(b)-at-n) {
		return h, false
	}
	h.number = at + n
	h.end = h.number + int(size)
	return h, true
}

// varint reads one of RFC 9000, section 16, and gives its length, 0 if it is not
// all here.
func varint(b []byte) (v uint64, n int) {
	if len(b) == 0 {
		return 0, 0
	}
	if n = 1 << (b[0] >> 6); len(b) < n {
		return 0, 0
	}
	v = uint64(b[0] & 0x3f)
	for _, c := range b[1:n] {
		v = v<<8 | uint64(c)
	}
	return v, n
}

// isQUIC is the test for a first datagram. What a version that is not known
// looks like beyond its header is not known either.
func isQUIC(b []byte) grade {
	h, ok := readLongHeader(b)
	switch {
	case !ok:
		return never
	case h.known && b[0]&0x40 != 0:
		return known
	case h.version&0x0f0f0f0f == 0x0a0a0a0a && len(b) >= 1200: // there to be refused
		return sure
	}
	return never
}

// take reads the Initials of a datagram of the client, and tells whether the
// hello is complete, or not to be hoped for any more.
func (q *initials) take(datagram []byte) (hello []byte, done bool) {
	for len(datagram) > 0 {
		h, ok := readLongHeader(datagram)
		if !ok || h.end == 0 {
			break
		}
		if h.kind == h.initial {
			if q.packets++; q.packets > maxInitials {
				return nil, true
			}
			if payload := q.open(h, datagram[:h.end]); payload != nil && !q.frames(payload) {
				return nil, true
			}
		}
		datagram = datagram[h.end:]
	}
	if len(q.here) == 0 || q.here[0].from != 0 || q.here[0].to < messageHeader {
		return nil, false
	}
	size := messageHeader + uint24(q.data[1:])
	switch {
	case q.data[0] != messageClientHello || size > helloLimit:
		return nil, true
	case q.here[0].to < size:
		return nil, false
	}
	return q.data[messageHeader:size], true
}

// open decrypts an Initial. The connection ID it is for changes as soon as the
// server has answered and the keys do not, so those that are here come first.
func (q *initials) open(h longHeader, packet []byte) []byte {
	if q.keys != nil {
		if payload := q.keys.open(packet, h.number); payload != nil {
			return payload
		}
	}
	if q.derived == maxDerived {
		return nil
	}
	q.derived++
	keys, err := newInitialKeys(h.dialect, h.dcid)
	if err != nil {
		return nil
	}
	payload := keys.open(packet, h.number)
	if payload != nil && q.keys != nil {
		q.data, q.here = nil, nil // after a Retry all is said again
	}
	if payload != nil {
		q.keys = keys
	}
	return payload
}

// initialKeys are those of a client's Initials.
type initialKeys struct {
	aead   cipher.AEAD
	header cipher.Block
	iv     []byte
}

func newInitialKeys(d dialect, dcid []byte) (*initialKeys, error) {
	secret, err := hkdf.Extract(sha256.New, dcid, []byte(d.salt))
	if err != nil {
		return nil, err
	}
	client, err := expandLabel(secret, "client in", sha256.Size)
	if err != nil {
		return nil, err
	}
	var parts [3][]byte
	for i, size := range [...]int{16, 12, 16} {
		name := [...]string{"key", "iv", "hp"}[i]
		if parts[i], err = expandLabel(client, d.label+name, size); err != nil {
			return nil, err
		}
	}
	k := &initialKeys{iv: parts[1]}
	block, err := aes.NewCipher(parts[0])
	if err != nil {
		return nil, err
	}
	if k.aead, err = cipher.NewGCM(block); err != nil {
		return nil, err
	}
	k.header, err = aes.NewCipher(parts[2])
	return k, err
}

// expandLabel is HKDF-Expand-Label of RFC 8446 without a context.
func expandLabel(secret []byte, label string, size int) ([]byte, error) {
	label = "tls13 " + label
	info := string([]byte{byte(size >> 8), byte(size), byte(len(label))}) + label + "\x00"
	return hkdf.Expand(sha256.New, secret, info, size)
}

// open takes the protection off a packet whose number begins at the given byte,
// RFC 9001, sections 5.3 and 5.4. It gives nil if it is not for these keys.
func (k *initialKeys) open(packet []byte, number int) []byte {
	const sample = 4 // bytes behind the begin of the packet number
	if len(packet) < number+sample+aes.BlockSize {
		return nil
	}
	var mask [aes.BlockSize]byte
	k.header.Encrypt(mask[:], packet[number+sample:])
	first := packet[0] ^ mask[0]&0x0f
	payload := number + int(first&3) + 1

	header := slices.Clone(packet[:payload])
	header[0] = first
	nonce := slices.Clone(k.iv)
	for i := number; i < payload; i++ {
		header[i] ^= mask[1+i-number]
		nonce[len(nonce)-payload+i] ^= header[i]
	}
	plain, err := k.aead.Open(nil, nonce, packet[payload:], header)
	if err != nil {
		return nil
	}
	return plain
}

// Frames that an Initial may have, RFC 9000, section 12.4.
const (
	framePadding = 0
	framePing    = 1
	frameACK     = 2
	frameACKECN  = 3
	frameCRYPTO  = 6
)

// frames collects the CRYPTO frames. It tells whether to go on.
func (q *initials) frames(b []byte) bool {
	for len(b) > 0 {
		kind := b[0]
		b = b[1:]
		switch kind {
		case framePadding, framePing:
		case frameACK, frameACKECN:
			n := ackLength(b, kind == frameACKECN)
			if n == 0 {
				return false
			}
			b = b[n:]
		case frameCRYPTO:
			offset, n := varint(b)
			size, m := varint(b[n:])
			if n == 0 || m == 0 || size > uint64(len(b)-n-m) {
				return false
			}
			b = b[n+m:]
			if !q.add(offset, b[:size]) {
				return false
			}
			b = b[size:]
		default: // CONNECTION_CLOSE, or what must not be here
			return false
		}
	}
	return true
}

// ackLength gives how long an ACK frame is without its type, 0 if it is not all here.
func ackLength(b []byte, ecn bool) int {
	at, left := 0, 4 // largest, delay, count of ranges, first range
	for i := 0; i < left; i++ {
		v, n := varint(b[at:])
		if n == 0 {
			return 0
		}
		at += n
		if i == 2 {
			if v > uint64(len(b)) {
				return 0
			}
			left += 2 * int(v)
			if ecn {
				left += 3
			}
		}
	}
	return at
}

// add puts a piece of the CRYPTO stream in its place.
func (q *initials) add(offset uint64, piece []byte) bool {
	if offset > helloLimit || int(offset)+len(piece) > helloLimit {
		return false
	}
	if len(piece) == 0 {
		return true
	}
	from, to := int(offset), int(offset)+len(piece)
	if to > len(q.data) {
		q.data = append(q.data, make([]byte, to-len(q.data))...)
	}
	copy(q.data[from:], piece)

	// All spans that touch this one become one with it.
	i, _ := slices.BinarySearchFunc(q.here, from, func(s span, at int) int { return s.to - at })
	j := i
	for ; j < len(q.here) && q.here[j].from <= to; j++ {
		from, to = min(from, q.here[j].from), max(to, q.here[j].to)
	}
	q.here = slices.Replace(q.here, i, j, span{from, to})
	return len(q.here) <= maxSpans
}
