package server

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"time"

	"github.com/adit-net/adit/tunnel/socks"
)

const (
	// namesIdle is how long a connection to the name service may ask for nothing.
	namesIdle = 2 * time.Minute

	// maxNameQueries is how many queries of one connection are answered at once. More
	// wait, and so does whoever sends them.
	maxNameQueries = 8
)

// isNameService tells the target that is the exit's own name service (SOCKS 6): DNS
// over TCP at port 53 of the zero address.
func isNameService(dst socks.Addr) bool {
	return dst.Port == 53 && dst.IP.IsValid() && dst.IP.Unmap().IsUnspecified()
}

// nameConn is a connection to the name service, from the side of who asks. It is a
// [relay.Conn].
type nameConn struct {
	net.Conn // answers
	queries  net.Conn
	cancel   context.CancelFunc
	served   sync.WaitGroup
}

// newNameConn connects to a name service that exchanges a query for an answer, and
// that has been asked some already. It has to be closed.
func newNameConn(ctx context.Context, asked []byte, exchange func(ctx context.Context, query []byte) ([]byte, error)) *nameConn {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	answers, answering := net.Pipe()
	queries, asking := net.Pipe()
	c := &nameConn{Conn: answers, queries: queries, cancel: cancel}
	s := names{
		asking:    asking,
		in:        io.MultiReader(bytes.NewReader(asked), asking),
		answering: answering,
		exchange:  exchange,
		free:      make(chan struct{}, maxNameQueries),
	}
	c.served.Go(func() { s.serve(ctx) })
	return c
}

func (c *nameConn) Write(b []byte) (int, error) { return c.queries.Write(b) }

// CloseWrite says that there are no more queries.
func (c *nameConn) CloseWrite() error { return c.queries.Close() }

// Close gives up what has not been answered.
func (c *nameConn) Close() error {
	c.cancel()
	c.queries.Close()
	c.Conn.Close()
	c.served.Wait()
	return nil
}

// Reset is Close: nobody is on the other side who could see the difference.
func (c *nameConn) Reset() error { return c.Close() }

func (c *nameConn) SetWriteDeadline(t time.Time) error { return c.queries.SetWriteDeadline(t) }

func (c *nameConn) SetDeadline(t time.Time) error {
	c.SetWriteDeadline(t)
	return c.SetReadDeadline(t)
}

// names is the other side of a [nameConn].
type names struct {
	asking   net.Conn
	in       io.Reader // what has been asked already, and then asking
	exchange func(ctx context.Context, query []byte) ([]byte, error)
	free     chan struct{} // holds an item for each query under way

	mu        sync.Mutex // one answer at a time
	answering net.Conn
}

// serve answers queries in the order in which the answers come (RFC 7766 section
// 6.2.1.1), until there are no more or one is none.
func (s *names) serve(ctx context.Context) {
	defer s.answering.Close()
	defer s.asking.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var answers sync.WaitGroup
	defer answers.Wait()
	for {
		query, err := s.next()
		if err != nil {
			return
		}
		s.free <- struct{}{} // an answer ends with ctx, or when it is read or never will be
		answers.Go(func() {
			defer func() { <-s.free }()
			if s.answer(ctx, query) != nil {
				cancel()
				s.asking.Close()
			}
		})
	}
}

// next reads one query (RFC 1035 section 4.2.2).
func (s *names) next() ([]byte, error) {
	s.asking.SetReadDeadline(time.Now().Add(namesIdle))
	var size [2]byte
	if _, err := io.ReadFull(s.in, size[:]); err != nil {
		return nil, err
	}
	query := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err := io.ReadFull(s.in, query)
	return query, err
}

func (s *names) answer(ctx context.Context, query []byte) error {
	answer, err := s.exchange(ctx, query)
	if err != nil {
		return err
	}
	b := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(answer)), uint16(len(answer)))
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err = s.answering.Write(append(b, answer...))
	return err
}
