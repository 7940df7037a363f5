package sniff

import (
	"bytes"

	"golang.org/x/net/http2/hpack"
)

const prefaceOf2 = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

const (
	frameHeader     = 9
	frameHeaders    = 1
	flagEndHeaders  = 4
	flagPadded      = 8
	flagPriority    = 32
	maxFramesOf2    = 32
	maxFieldsOf2    = 64
	maxFieldLength  = limit
	maxDynamicTable = 4 << 10
)

func preface(h head) answer {
	switch begins(h.b, prefaceOf2) {
	case sure:
		return is(HTTP2)
	case perhaps:
		return want(len(prefaceOf2))
	}
	return no()
}

// firstHeaders looks for the first HEADERS frame of a client in what it sent,
// preface included. It gives the block of fields, or how many bytes it needs to
// go on, or neither if there is nothing to be found.
func firstHeaders(b []byte) (block []byte, need int) {
	at := len(prefaceOf2)
	for range maxFramesOf2 {
		if len(b) < at+frameHeader {
			return nil, at + frameHeader
		}
		n, kind, flags := uint24(b[at:]), b[at+3], b[at+4]
		end := at + frameHeader + n
		switch {
		case end > limit:
			return nil, 0
		case len(b) < end:
			return nil, end
		case kind == frameHeaders && flags&flagEndHeaders != 0:
			return unpad(b[at+frameHeader:end], flags), 0
		case kind == frameHeaders:
			return nil, 0
		}
		at = end
	}
	return nil, 0
}

// unpad takes off what a HEADERS frame has around its fields, RFC 9113, section 6.2.
func unpad(b []byte, flags byte) []byte {
	if flags&flagPadded != 0 {
		if len(b) == 0 || int(b[0]) >= len(b) {
			return nil
		}
		b = b[1 : len(b)-int(b[0])]
	}
	if flags&flagPriority != 0 {
		b = b[min(5, len(b)):]
	}
	return b
}

// readHeaders adds to a verdict what the first request of HTTP/2 says.
func readHeaders(v *Verdict, block []byte) {
	var method, protocol, path string
	count := 0
	d := hpack.NewDecoder(maxDynamicTable, nil)
	d.SetMaxStringLength(maxFieldLength)
	d.SetEmitFunc(func(f hpack.HeaderField) {
		if count++; count > maxFieldsOf2 {
			d.SetEmitEnabled(false)
		}
		switch f.Name {
		case ":method":
			method = f.Value
		case ":protocol":
			protocol = f.Value
		case ":path":
			path = f.Value
		case ":authority":
			v.Host = hostOf([]byte(f.Value))
		case "content-type":
			if kind := []byte(f.Value); bytes.HasPrefix(kind, []byte("application/grpc")) {
				v.Carries = GRPC
			} else if c := byField([]byte(f.Name), kind); c != "" {
				v.Carries = c
			}
		}
	})
	if _, err := d.Write(block); err != nil {
		v.Doubt = "fields of HTTP/2 cannot be read"
		return
	}
	switch {
	case v.Carries != "":
	case method == "CONNECT":
		v.Carries = byField([]byte("upgrade"), []byte(protocol))
	default:
		v.Carries = byPath([]byte(path))
	}
}
