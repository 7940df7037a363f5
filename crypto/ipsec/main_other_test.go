//go:build !linux

package ipsec

func moveIn() {}
