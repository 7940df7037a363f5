//go:build !linux

package ipsec

import "context"

func (d *Detector) look(context.Context, Path) (sight, error) {
	return sight{Protection: Protection{Reason: "IPsec cannot be seen on this system, only stated"}}, nil
}
