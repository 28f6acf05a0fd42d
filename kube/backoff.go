package kube

import (
	"time"

	"github.com/cenkalti/backoff/v4"
)

// newBackOff waits 100 ms after a first failure and up to 15 s, half of it by chance.
func newBackOff() *backoff.ExponentialBackOff {
	return backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(100*time.Millisecond),
		backoff.WithMultiplier(2),
		backoff.WithRandomizationFactor(0.5),
		backoff.WithMaxInterval(15*time.Second),
		backoff.WithMaxElapsedTime(0),
	)
}
