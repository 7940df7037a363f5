package wglink

import (
	"context"
	"encoding/binary"
	"io"
	"net/netip"
	"slices"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

const (
	dnsHeader = 12 // RFC 1035 section 4.1.1

	// dnsIdle is how long a connection may rest between two messages (RFC 7766
	// section 6.2.3), and how long the guest may take to take an answer.
	dnsIdle = 30 * time.Second
)

// resolve answers a DNS message that has come in a datagram.
func (h *hall) resolve(v *visitor, source, target netip.AddrPort, message []byte) {
	if len(message) < dnsHeader || !v.ask() {
		return
	}
	q := Query{Flow: v.flow(source, target), Message: slices.Clone(message)}
	go func() {
		defer v.answered()
		answer := h.answerDNS(v.ctx, q)
		if len(answer) <= maxPayload {
			h.transmit(header.UDPProtocolNumber, target.Addr(), source.Addr(), udpMessage(target, source, answer))
		}
	}()
}

// serveDNS answers the DNS messages of a connection, one after the other, until
// there is no room for one. Each has its length before it (RFC 1035 section 4.2.2).
func (h *hall) serveDNS(c *Call, conn Conn) {
	defer context.AfterFunc(c.ctx, func() { _ = conn.Reset() })() // it may rest for long
	var size [2]byte
	for {
		_ = conn.SetDeadline(time.Now().Add(dnsIdle)) // it has no error
		if _, err := io.ReadFull(conn, size[:]); err != nil {
			break
		}
		message := make([]byte, binary.BigEndian.Uint16(size[:]))
		if len(message) < dnsHeader {
			break
		}
		if _, err := io.ReadFull(conn, message); err != nil {
			break
		}
		if !c.visitor.ask() {
			break
		}
		answer := h.answerDNS(c.ctx, Query{Flow: c.Flow, Message: message, TCP: true})
		c.visitor.answered()
		if len(answer) > maxDatagram {
			break
		}
		_ = conn.SetDeadline(time.Now().Add(dnsIdle))
		if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...)); err != nil {
			break
		}
	}
	_ = conn.Close() // it has no error
}

// answerDNS gives the host's answer, or SERVFAIL.
func (h *hall) answerDNS(ctx context.Context, q Query) []byte {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	answer, err := h.host.Resolve(ctx, q)
	if err == nil {
		return answer
	}
	answer = slices.Clone(q.Message)
	answer[2] = answer[2]&^0x06 | 0x80 // it is an answer, not an authority's, and whole
	answer[3] = 2                      // SERVFAIL
	return answer
}
