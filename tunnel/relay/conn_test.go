package relay

import (
	"io"
	"testing"
)

func TestWhatIsLeftOpenIsResetAndWhatIsClosedEnds(t *testing.T) {
	near, far := tcpPair(t)
	TCP(near)
	near.Close() // as the kernel does when a process dies
	expectReset(t, far)

	near, far = tcpPair(t)
	c := TCP(near)
	if _, err := io.WriteString(c, "hello"); err != nil {
		t.Fatal(err)
	}
	c.Close()
	if b, err := io.ReadAll(far); err != nil || string(b) != "hello" {
		t.Errorf("closed: %q, %v", b, err)
	}

	near, far = tcpPair(t)
	if err := TCP(near).Reset(); err != nil {
		t.Fatal(err)
	}
	expectReset(t, far)
}
