package sniff

import (
	"context"
	"crypto/aes"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"slices"
	"strings"
	"testing"
)

const dcidOfRFC = "\x83\x94\xc8\xf0\x3e\x51\x57\x08"

// The keys that RFC 9001, RFC 9369 and draft 29 give for this connection ID.
func TestInitialKeysAreThoseOfTheRFCs(t *testing.T) {
	for version, want := range map[uint32][2]string{
		1:          {"fa044b2f42a3fd3b46fb255c", "9f50449e04a0e810283a1e9933adedd2"},
		0x6b3343cf: {"91f73e2351d8fa91660e909f", "45b95e15235d6f45a6b19cbcb0294ba9"},
		0xff00001d: {"6b26114b9cba2b63a9e8dd4f", "9ddd12c994c0698b89374a9c077a3077"},
	} {
		d, _ := dialectOf(version)
		k, err := newInitialKeys(d, []byte(dcidOfRFC))
		if err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(k.iv); got != want[0] {
			t.Errorf("version %x: iv %s", version, got)
		}
		// The key of the header hides in a cipher: encrypt the same with both.
		var a, b [16]byte
		k.header.Encrypt(a[:], a[:])
		block, _ := aes.NewCipher([]byte(unhex(want[1])))
		block.Encrypt(b[:], b[:])
		if a != b {
			t.Errorf("version %x: the key of the header is not %s", version, want[1])
		}
	}
}

// helloOf gives a real ClientHello as QUIC carries it.
func helloOf(name string) []byte {
	c := tls.QUICClient(&tls.QUICConfig{TLSConfig: &tls.Config{ServerName: name, NextProtos: []string{"h3"}, MinVersion: tls.VersionTLS13}})
	c.SetTransportParameters([]byte{1, 1, 0})
	if err := c.Start(context.Background()); err != nil {
		panic(err)
	}
	defer c.Close()
	for {
		switch e := c.NextEvent(); e.Kind {
		case tls.QUICWriteData:
			return slices.Clone(e.Data)
		case tls.QUICNoEvent:
			panic("no ClientHello")
		}
	}
}

// crypto makes a frame of a part of a hello.
func crypto(hello []byte, from, to int) []byte {
	b := []byte{frameCRYPTO}
	b = binary.BigEndian.AppendUint16(b, uint16(from)|0x4000)
	b = binary.BigEndian.AppendUint16(b, uint16(to-from)|0x4000)
	return append(b, hello[from:to]...)
}

// seal makes an Initial of frames, as a client does, RFC 9001, section 5.
func seal(version uint32, dcid string, number uint32, frames []byte, size int) []byte {
	d, _ := dialectOf(version)
	k, err := newInitialKeys(d, []byte(dcid))
	if err != nil {
		panic(err)
	}
	header := []byte{0xc0 | d.initial<<4 | 3}
	header = binary.BigEndian.AppendUint32(header, version)
	header = append(append(append(header, byte(len(dcid))), dcid...), 0, 0) // no SCID, no token
	frames = append(frames, make([]byte, max(0, size-len(header)-2-4-len(frames)-16))...)
	header = binary.BigEndian.AppendUint16(header, uint16(4+len(frames)+16)|0x4000)
	at := len(header)
	header = binary.BigEndian.AppendUint32(header, number)
	nonce := slices.Clone(k.iv)
	for i := range 4 {
		nonce[8+i] ^= header[at+i]
	}
	packet := k.aead.Seal(slices.Clone(header), nonce, frames, header)
	var mask [16]byte
	k.header.Encrypt(mask[:], packet[at+4:])
	packet[0] ^= mask[0] & 0x0f
	for i := range 4 {
		packet[at+i] ^= mask[1+i]
	}
	return packet
}

// whole puts all of a hello into one packet.
func whole(version uint32, hello []byte) [][]byte {
	return [][]byte{seal(version, dcidOfRFC, 0, crypto(hello, 0, len(hello)), 1200)}
}

