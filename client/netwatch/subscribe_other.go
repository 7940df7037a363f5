//go:build !linux && !darwin && !freebsd

package netwatch

import (
	"errors"
	"os"
)

func subscribe() (notices *os.File, look func(*fingerprint) error, err error) {
	return nil, nil, errors.ErrUnsupported
}
