package cfx

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jcmturner/gokrb5/v8/crypto"
)

var encTypes = []EncType{AES128SHA1, AES256SHA1, AES128SHA2, AES256SHA2}

// testKey is 00 01 02 and so on.
func testKey(t testing.TB, kind EncType) Key {
	t.Helper()
	value := make([]byte, kind.keySize())
	for i := range value {
		value[i] = byte(i)
	}
	k, err := NewKey(kind, value)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func fromHex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// RFC 3961 appendix A.1.
func TestFoldIsThatOfRFC3961(t *testing.T) {
	for _, v := range []struct{ in, out string }{
		{"012345", "be072631276b1955"},
		{"password", "78a07b6caf85fa"},
		{"Rough Consensus, and Running Code", "bb6ed30870b7f0e0"},
		{"password", "59e4a8ca7c0385c3c37b3f6d2000247cb6e6bd5b3e"},
		{"MASSACHVSETTS INSTITVTE OF TECHNOLOGY", "db3b0d8f0b061e603282b308a50841229ad798fab9540c1b"},
		{"Q", "518a54a215a8452a518a54a215a8452a518a54a215"},
		{"ba", "fb25d531ae8974499f52fd92ea9857c4ba24cf297e"},
		{"kerberos", "6b65726265726f737b9b5b2b93132b93"},
	} {
		want := fromHex(t, v.out)
		if got := fold([]byte(v.in), len(want)); !bytes.Equal(got, want) {
			t.Errorf("fold(%q, %d) is %x, want %x", v.in, len(want), got, want)
		}
	}
}

// RFC 8009 appendix A, the keys of usage 2.
func TestKeysOfRFC8009AreDerived(t *testing.T) {
	for _, v := range []struct {
		kind    EncType
		base    string
		purpose byte
		want    string
	}{
		{AES128SHA2, "3705D96080C17728A0E800EAB6E0D23C", forChecksum, "B31A018A48F54776F403E9A396325DC3"},
		{AES128SHA2, "3705D96080C17728A0E800EAB6E0D23C", forEncryption, "9B197DD1E8C5609D6E67C3E37C62C72E"},
		{AES128SHA2, "3705D96080C17728A0E800EAB6E0D23C", forIntegrity, "9FDA0E56AB2D85E1569A688696C26A6C"},
		{AES256SHA2, "6D404D37FAF79F9DF0D33568D320669800EB4836472EA8A026D16B7182460C52", forChecksum, "EF5718BE86CC84963D8BBB5031E9F5C4BA41F28FAF69E73D"},
		{AES256SHA2, "6D404D37FAF79F9DF0D33568D320669800EB4836472EA8A026D16B7182460C52", forEncryption, "56AB22BEE63D82D7BC5227F6773F8EA7A5EB1C825160C38312980C442E5C7E49"},
		{AES256SHA2, "6D404D37FAF79F9DF0D33568D320669800EB4836472EA8A026D16B7182460C52", forIntegrity, "69B16514E3CD8E56B82010D5C73012B622C4D00FFC23ED1F"},
	} {
		k, err := NewKey(v.kind, fromHex(t, v.base))
		if err != nil {
			t.Fatal(err)
		}
		if got := k.derive(2, v.purpose); !bytes.Equal(got, fromHex(t, v.want)) {
			t.Errorf("%v, purpose %#x: %X, want %s", v.kind, v.purpose, got, v.want)
		}
	}
}

// RFC 3962 appendix B.
func TestCiphertextStealingIsThatOfRFC3962(t *testing.T) {
	const text = "I would like the General Gau's Chicken, please, and wonton soup."
	k, err := NewKey(AES128SHA1, []byte("chicken teriyaki"))
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []struct {
		size int
		want string
	}{
		{17, "c6353568f2bf8cb4d8a580362da7ff7f97"},
		{31, "fc00783e0efdb2c1d445d4c8eff7ed2297687268d6ecccc0c07b25e25ecfe5"},
		{32, "39312523a78662d5be7fcbcc98ebf5a897687268d6ecccc0c07b25e25ecfe584"},
		{47, "97687268d6ecccc0c07b25e25ecfe584b3fffd940c16a18c1b5549d2f838029e39312523a78662d5be7fcbcc98ebf5"},
		{48, "97687268d6ecccc0c07b25e25ecfe5849dad8bbb96c4cdc03bc103e1a194bbd839312523a78662d5be7fcbcc98ebf5a8"},
		{64, "97687268d6ecccc0c07b25e25ecfe58439312523a78662d5be7fcbcc98ebf5a84807efe836ee89a526730dbc2f7bc8409dad8bbb96c4cdc03bc103e1a194bbd8"},
	} {
		tool := toolWith(t, k.Reveal())
		b := []byte(text[:v.size])
		tool.scramble(b)
		if !bytes.Equal(b, fromHex(t, v.want)) {
			t.Errorf("%d bytes: %x, want %s", v.size, b, v.want)
		}
		if tool.unscramble(b); string(b) != text[:v.size] {
			t.Errorf("%d bytes become %q", v.size, b)
		}
	}
}

// The same messages as another implementation makes.
func TestKeysDoWhatGokrb5Does(t *testing.T) {
	for _, kind := range encTypes {
		k := testKey(t, kind)
		other, err := crypto.GetEtype(int32(kind))
		if err != nil {
			t.Fatal(err)
		}
		for size := range 100 {
			text := bytes.Repeat([]byte{byte(size)}, size)
			got, err := other.DecryptMessage(k.Reveal(), k.Encrypt(11, text), 11)
			if err != nil || !bytes.Equal(got, text) {
				t.Fatalf("%v, %d bytes: gokrb5 decrypts to %x (%v)", kind, size, got, err)
			}
			_, theirs, err := other.EncryptMessage(k.Reveal(), text, 2)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := k.Decrypt(2, theirs); err != nil || !bytes.Equal(got, text) {
				t.Fatalf("%v, %d bytes: gokrb5's are decrypted to %x (%v)", kind, size, got, err)
			}
			sum, err := other.GetChecksumHash(k.Reveal(), text, 22)
			if err != nil {
				t.Fatal(err)
			}
			tool := newTool(k, 22)
			if got := tool.mac(tool.checksum, text, nil); !bytes.Equal(got, sum) {
				t.Fatalf("%v, %d bytes: checksum %x, gokrb5's is %x", kind, size, got, sum)
			}
		}
	}
}

func TestDecryptRefusesWhatWasNotEncryptedForIt(t *testing.T) {
	for _, kind := range encTypes {
		k := testKey(t, kind)
		whole := k.Encrypt(2, []byte("a ticket"))
		if _, err := k.Decrypt(11, bytes.Clone(whole)); !errors.Is(err, ErrToken) {
			t.Errorf("%v: for another use: %v", kind, err)
		}
		if _, err := k.Fresh().Decrypt(2, bytes.Clone(whole)); !errors.Is(err, ErrToken) {
			t.Errorf("%v: with another key: %v", kind, err)
		}
		for n := range whole {
			if _, err := k.Decrypt(2, bytes.Clone(whole[:n])); !errors.Is(err, ErrToken) {
				t.Errorf("%v: the first %d bytes: %v", kind, n, err)
			}
			b := bytes.Clone(whole)
			b[n] ^= 0x10
			if _, err := k.Decrypt(2, b); !errors.Is(err, ErrToken) {
				t.Errorf("%v: byte %d changed: %v", kind, n, err)
			}
		}
	}
}

func TestWeakEncryptionTypesAreRefused(t *testing.T) {
	for _, kind := range []EncType{0, 1, 2, 3, 5, 7, 16, 21, 23, 24, -128} {
		for _, size := range []int{0, 8, 16, 24, 32} {
			if _, err := NewKey(kind, make([]byte, size)); !errors.Is(err, ErrEncType) {
				t.Errorf("type %d with %d bytes: %v", kind, size, err)
			}
		}
	}
}

func TestKeysOfTheWrongLengthAreRefused(t *testing.T) {
	for _, kind := range encTypes {
		for size := range 64 {
			if _, err := NewKey(kind, make([]byte, size)); (err == nil) != (size == kind.keySize()) {
				t.Errorf("%v with %d bytes: %v", kind, size, err)
			}
		}
	}
}

func TestKeysDoNotShowTheirValues(t *testing.T) {
	k := testKey(t, AES256SHA1)
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%x", "%q"} {
		for _, shown := range []string{
			fmt.Sprintf(format, k), fmt.Sprintf(format, &k), fmt.Sprintf(format, State{Key: k}), k.LogValue().String(),
		} {
			if strings.Contains(shown, "010203") || strings.Contains(shown, "1 2 3") || strings.Contains(shown, "0x1, 0x2") {
				t.Errorf("%s shows %s", format, shown)
			}
		}
	}
}
