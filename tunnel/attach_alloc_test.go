package tunnel

import (
	"crypto/ed25519"
	"crypto/rand"
	"testing"
)

// TestStrangersOpeningTakesNoMemory judges openings that nobody has signed.
func TestStrangersOpeningTakesNoMemory(t *testing.T) {
	b := make([]byte, OpeningSize)
	rand.Read(b)
	key, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	// The library makes an error of what it does not like.
	verify := testing.AllocsPerRun(100, func() { ed25519.Verify(key, b, b[signatureAt:]) })
	for name, change := range map[string]func(){
		"noise":           func() {},
		"wrong signature": func() { b[0], b[1], b[2], b[3] = Version, kindHello, 0, 0; copy(b[4:], key) },
		"too short":       func() { b = b[:OpeningSize-1] },
	} {
		change()
		allocs := testing.AllocsPerRun(100, func() {
			if _, err := OpenAt(b, Place{}); err == nil {
				t.Fatal("it was taken")
			}
		})
		if allocs > verify {
			t.Errorf("%s: %v allocations", name, allocs)
		}
	}
}
