//go:build !unix

package relay

type rawReader struct{}

// newRawReader gives nil: the reader falls back on Read with a buffer at hand.
func newRawReader(Conn) *rawReader { return nil }

func (*rawReader) next(**[]byte) ([]byte, error) { panic("unreachable") }
func (*rawReader) wait()                         { panic("unreachable") }

type rawWriter struct{}

// newRawWriter gives nil: everything goes through Write.
func newRawWriter(Conn) *rawWriter { return nil }

func (*rawWriter) write([]byte) (int, error) { panic("unreachable") }
