package collect

import (
	"context"
	"fmt"
	"time"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/telemetry"
)

// lookEvery is after how many heartbeats the log is asked whether it has all that it should have. That it
// has lost something may be out of sight soon.
const lookEvery = 3

// watchLog ends the term when the log has lost records of its epoch, until ctx ends. In the next epoch all
// that exists is put anew; what is known only from before is held, so that no deletion follows
// from what was lost.
func (t *term) watchLog(ctx context.Context) {
	for ctx.Err() == nil {
		wait(ctx, pipeline.Jittered(lookEvery*time.Duration(t.rules().cfg.Heartbeat)))
		// A log that is away is said by who writes to it.
		if state, err := t.history.State(ctx); err == nil && state.Missing > 0 && state.Last.Epoch == t.epoch {
			t.log.ErrorContext(ctx, "log has lost records, beginning a new epoch: its limit for the current state may be too low",
				telemetry.KeyEpoch, t.epoch, telemetry.KeyCount, state.Missing)
			t.cancel(fmt.Errorf("%w: the log has lost %d records", errAnew, state.Missing))
			return
		}
	}
}
