//go:build !linux

package socks

func playRole() {}
