//go:build !linux

package main

import "context"

// There is no systemd here.

func notify(string) error { return nil }

func notifyReloading() error { return nil }

func notifySuccessor(int) error { return nil }

func watchdog(context.Context) error { return nil }
