//go:build !windows

package main

// showEscapes has the terminal act on escape sequences, which it does by itself.
func showEscapes() (undo func()) { return func() {} }
