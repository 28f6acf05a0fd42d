package stream

import (
	"context"
	"math"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// Limiter paces streams together, both directions counted. Its rate may be changed
// while they run. All methods are safe for concurrent use.
type Limiter struct {
	bucket *rate.Limiter
	on     atomic.Bool
}

// What may pass at once is a quarter of a second's worth, within these bounds: a
// slow rate keeps to its average, a fast one to few waits.
const (
	minBurst = 4 << 10
	maxBurst = 256 << 10
)

// NewLimiter returns a limiter at a rate in bytes per second; 0 does not limit.
func NewLimiter(bytesPerSecond int64) *Limiter {
	l := &Limiter{bucket: rate.NewLimiter(rate.Inf, maxBurst)}
	l.Set(bytesPerSecond)
	return l
}

// Set changes the rate, in bytes per second; 0 lifts the limit. Who waits at this
// moment goes on waiting at the old rate, for a quarter of a second's worth at most.
func (l *Limiter) Set(bytesPerSecond int64) {
	l.on.Store(bytesPerSecond > 0)
	if bytesPerSecond <= 0 {
		l.bucket.SetLimit(rate.Inf)
		return
	}
	l.bucket.SetBurst(int(min(max(bytesPerSecond/4, minBurst), maxBurst)))
	l.bucket.SetLimit(rate.Limit(bytesPerSecond))
}

// Rate is the rate in bytes per second, 0 without a limit.
func (l *Limiter) Rate() int64 {
	if r := l.bucket.Limit(); r != rate.Inf && float64(r) < math.MaxInt64 {
		return int64(r)
	}
	return 0
}

// Wait waits until n bytes may pass. It returns early with an error when ctx ends.
func (l *Limiter) Wait(ctx context.Context, n int) error {
	for n > 0 && l.on.Load() {
		part := min(n, l.bucket.Burst())
		if err := l.bucket.WaitN(ctx, part); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			// The wait would outlast ctx's deadline: wait for that.
			return pause(ctx, time.Hour)
		}
		n -= part
	}
	return nil
}
