package sniff

import (
	"strings"

	"golang.org/x/crypto/cryptobyte"
)

// Parts of TLS, RFC 8446.
const (
	recordAlert        = 21
	recordHandshake    = 22
	messageClientHello = 1
	messageServerHello = 2
	extensionName      = 0
	extensionALPN      = 16

	recordHeader    = 5
	messageHeader   = 4
	maxRecord       = 16384 + 256 // RFC 8446, section 5.1, with some room as in earlier versions
	maxHelloRecords = 64          // more would be work for nothing: a hello fits into one
	maxALPN         = 16
)

// clientHello knows TLS by its first 6 bytes and is sure when the hello is here,
// in however many records and pieces it comes.
func clientHello(h head) answer {
	a := handshake(h.b, messageClientHello)
	if a.grade != sure {
		return a
	}
	if end := helloEnd(h.b); end > len(h.b) && end <= helloLimit {
		return surelyIs(TLS, end)
	}
	return a
}

// serverHello is for a flow whose ClientHello was not seen.
func serverHello(h head) answer { return handshake(h.b, messageServerHello) }

// handshake tells whether b begins with a record whose first message is of the
// wanted type.
func handshake(b []byte, message byte) answer {
	for i, c := range b[:min(len(b), recordHeader+1)] {
		switch {
		case i == 0 && c != recordHandshake,
			i == 1 && c != 3,
			i == 2 && c > 4,
			i == 4 && !validRecord(b),
			i == 5 && c != message:
			return no()
		}
	}
	if len(b) <= recordHeader {
		return want(recordHeader + 1)
	}
	return is(TLS)
}

func validRecord(b []byte) bool {
	n := int(b[3])<<8 | int(b[4])
	return 0 < n && n <= maxRecord
}

// helloEnd says how many bytes must be here to read the first message: either
// to its end, or as far as can be said by now. It is more than helloLimit if
// the message cannot be read, or is not worth it.
func helloEnd(b []byte) int {
	var size [messageHeader]byte // the header of the message, of several records if need be
	for at, have, records := 0, 0, 0; records < maxHelloRecords; records++ {
		if len(b) < at+recordHeader {
			return at + recordHeader
		}
		n := int(b[at+3])<<8 | int(b[at+4])
		if b[at] != recordHandshake || !validRecord(b[at:]) {
			break
		}
		at += recordHeader
		if have < messageHeader {
			end := min(at+n, at+messageHeader-have)
			if len(b) < end {
				return end
			}
			copy(size[have:], b[at:end])
		}
		if have+n >= messageHeader {
			if missing := messageHeader + uint24(size[1:]) - have; missing <= n {
				return at + missing
			}
		}
		have += n
		at += n
	}
	return helloLimit + 1
}

// message gives the first message without its header, or nil. Its records are
// put together only if there are several.
func message(b []byte) []byte {
	if len(b) < recordHeader {
		return nil
	}
	first := int(b[3])<<8 | int(b[4])
	b = b[:min(len(b), helloLimit)]
	joined := b[recordHeader:min(len(b), recordHeader+first)]
	if end := helloEnd(b); end > recordHeader+first && end <= len(b) {
		joined = nil
		for at := 0; at < end; {
			n := int(b[at+3])<<8 | int(b[at+4])
			joined = append(joined, b[at+recordHeader:min(at+recordHeader+n, end)]...)
			at += recordHeader + n
		}
	}
	if len(joined) < messageHeader {
		return nil
	}
	n := messageHeader + uint24(joined[1:])
	return joined[messageHeader:min(len(joined), n)]
}

func uint24(b []byte) int { return int(b[0])<<16 | int(b[1])<<8 | int(b[2]) }

// readClientHello adds to a verdict what the records of a client say.
func readClientHello(v *Verdict, b []byte) {
	if handshake(b, messageClientHello).grade != sure {
		return // only its answer was seen
	}
	if helloEnd(b) > helloLimit {
		v.Doubt = "ClientHello is longer, or in more records, than any should be"
		return
	}
	if helloEnd(b) <= len(b) {
		readHello(v, message(b))
	}
}

// readHello adds to a verdict what a ClientHello, without its header, says.
func readHello(v *Verdict, hello cryptobyte.String) {
	var extensions, skipped cryptobyte.String
	if !hello.Skip(2+32) || // version and random
		!hello.ReadUint8LengthPrefixed(&skipped) || // session
		!hello.ReadUint16LengthPrefixed(&skipped) || // ciphers
		!hello.ReadUint8LengthPrefixed(&skipped) { // compression
		v.Doubt = "ClientHello cannot be read"
		return
	}
	if !hello.ReadUint16LengthPrefixed(&extensions) {
		if !hello.Empty() {
			v.Doubt = "ClientHello cannot be read"
		}
		return
	}
	for !extensions.Empty() {
		var kind uint16
		var body cryptobyte.String
		if !extensions.ReadUint16(&kind) || !extensions.ReadUint16LengthPrefixed(&body) {
			v.Doubt = "ClientHello cannot be read"
			return
		}
		switch kind {
		case extensionName:
			v.Host = readServerName(body)
			if v.Host == "" {
				v.Doubt = "server name is none"
			}
		case extensionALPN:
			v.ALPN = readALPN(body)
		}
	}
}

func readServerName(body cryptobyte.String) string {
	var list, name cryptobyte.String
	var kind uint8
	if !body.ReadUint16LengthPrefixed(&list) || !list.ReadUint8(&kind) || kind != 0 || !list.ReadUint16LengthPrefixed(&name) {
		return ""
	}
	return hostname(name)
}

// readALPN gives what is offered, with commas between. What is not printable, as
// the values that are there to keep servers tolerant, is left out.
func readALPN(body cryptobyte.String) string {
	var list, name cryptobyte.String
	if !body.ReadUint16LengthPrefixed(&list) {
		return ""
	}
	if string(list) == "\x02h2\x08http/1.1" {
		return "h2,http/1.1" // what most say
	}
	var offers []string
	for len(offers) < maxALPN && list.ReadUint8LengthPrefixed(&name) {
		if printable(name) {
			offers = append(offers, string(name))
		}
	}
	return strings.Join(offers, ",")
}

func printable(b []byte) bool {
	for _, c := range b {
		if c <= ' ' || c > '~' || c == ',' {
			return false
		}
	}
	return len(b) > 0
}
