// Package wglink carries sessions over WireGuard, on both ends in user space:
// neither end needs root, a TUN device or a route.
package wglink
