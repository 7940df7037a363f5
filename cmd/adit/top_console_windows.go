package main

import "golang.org/x/sys/windows"

// showEscapes has the console act on escape sequences.
func showEscapes() (undo func()) {
	var mode uint32
	out := windows.Handle(windows.Stdout)
	if windows.GetConsoleMode(out, &mode) != nil || windows.SetConsoleMode(out, mode|windows.ENABLE_VIRTUAL_TERMINAL_PROCESSING) != nil {
		return func() {}
	}
	return func() { _ = windows.SetConsoleMode(out, mode) } // it was possible before
}
