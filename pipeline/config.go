package pipeline

import (
	"errors"
	"fmt"
	"time"
)

// PumpConfig sets the size and patience of a Pump.
type PumpConfig struct {
	// Owner names the Replication (namespace/name) in dead letters, spans and metrics.
	Owner string
	// Workers is how many records are applied at once. At most half of them are
	// busy with retries.
	Workers int
	// MaxPending is the most records held; at most half of them may be retrying.
	MaxPending int
	// MaxPendingBytes bounds the bodies held, retrying ones to half of it. It may be
	// exceeded by one record, so that any record passes.
	MaxPendingBytes int64
	// Attempts is how often a record is tried before it is parked.
	Attempts int
	// InitialDelay is the mean wait before the second attempt. It doubles with each
	// one more; no wait is longer than MaxDelay.
	InitialDelay, MaxDelay time.Duration
	// AttemptTimeout bounds one attempt.
	AttemptTimeout time.Duration
	// Pace is the least time between two changes of one object: what comes sooner
	// waits, and is superseded by what comes after it. 0 paces nothing.
	Pace time.Duration
	// ExtendEvery is how often unsettled deliveries are extended.
	ExtendEvery time.Duration
	// Observer, if not nil, is told of every record the pump is done with.
	Observer Observer
}

// DefaultPumpConfig returns settings that suit one Replication: some two
// minutes of patience, 64 MiB of bodies.
func DefaultPumpConfig() PumpConfig {
	return PumpConfig{
		Workers:         16,
		MaxPending:      5000,
		MaxPendingBytes: 64 << 20,
		Attempts:        12,
		InitialDelay:    200 * time.Millisecond,
		MaxDelay:        30 * time.Second,
		AttemptTimeout:  30 * time.Second,
		Pace:            100 * time.Millisecond,
		ExtendEvery:     20 * time.Second,
	}
}

// withDefaults replaces what is not positive.
func (c PumpConfig) withDefaults() PumpConfig {
	d := DefaultPumpConfig()
	if c.Workers <= 0 {
		c.Workers = d.Workers
	}
	if c.MaxPending <= 0 {
		c.MaxPending = d.MaxPending
	}
	if c.MaxPendingBytes <= 0 {
		c.MaxPendingBytes = d.MaxPendingBytes
	}
	if c.Attempts <= 0 {
		c.Attempts = d.Attempts
	}
	if c.InitialDelay <= 0 {
		c.InitialDelay = d.InitialDelay
	}
	if c.MaxDelay <= 0 {
		c.MaxDelay = d.MaxDelay
	}
	if c.AttemptTimeout <= 0 {
		c.AttemptTimeout = d.AttemptTimeout
	}
	if c.ExtendEvery <= 0 {
		c.ExtendEvery = d.ExtendEvery
	}
	return c
}

// Validate names everything that is wrong with the settings.
func (c PumpConfig) Validate() error {
	var errs []error
	positive := func(ok bool, what string) {
		if !ok {
			errs = append(errs, fmt.Errorf("%s must be positive", what))
		}
	}
	positive(c.Workers > 0, "workers")
	positive(c.MaxPending > 0, "pending records")
	positive(c.MaxPendingBytes > 0, "pending bytes")
	positive(c.Attempts > 0, "attempts")
	positive(c.InitialDelay > 0, "initial delay")
	positive(c.MaxDelay > 0, "maximum delay")
	positive(c.AttemptTimeout > 0, "attempt timeout")
	positive(c.ExtendEvery > 0, "extension interval")
	if c.InitialDelay > c.MaxDelay {
		errs = append(errs, fmt.Errorf("initial delay %s is above the maximum delay %s", c.InitialDelay, c.MaxDelay))
	}
	return errors.Join(errs...)
}
