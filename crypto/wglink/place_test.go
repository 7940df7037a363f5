package wglink

import (
	"bytes"
	"encoding/hex"
	"os"
	"strings"
	"testing"
)

func TestAddressesAndChannelsAreThoseOfTheProtocol(t *testing.T) {
	text, err := os.ReadFile("../../tunnel/PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	fill := func(b byte) [32]byte { return [32]byte(bytes.Repeat([]byte{b}, 32)) }
	server, device, nonce := fill(0x11), fill(0x22), fill(0x33)
	channel := channelID(server, device, nonce[:])
	for _, line := range []string{
		"| the server's address | `" + serverAddress(server).String() + "` |",
		"| the device's address | `" + deviceAddress(server, device).String() + "` |",
		"| carrier | `" + hex.EncodeToString(channel[:]) + "` |",
		"| the carrier's tag | `" + tagOf(nonce).prefix().Addr().String() + "` |",
	} {
		if !strings.Contains(string(text), line) {
			t.Errorf("the text does not say %s", line)
		}
	}
}
