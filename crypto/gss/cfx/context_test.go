package cfx

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/jcmturner/gokrb5/v8/gssapi"
	"github.com/jcmturner/gokrb5/v8/types"
)

// toolWith makes a tool that does no more than scramble with this very key.
func toolWith(t testing.TB, key []byte) *tool {
	t.Helper()
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	return &tool{
		block:   block,
		encrypt: cipher.NewCBCEncrypter(block, zero[:]).(chain),
		decrypt: cipher.NewCBCDecrypter(block, zero[:]).(chain),
	}
}

// pair makes both sides of a context.
func pair(t testing.TB, kind EncType, acceptorKey bool) (initiator, acceptor *Context) {
	t.Helper()
	s := State{Key: testKey(t, kind), AcceptorKey: acceptorKey, Send: 0x2000, Receive: 0x1000}
	acceptor = newContext(t, s)
	s.Initiator, s.Send, s.Receive = true, s.Receive, s.Send
	return newContext(t, s), acceptor
}

func newContext(t testing.TB, s State) *Context {
	t.Helper()
	c, err := New(s)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// confounder is a0 to af.
var confounder = fill(0xa0, blockSize)

func confound(block []byte) { copy(block, confounder) }

func fill(first byte, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = first + byte(i)
	}
	return b
}

// Tokens that were computed apart from this code. Initiators count from 0x1000,
// acceptors from 0x2000.
var vectors = []struct {
	name      string
	kind      EncType
	initiator bool
	seq       uint64
	seal      bool
	payload   string
	token     string
}{
	{"client proposes level 0", 18, true, 0x1000, false, "00", "050400ff000c0000000000000000100000d08921ce178906665ea3e9f2"},
	{"client proposes level 2", 18, true, 0x1000, false, "02", "050400ff000c000000000000000010000262fe4b53324f3177ef67231f"},
	{"server answers level 0", 18, false, 0x2000, false, "00", "050401ff000c00000000000000002000009b63197de3093341a3b7c627"},
	{"server answers level 2", 18, false, 0x2000, false, "02", "050401ff000c000000000000000020000287964b7efd28772fd00a21f0"},
	{
		"signed request", 18, true, 0x1001, false, "05010001c00002010050",
		"050400ff000c0000000000000000100105010001c0000201005040a5c070fa082f47cc004aff",
	},
	{
		"sealed request", 18, true, 0x1001, true, "05010001c00002010050",
		"050402ff0000000000000000000010016eb423060d1cf7120591a44def5b99fd7ce1ad429c308c51eb487d64c41e9476fbac50de75fa0d5aa7013499f90847b55def53c6be44",
	},
	{"client proposes level 0", 17, true, 0x1000, false, "00", "050400ff000c000000000000000010000051779e96556bb134edeaf504"},
	{"server answers level 0", 17, false, 0x2000, false, "00", "050401ff000c0000000000000000200000b9144b9055c53943fae1e57f"},
	{
		"signed request", 17, true, 0x1001, false, "05010001c00002010050",
		"050400ff000c0000000000000000100105010001c0000201005061afe9cc7e328c362387d5b6",
	},
	{
		"sealed request", 17, true, 0x1001, true, "05010001c00002010050",
		"050402ff0000000000000000000010011e3d2273790a0afab7989e8dc021d626ef2f7ff813919ed95dc2197b1bb8151249234887a2703be735159984f7bde7396eb10f23d2e0",
	},
}

func TestTokensAreThoseOfTheVectors(t *testing.T) {
	for _, v := range vectors {
		token, payload := fromHex(t, v.token), fromHex(t, v.payload)
		s := State{Key: testKey(t, v.kind), Initiator: v.initiator, Send: v.seq}
		if got := newContext(t, s).wrap(nil, payload, v.seal, confound); !bytes.Equal(got, token) {
			t.Errorf("%s, %v: wrapped to %x, want %x", v.name, v.kind, got, token)
		}
		s = State{Key: s.Key, Initiator: !v.initiator, Receive: v.seq}
		got, seal, err := newContext(t, s).Unwrap(token)
		if err != nil || seal != v.seal || !bytes.Equal(got, payload) {
			t.Errorf("%s, %v: unwrapped to %x, sealed: %t (%v)", v.name, v.kind, got, seal, err)
		}
	}
}

