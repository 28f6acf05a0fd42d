package app

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/dr-syncer/dr-syncer/telemetry"
)

// The delays between two rounds of a Restarting unit.
const (
	firstDelay = time.Second
	lastDelay  = 30 * time.Second
)

// Restarting makes one unit of several, so that their failure does not end what
// was started before them: they are stopped, made anew by build and started
// again, after a delay that grows while they keep failing. A failure before they were
// all ready for the first time ends the unit, since nothing shows that the
// configuration can work.
func Restarting(name string, log *slog.Logger, build func() []Unit) Unit {
	return Unit{Name: name, Run: func(ctx context.Context, ready func()) error {
		worked := false
		for delay := firstDelay; ; delay = min(2*delay, lastDelay) {
			begin := time.Now()
			err := supervise(ctx, log, func(u *Unit) {
				if u == nil {
					worked = true
					ready()
				}
			}, build())
			if ctx.Err() != nil || !worked {
				return err
			}
			if time.Since(begin) > 2*lastDelay {
				delay = firstDelay
			}
			wait := delay/2 + rand.N(delay) //nolint:gosec // G404: jitter, not a secret
			log.ErrorContext(ctx, "starting over", telemetry.KeyUnit, name, telemetry.KeyError, err, telemetry.KeyDuration, wait)
			select {
			case <-time.After(wait):
			case <-ctx.Done():
				return nil
			}
		}
	}}
}
