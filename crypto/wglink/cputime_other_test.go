//go:build !unix

package wglink

import "time"

func processorTime() time.Duration { return 0 }