func TestSignedTokensAreThoseOfGokrb5(t *testing.T) {
	for _, kind := range encTypes {
		k := testKey(t, kind)
		theirs := gssapi.WrapToken{EC: uint16(newTool(k, 1).macSize), SndSeqNum: 7, Payload: []byte("payload")}
		if err := theirs.SetCheckSum(types.EncryptionKey{KeyType: int32(kind), KeyValue: k.Reveal()}, initiatorSeal); err != nil {
			t.Fatal(err)
		}
		want, err := theirs.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if got := newContext(t, State{Key: k, Initiator: true, Send: 7}).Wrap(nil, []byte("payload"), false); !bytes.Equal(got, want) {
			t.Errorf("%v: %x, gokrb5's is %x", kind, got, want)
		}
	}
}

func TestPayloadsOfAnyLengthComeThrough(t *testing.T) {
	for _, kind := range encTypes {
		for _, acceptorKey := range []bool{false, true} {
			client, server := pair(t, kind, acceptorKey)
			for n := range 400 {
				seal, payload := n%3 > 0, fill(byte(n), n/2)
				token := client.Wrap([]byte("before"), payload, seal)
				if len(token) > len("before")+len(payload)+MaxOverhead {
					t.Fatalf("%v: token of %d bytes for %d", kind, len(token), len(payload))
				}
				got, sealed, err := server.Unwrap(token[len("before"):])
				if err != nil || sealed != seal || !bytes.Equal(got, payload) {
					t.Fatalf("%v: %d bytes unwrapped to %x, sealed: %t (%v)", kind, len(payload), got, sealed, err)
				}
				got, sealed, err = client.Unwrap(server.Wrap(nil, payload, seal))
				if err != nil || sealed != seal || !bytes.Equal(got, payload) {
					t.Fatalf("%v: %d bytes unwrapped to %x, sealed: %t (%v)", kind, len(payload), got, sealed, err)
				}
			}
		}
	}
}

// rotate does what senders such as Windows do.
func rotate(token []byte, n int) []byte {
	b := bytes.Clone(token)
	binary.BigEndian.PutUint16(b[6:], uint16(n))
	body := b[headerSize:]
	k := len(body) - n%len(body)
	copy(body, slices.Concat(token[headerSize:][k:], token[headerSize:][:k]))
	return b
}

func TestRotatedTokensAreRead(t *testing.T) {
	for _, kind := range encTypes {
		for _, seal := range []bool{false, true} {
			for n := range 200 {
				client, server := pair(t, kind, false)
				token := rotate(client.Wrap(nil, []byte("payload"), seal), n)
				if got, _, err := server.Unwrap(token); err != nil || string(got) != "payload" {
					t.Fatalf("%v, rotated by %d: %q (%v)", kind, n, got, err)
				}
			}
		}
	}
}

func TestFillerIsTakenOff(t *testing.T) {
	for _, kind := range encTypes {
		for filler := range 20 {
			client, server := pair(t, kind, false)
			header := []byte{5, 4, sealed, 0xff, 0, byte(filler), 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0}
			text := slices.Concat(confounder, []byte("payload"), make([]byte, filler), header)
			token := client.wrapper.seal(slices.Concat(header, text), headerSize)
			if got, _, err := server.Unwrap(token); err != nil || string(got) != "payload" {
				t.Fatalf("%v, %d bytes of filler: %q (%v)", kind, filler, got, err)
			}
		}
		// More of it than there is text.
		client, server := pair(t, kind, false)
		header := []byte{5, 4, sealed, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0}
		token := client.wrapper.seal(slices.Concat(header, confounder, header), headerSize)
		if got, _, err := server.Unwrap(token); !errors.Is(err, ErrToken) {
			t.Fatalf("%v, too much filler: %q (%v)", kind, got, err)
		}
	}
}

