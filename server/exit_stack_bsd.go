//go:build unix && !linux

package server

import "errors"

func setNoFragment(int, bool, bool) error { return errors.ErrUnsupported }

func getNoFragment(int, bool) (int, error) { return 0, errors.ErrUnsupported }
