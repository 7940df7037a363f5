package relay

// Pacer makes the bytes of a conn wait for their turn. Its methods return an error soon
// after the conn was closed or reset, and are called by one goroutine at a time each.
type Pacer interface {
	// PaceRead waits until some of n bytes that the conn gave may be passed on, and
	// tells how many.
	PaceRead(n int) (int, error)

	// PaceWrite waits until some of n bytes may be written to the conn, and tells how
	// many.
	PaceWrite(n int) (int, error)
}

// Follower is a [Pacer] that wants to know when what it has let pass is gone.
type Follower interface {
	Pacer

	// Passed tells that what PaceRead let pass has been written to the other conn. [Copy]
	// calls it, but not after an error.
	Passed()
}

// Opener is a [Pacer] that can tell when nothing has to wait, so that [Copy] may write without
// asking.
type Opener interface {
	Pacer

	// Open tells whether PaceWrite would let anything pass at once. It does not wait.
	Open() bool
}

// Paced gives a conn whose bytes wait for p. [Copy] has them wait outside of Read and
// Write, so that it reads sockets as always; a Read or Write by anybody else returns when
// all its bytes have had their turn, and no deadline ends this.
func Paced(c Conn, p Pacer) Conn { return &paced{c, p} }

type paced struct {
	Conn
	pacer Pacer
}

func (c *paced) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	for left := n; left > 0; {
		k, paceErr := c.pacer.PaceRead(left)
		if paceErr != nil {
			return 0, paceErr
		}
		left -= k
	}
	return n, err
}

func (c *paced) Write(b []byte) (n int, err error) {
	for n < len(b) {
		k, err := c.pacer.PaceWrite(len(b) - n)
		if err != nil {
			return n, err
		}
		k, err = c.Conn.Write(b[n : n+k])
		n += k
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// Fail is Reset for a reason.
func (c *paced) Fail(reason error) { Fail(c.Conn, reason) }

// pace waits until some of n bytes from src may go to dst.
func pace(dst, src *end, n int) (int, error) {
	if src.pacer != nil {
		k, err := src.pacer.PaceRead(n)
		if err != nil {
			return 0, err
		}
		n = k
	}
	if dst.pacer != nil {
		return dst.pacer.PaceWrite(n)
	}
	return n, nil
}