func TestNoBitOfATokenMayChange(t *testing.T) {
	for _, kind := range encTypes {
		for _, seal := range []bool{false, true} {
			client, server := pair(t, kind, false)
			whole := client.Wrap(nil, []byte("a payload of some length"), seal)
			for bit := range 8 * len(whole) {
				b := bytes.Clone(whole)
				b[bit/8] ^= 1 << (bit % 8)
				if got, _, err := server.UnwrapDatagram(b); err == nil {
					t.Errorf("%v, sealed: %t, bit %d: unwrapped to %q", kind, seal, bit, got)
				}
			}
			for n := range whole {
				if got, _, err := server.UnwrapDatagram(bytes.Clone(whole[:n])); !errors.Is(err, ErrToken) {
					t.Errorf("%v, sealed: %t, first %d bytes: %q (%v)", kind, seal, n, got, err)
				}
			}
			if _, _, err := server.UnwrapDatagram(append(bytes.Clone(whole), 0)); !errors.Is(err, ErrToken) {
				t.Errorf("%v, sealed: %t, a byte more: %v", kind, seal, err)
			}
			if got, _, err := server.Unwrap(whole); err != nil {
				t.Errorf("%v, sealed: %t: %q (%v)", kind, seal, got, err)
			}
		}
	}
}

func TestOwnTokensDoNotComeBack(t *testing.T) {
	client, server := pair(t, AES256SHA1, false)
	for _, c := range []*Context{client, server} {
		if _, _, err := c.UnwrapDatagram(c.Wrap(nil, []byte("mine"), true)); !errors.Is(err, ErrToken) {
			t.Errorf("unwrapped its own token: %v", err)
		}
	}
}

func TestTokensWithoutTheAcceptorsKeyAreRefused(t *testing.T) {
	client, _ := pair(t, AES256SHA1, false)
	_, server := pair(t, AES256SHA1, true)
	if _, _, err := server.UnwrapDatagram(client.Wrap(nil, []byte("old"), true)); !errors.Is(err, ErrToken) {
		t.Errorf("unwrapped a token of another key: %v", err)
	}
}

func TestStreamsTakeEachTokenOnceAndInOrder(t *testing.T) {
	client, server := pair(t, AES128SHA1, false)
	var tokens [][]byte
	for range 4 {
		tokens = append(tokens, client.Wrap(nil, []byte("payload"), true))
	}
	for _, step := range []struct {
		token int
		want  error
	}{
		{1, ErrSequence}, {0, nil}, {0, ErrSequence}, {2, ErrSequence}, {1, nil}, {0, ErrSequence}, {2, nil}, {3, nil}, {3, ErrSequence},
	} {
		if _, _, err := server.Unwrap(bytes.Clone(tokens[step.token])); !errors.Is(err, step.want) {
			t.Errorf("token %d: %v, want %v", step.token, err, step.want)
		}
	}
}

func TestDatagramsTakeEachTokenOnceInAnyOrder(t *testing.T) {
	client, server := pair(t, AES128SHA1, false)
	var tokens [][]byte
	for range 900 {
		tokens = append(tokens, client.Wrap(nil, []byte("payload"), false))
	}
	order := rand.New(rand.NewPCG(1, 2)).Perm(len(tokens))
	for _, i := range order {
		if _, _, err := server.UnwrapDatagram(bytes.Clone(tokens[i])); err != nil {
			t.Fatalf("token %d: %v", i, err)
		}
	}
	for _, i := range order {
		if _, _, err := server.UnwrapDatagram(tokens[i]); !errors.Is(err, ErrSequence) {
			t.Fatalf("token %d again: %v", i, err)
		}
	}
}

