package sniff_test

import (
	"fmt"

	"github.com/adit-net/adit/server/sniff"
)

// A mail client asks for TLS: the verdict changes with the connection.
func ExampleStream() {
	var s sniff.Stream
	v := s.Down([]byte("220 mail.example ESMTP\r\n"))
	fmt.Println(v.Protocol, v.Certain, v.More)

	s.Up([]byte("EHLO laptop\r\n"))
	s.Up([]byte("STARTTLS\r\n"))
	s.Down([]byte("220 go ahead\r\n"))
	v = s.Up([]byte{0x16, 3, 1, 2, 0, 1})
	fmt.Println(v.Protocol, "under", v.Under)
	// Output:
	// smtp true true
	// tls under smtp
}

func ExampleLookup() {
	info, _ := sniff.Lookup("rtsp")
	fmt.Println(info.Group, info.Encrypted, info.Ports, sniff.Misplaced(info.Name, 443))
	// Output: media false [554 8554] true
}