func quicFlow(version uint32, name string, pack func(uint32, []byte) [][]byte) [][]byte {
	return pack(version, helloOf(name))
}

func TestServerNameOfQUICIsRead(t *testing.T) {
	ways := map[string]func(uint32, []byte) [][]byte{
		"one packet": whole,
		"frames in disorder": func(version uint32, hello []byte) [][]byte {
			n := len(hello)
			frames := slices.Concat(crypto(hello, n/2, n), []byte{framePing, 0, 0}, crypto(hello, 10, n/2), crypto(hello, 0, 20))
			return [][]byte{seal(version, dcidOfRFC, 0, frames, 1200)}
		},
		"two datagrams in disorder": func(version uint32, hello []byte) [][]byte {
			n := len(hello)
			return [][]byte{
				seal(version, dcidOfRFC, 1, crypto(hello, n/3, n), 1200),
				seal(version, dcidOfRFC, 0, crypto(hello, 0, n/3), 1200),
			}
		},
		"two packets in a datagram": func(version uint32, hello []byte) [][]byte {
			n := len(hello)
			return [][]byte{slices.Concat(
				seal(version, dcidOfRFC, 0, crypto(hello, n/3, n), 0),
				seal(version, dcidOfRFC, 1, crypto(hello, 0, n/3), 1000))}
		},
		"after a Retry": func(version uint32, hello []byte) [][]byte {
			return [][]byte{
				seal(version, dcidOfRFC, 0, crypto(hello, 0, 60), 1200),
				seal(version, "another one", 1, crypto(hello, 0, len(hello)), 1200),
			}
		},
		"after an acknowledgement": func(version uint32, hello []byte) [][]byte {
			return [][]byte{seal(version, dcidOfRFC, 9, slices.Concat([]byte(unhex("02050001020001")), crypto(hello, 0, len(hello))), 1200)}
		},
	}
	for way, pack := range ways {
		for _, version := range []uint32{1, 0x6b3343cf, 0xff00001d} {
			d := Datagrams{Port: 443}
			var v Verdict
			datagrams := quicFlow(version, "quic.example", pack)
			for i, b := range datagrams {
				if v = d.Up(b); v.Protocol != QUIC || v.Certain != (i == len(datagrams)-1) {
					t.Errorf("%s, version %x: datagram %d is %+v", way, version, i, v)
				}
			}
			if want := (Verdict{Protocol: QUIC, Certain: true, Host: "quic.example", ALPN: "h3"}); v != want {
				t.Errorf("%s, version %x: got %+v", way, version, v)
			}
		}
	}
}

func TestEndlessInitialsAreGivenUp(t *testing.T) {
	d := new(Datagrams)
	hello := helloOf("quic.example")
	var v Verdict
	for i := range maxInitials + 1 {
		v = d.Up(seal(1, dcidOfRFC, uint32(i), crypto(hello, 4+i, 5+i), 1200))
	}
	if v != (Verdict{Protocol: QUIC, Certain: true}) || d.quic != nil {
		t.Errorf("got %+v", v)
	}
}

func TestUnknownVersionOfQUICIsQUIC(t *testing.T) {
	b := []byte(unhex("ca1a2a3a4a08") + "abcdefgh" + "\x00" + strings.Repeat("x", 1200))
	if v := new(Datagrams).Up(b); v.Protocol != QUIC {
		t.Errorf("got %+v", v)
	}
}

func FuzzFrames(f *testing.F) {
	f.Add(crypto(helloOf("a.example"), 0, 100))
	f.Add([]byte(unhex("02050001020001")))
	f.Fuzz(func(t *testing.T, b []byte) {
		var q initials
		q.frames(b)
		for i, s := range q.here {
			if s.from >= s.to || s.to > len(q.data) || i > 0 && q.here[i-1].to >= s.from {
				t.Errorf("spans %v of %d bytes", q.here, len(q.data))
			}
		}
		if len(q.data) > helloLimit {
			t.Errorf("%d bytes are held", len(q.data))
		}
	})
}
