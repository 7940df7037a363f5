//go:build !linux

package main

import "net"

// inheritKeepAlive leaves TCP's keep-alive to each connection.
func inheritKeepAlive(*net.ListenConfig) {}
