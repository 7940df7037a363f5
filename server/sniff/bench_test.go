package sniff

import "testing"

// What a flow costs whose first bytes are shown as they come.
func BenchmarkStream(b *testing.B) {
	for _, flow := range []struct{ name, up, down string }{
		{"a byte", "\x00", "\x00"},
		{"http", "GET / HTTP/1.1\r\nHost: example.org\r\n\r\n", "HTTP/1.1 204 No Content\r\n\r\n"},
		{"ssh", "SSH-2.0-OpenSSH_9.9\r\n", "SSH-2.0-OpenSSH_9.9\r\n"},
		{"noise", "\xd3\x91\xe6\x07\x5c\xb8\x2a\xf0\x13\x77", "\x8e\x42\xa9\xc4\x6b"},
	} {
		up, down := []byte(flow.up), []byte(flow.down)
		b.Run(flow.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				var s Stream
				s.Up(up)
				s.Down(down)
			}
		})
	}
}
