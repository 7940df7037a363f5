//go:build !linux

package ipsec

import (
	"context"
	"sync"
)

func (d *Detector) look(context.Context, Path) (sight, error) {
	return sight{Protection: Protection{Reason: "IPsec cannot be seen on this system, only stated"}}, nil
}

// listen starts nothing, as nothing changes.
func (d *Detector) listen(context.Context, *sync.WaitGroup, func()) bool { return true }
