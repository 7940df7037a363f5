//go:build !linux

package resume

// yieldProcessor does nothing: other systems take a processor away soon enough.
func yieldProcessor() {}
