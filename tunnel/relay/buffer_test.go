package relay

import "testing"

func TestBuffersGetSmallerWhenManyAreInUse(t *testing.T) {
	var p pool
	var taken []*[]byte
	for i := range 2 * maxLarge {
		b := p.get()
		if large := len(*b) == largeBuffer; large != (i < maxLarge) {
			t.Errorf("buffer %d has %d bytes", i+1, len(*b))
		}
		taken = append(taken, b)
	}
	p.put(&taken[len(taken)-1]) // a small one makes no room
	if b := p.get(); len(*b) != smallBuffer {
		t.Errorf("one more has %d bytes", len(*b))
	}
	p.put(&taken[0])
	p.put(&taken[0]) // there is none any more
	if b := p.get(); len(*b) != largeBuffer {
		t.Errorf("in place of a large one: %d bytes", len(*b))
	}
	if b := p.get(); len(*b) != smallBuffer {
		t.Errorf("one more has %d bytes", len(*b))
	}
}
