//go:build !linux

package ipsec

import (
	"context"
	"errors"
	"sync"
	"syscall"
	"time"
)

// hold is nothing.
type hold struct{}

func (hold) tie(syscall.RawConn) error { return errors.ErrUnsupported }
func (hold) by() uint32                { return 0 }

// markOf: there are no marks.
func markOf(syscall.RawConn) uint32 { return 0 }

// setSegment is not needed, as nothing is known of what fits.
func setSegment(uintptr, int) error { return errors.ErrUnsupported }

// ageOf: what began before the statement is as good as what began after it.
func ageOf(syscall.RawConn) (age time.Duration, ok bool) { return 0, false }

// sources are none.
type sources struct{}

func (v *View) look(context.Context, Path) (sight, error) {
	return sight{Protection: Protection{Reason: "IPsec cannot be seen on this system, only stated"}}, nil
}

// listen starts nothing, as nothing changes.
func (d *Detector) listen(context.Context, *sync.WaitGroup, func()) bool { return true }

// bare: nothing can be seen.
func (v *View) bare() bool { return true }
