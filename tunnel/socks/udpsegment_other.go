//go:build unix && !linux

package socks

import (
	"net"
	"net/netip"

	"golang.org/x/net/ipv4"
)

func segments(*net.UDPConn, netip.Addr) bool { return false }

func join(messages []ipv4.Message) []ipv4.Message { return messages }
