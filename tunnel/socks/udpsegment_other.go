//go:build unix && !linux

package socks

import (
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/net/ipv4"
)

// packetsOf gives what reads and writes a socket's packets.
func packetsOf(c *net.UDPConn, raw syscall.RawConn, local netip.Addr) packets {
	return newNetPackets(c, raw, local)
}

func segments(syscall.RawConn, netip.Addr) bool { return false }

func join(messages []ipv4.Message) []ipv4.Message { return messages }
