//go:build !unix

package resume

// glanceAtNetwork does nothing here: what has come is found later.
func glanceAtNetwork() {}
