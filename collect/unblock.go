package collect

import (
	"context"
	"slices"
	"time"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/telemetry"
)

// writeOthers makes those events durable that the log can take now, and sets the objects of the others
// aside.
func (t *term) writeOthers(ctx context.Context, flights []flight, blocked *pipeline.BlockedError) error {
	var rest []flight
	var aside []*lane
	for i, f := range flights {
		switch {
		case slices.Contains(aside, f.lane): // an object's events go in order
		case slices.Contains(blocked.Events, i):
			aside = append(aside, f.lane)
		default:
			rest = append(rest, f)
		}
	}
	if err := t.writeFlights(ctx, rest); err != nil {
		return err
	}
	for _, l := range aside {
		if t.outbox.setAside(l, blocked.Err, time.Now()) {
			t.log.WarnContext(ctx, "log cannot take object now, others go on",
				telemetry.KeyKind, l.ref.GroupResource().String(), telemetry.KeyNamespace, l.ref.Namespace,
				telemetry.KeyName, l.ref.Name, telemetry.KeyError, blocked.Err)
			t.beat()
		}
	}
	return nil
}

const (
	// readmitEvery is how often is looked for objects whose time to try again has come.
	readmitEvery = time.Second
	// tidyEvery is how often the log is rid of what nothing refers to, and tidyBlocked how often
	// while something stands aside.
	tidyEvery   = 6 * time.Hour
	tidyBlocked = 10 * time.Minute
)

// admit has what stands aside tried again, and the log tidied, until ctx ends.
func (t *term) admit(ctx context.Context) {
	ticker := time.NewTicker(readmitEvery)
	defer ticker.Stop()
	next := time.Now().Add(pipeline.Jittered(tidyEvery))
	soonest := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now := time.Now()
		if now.After(next) || now.After(soonest) && t.outbox.standAside() > 0 {
			if t.tidy(ctx) {
				t.outbox.readmit(now, true)
			}
			next, soonest = now.Add(pipeline.Jittered(tidyEvery)), now.Add(pipeline.Jittered(tidyBlocked))
		}
		t.outbox.readmit(now, false)
	}
}

// tidy rids the log of what nothing refers to, and reports whether there was something.
func (t *term) tidy(ctx context.Context) bool {
	removed, err := t.tidyLog(ctx)
	if err != nil && ctx.Err() == nil {
		t.log.WarnContext(ctx, "cannot rid the log of large bodies that nothing refers to", telemetry.KeyError, err)
	}
	if removed > 0 {
		t.log.InfoContext(ctx, "rid the log of large bodies that nothing refers to", telemetry.KeyCount, removed)
	}
	return removed > 0
}
