package ipseclink

import (
	"bytes"
	"crypto/ecdh"
	"encoding/hex"
	"os"
	"strings"
	"testing"
)

// exampleEnds are those of the example in PROTOCOL.md.
func exampleEnds(t testing.TB) (client, server *ecdh.PrivateKey, n nonces) {
	t.Helper()
	key := func(b byte) *ecdh.PrivateKey {
		k, err := ecdh.X25519().NewPrivateKey(bytes.Repeat([]byte{b}, nonceSize))
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	client, server = key(0x11), key(0x22)
	copy(n.client[:], client.PublicKey().Bytes())
	copy(n.server[:], server.PublicKey().Bytes())
	return client, server, n
}

func TestDatagramsAreSignedAsTheProtocolSays(t *testing.T) {
	client, server, n := exampleEnds(t)
	atClient, err := agree(n, client, n.server)
	if err != nil {
		t.Fatal(err)
	}
	atServer, err := agree(n, server, n.client)
	if err != nil {
		t.Fatal(err)
	}
	query := append([]byte{5}, "query?"...)
	out := sealer{key: atClient.toServer}
	packet := out.seal(make([]byte, margin), kindDatagram, query)
	text, err := os.ReadFile("../../tunnel/PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, example := range [][]byte{n.client[:], n.server[:], packet[margin:]} {
		if word := "`" + hex.EncodeToString(example) + "`"; !strings.Contains(string(text), word) {
			t.Errorf("it does not say %s", word)
		}
	}
	in := opener{key: atServer.toServer}
	if kind, got, ok := in.open(bytes.Clone(packet)); !ok || kind != kindDatagram || !bytes.Equal(got, query) {
		t.Errorf("%d, %q, %v", kind, got, ok)
	}
	if _, _, ok := in.open(packet); ok {
		t.Error("it is taken twice")
	}
	back := opener{key: atServer.toClient}
	if _, _, ok := back.open(packet); ok {
		t.Error("it is taken the other way")
	}
}

// A nonce that gives the same secret with every key is no peer's.
func TestNonceThatAgreesWithEverybodyIsRefused(t *testing.T) {
	client, _, n := exampleEnds(t)
	n.server = [nonceSize]byte{}
	if a, err := agree(n, client, n.server); err == nil {
		t.Errorf("it agrees on %v", a)
	}
}

func FuzzMessage(f *testing.F) {
	client, _, n := exampleEnds(f)
	keys, err := agree(n, client, n.server)
	if err != nil {
		f.Fatal(err)
	}
	out := sealer{key: keys.toServer}
	f.Add(out.seal(make([]byte, margin), kindDatagram, []byte("hello"))[margin:])
	f.Add(out.seal(make([]byte, margin), kindProbe, make([]byte, 1000))[margin:])
	f.Add([]byte{})
	genuine := out.seal(make([]byte, margin), kindAnswer, []byte{5, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		in := opener{key: keys.toServer}
		message := append(make([]byte, margin), b...)
		if _, content, ok := in.open(message); ok && len(content) != len(b)-frameSize {
			t.Errorf("%x", content)
		}
		// Whatever strangers send, what is genuine is taken.
		if _, _, ok := in.open(bytes.Clone(genuine)); !ok && !bytes.Equal(message, genuine) {
			t.Error("it is in the way of what comes later")
		}
	})
}
