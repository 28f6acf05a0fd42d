package app

import (
	"context"
	"log/slog"
	"time"

	"github.com/dr-syncer/dr-syncer/telemetry"
)

// Restarting makes one unit of several, so that their failure does not end what
// was started before them: they are stopped, made anew by build and started
// again, after a delay that grows while they keep failing. A failure before they were
// all ready for the first time ends the unit, since nothing shows that the
// configuration can work.
func Restarting(name string, log *slog.Logger, build func() []Unit) Unit {
	return Unit{Name: name, Run: func(ctx context.Context, ready func()) error {
		worked := false
		var delay Delay
		for {
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
			wait := delay.NextAfter(begin)
			log.ErrorContext(ctx, "starting over", telemetry.KeyUnit, name, telemetry.KeyError, err, telemetry.KeyDuration, wait)
			if !Wait(ctx, wait) {
				return nil
			}
		}
	}}
}
