//go:build !linux

package netwatch

import (
	"errors"
	"os"
)

func subscribeToClock() (*os.File, error) { return nil, errors.ErrUnsupported }
