package pipeline

import (
	"math/rand/v2"
	"time"
)

// Jittered is d, give or take a fifth: what waits equally long does not come back all at once.
func Jittered(d time.Duration) time.Duration {
	spread := 2 * d / 5
	if spread <= 0 {
		return d
	}
	return d - spread/2 + rand.N(spread) //nolint:gosec // G404: jitter, not a secret
}