// The window against a plain set of numbers.
func TestWindowTakesEachNumberOnce(t *testing.T) {
	for _, first := range []uint64{0, 1, 1 << 20, 1<<63 - 500, 1<<64 - 700} {
		random := rand.New(rand.NewPCG(3, first))
		w := newWindow(first)
		seen, highest := map[uint64]bool{}, first-1
		for range 20_000 {
			seq := highest + uint64(random.IntN(1500)) - 1300
			if random.IntN(500) == 0 {
				seq = highest + uint64(random.IntN(3*windowSize))
			}
			age := int64(highest - seq) // 0: the highest
			want := !seen[seq] && age < windowSize && int64(seq-first) >= 0
			if got := w.admit(seq); got != want {
				t.Fatalf("number %d with %d the highest: %t, want %t", seq, highest, got, want)
			}
			seen[seq] = seen[seq] || want
			if want && age < 0 {
				highest = seq
			}
		}
	}
}

func TestContextsServeSeveralGoroutines(t *testing.T) {
	client, server := pair(t, AES256SHA2, true)
	tokens := make(chan []byte, 16)
	var senders, receivers sync.WaitGroup
	for range 4 {
		senders.Go(func() {
			for range 200 {
				tokens <- client.Wrap(nil, []byte("payload"), true)
			}
		})
		receivers.Go(func() {
			for token := range tokens {
				if got, _, err := server.UnwrapDatagram(token); err != nil || string(got) != "payload" {
					t.Errorf("%q (%v)", got, err)
				}
			}
		})
	}
	senders.Wait()
	close(tokens)
	receivers.Wait()
}

func TestWrappingAllocatesNothing(t *testing.T) {
	for _, kind := range encTypes {
		client, server := pair(t, kind, true)
		payload, buf := fill(0, 1000), make([]byte, 0, 1000+MaxOverhead)
		for _, seal := range []bool{false, true} {
			n := testing.AllocsPerRun(100, func() {
				if _, _, err := server.Unwrap(client.Wrap(buf, payload, seal)); err != nil {
					t.Fatal(err)
				}
			})
			if n > 0 {
				t.Errorf("%v, sealed: %t: %v allocations", kind, seal, n)
			}
		}
	}
}

func FuzzUnwrap(f *testing.F) {
	for _, v := range vectors {
		f.Add(fromHex(f, v.token), byte(v.kind))
	}
	for _, kind := range encTypes {
		client, _ := pair(f, kind, false)
		f.Add(rotate(client.Wrap(nil, []byte("payload"), true), 28), byte(kind))
	}
	f.Fuzz(func(t *testing.T, token []byte, kind byte) {
		_, server := pair(t, encTypes[int(kind)%len(encTypes)], false)
		size := len(token)
		first, _, err := server.UnwrapDatagram(bytes.Clone(token))
		if len(first) > size {
			t.Fatalf("%d bytes come out of %d", len(first), size)
		}
		if err != nil && !errors.Is(err, ErrToken) && !errors.Is(err, ErrSequence) {
			t.Fatal(err)
		}
		if err == nil {
			if _, _, err := server.UnwrapDatagram(token); !errors.Is(err, ErrSequence) {
				t.Fatalf("the same token again: %v", err)
			}
		}
	})
}

func BenchmarkWrap(b *testing.B) { benchmark(b, true, false) }

func BenchmarkUnwrap(b *testing.B) { benchmark(b, false, true) }

func benchmark(b *testing.B, wrap, unwrap bool) {
	const size = 16 << 10
	for _, kind := range encTypes {
		for _, level := range []string{"signed", "sealed"} {
			b.Run(kind.String()+"/"+level, func(b *testing.B) {
				client, server := pair(b, kind, false)
				payload := fill(0, size)
				var ring, token []byte
				if !wrap {
					ring = client.Wrap(nil, payload, level == "sealed")
					token = make([]byte, len(ring))
				}
				b.SetBytes(size)
				b.ReportAllocs()
				for b.Loop() {
					if wrap {
						token = client.Wrap(token[:0], payload, level == "sealed")
					}
					if unwrap {
						copy(token, ring)
						server.window = newWindow(0x1000)
						if _, _, err := server.Unwrap(token); err != nil {
							b.Fatal(err)
						}
					}
				}
			})
		}
	}
}
