//go:build !linux

package transform

import "time"

// threadTime is the time on the clock: this system does not tell a thread's own.
func threadTime() time.Duration { return wallTime() }
