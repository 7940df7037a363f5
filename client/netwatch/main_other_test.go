//go:build !linux

package netwatch

func moveIn() {}
