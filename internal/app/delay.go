package app

import (
	"context"
	"math/rand/v2"
	"time"
)

// The delays between two attempts.
const (
	firstDelay = time.Second
	lastDelay  = 30 * time.Second
)

// Delay is the time between attempts at something that may come right by itself: it doubles
// from one second to thirty. Its zero value is ready. It is not safe for concurrent
// use.
type Delay struct{ last time.Duration }

// Next returns the next delay, up to a half shorter or longer than its place in the row says, so that
// what failed together does not come back together.
func (d *Delay) Next() time.Duration {
	d.last = min(max(2*d.last, firstDelay), lastDelay)
	return d.last/2 + rand.N(d.last) //nolint:gosec // G404: jitter, not a secret
}

// NextAfter is Next after an attempt that began at begin. One that lasted for long succeeded for
// a while: the row begins anew.
func (d *Delay) NextAfter(begin time.Time) time.Duration {
	if time.Since(begin) > 2*lastDelay {
		d.last = 0
	}
	return d.Next()
}

// Wait waits for d and returns true, or false if ctx ends before.
func Wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
