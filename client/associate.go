package client

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/adit-net/adit/tunnel/socks"
	"github.com/adit-net/adit/tunnel/udp"
)

// Associate asks the server to open a port for datagrams. They neither wait for streams
// nor make them wait. While there is no carrier they are lost; the association goes on, and ends
// with the session.
func (c *Client) Associate(ctx context.Context, r socks.Request, in socks.Inbox) (socks.Association, socks.Reply, error) {
	a, reply, err := c.associate(ctx, r, in)
	if err != nil {
		return nil, socks.Reply{Code: socks.CodeOf(err)}, fmt.Errorf("associate: %w", err)
	}
	return a, reply, nil
}

func (c *Client) associate(ctx context.Context, r socks.Request, in socks.Inbox) (*association, socks.Reply, error) {
	wanted := socks.Addr{IP: netip.IPv4Unspecified()}
	if r.Dialect == socks.SOCKS6 { // others say where the app sends from
		wanted.Port = r.Dst.Port
	}
	g, err := c.request(ctx, r.User, &socks.Request6{
		Command: socks.Associate,
		Dst:     wanted,
		Options: socks.Options6{Stack: r.Stack},
	})
	if err != nil {
		return nil, socks.Reply{}, err
	}
	a := &association{far: g.lane.associations.Associate(g.stream), done: make(chan struct{})}
	if err := a.far.Open(in); err != nil {
		a.far.Close()
		return nil, socks.Reply{}, &socks.Error{Code: socks.GeneralFailure, Err: err}
	}
	go a.wait()
	return a, g.reply, nil
}

// association is a port for datagrams at the exit.
type association struct {
	far  *udp.Association
	done chan struct{} // closed when wait has ended
}

func (a *association) wait() {
	defer close(a.done)
	a.far.Wait()
}

// Send sends datagrams to the exit, which sends them on.
func (a *association) Send(batch []socks.Datagram) { a.far.Deliver(batch) }

// Done is closed when the server has ended the association, or its session is lost.
func (a *association) Done() <-chan struct{} { return a.done }

// Close ends the association.
func (a *association) Close() error {
	err := a.far.Close()
	<-a.done
	return err
}
