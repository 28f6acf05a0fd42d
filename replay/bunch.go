package replay

import (
	"context"
	"time"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// How long a deletion waits for others.
const (
	// bunchQuiet without another one ends a bunch, and bunchMost does in any case.
	bunchQuiet = 200 * time.Millisecond
	bunchMost  = 2 * time.Second
	// maxBunch bounds how many wait together.
	maxBunch = 5000
)

// bunch gathers the deletions that come together, so that whoever judges whether they are too
// many knows of all before the first is made. It is used by one goroutine.
type bunch struct {
	timer *time.Timer
	wait  []pipeline.Delivery
	refs  map[pipeline.Ref]struct{}
	begun time.Time
}

func newBunch() *bunch {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return &bunch{timer: t, refs: map[pipeline.Ref]struct{}{}}
}

func (b *bunch) add(d pipeline.Delivery, now time.Time) {
	if len(b.wait) == 0 {
		b.begun = now
	}
	b.wait = append(b.wait, d)
	b.refs[d.Ref] = struct{}{}
	b.timer.Reset(min(bunchQuiet, bunchMost-now.Sub(b.begun)))
}

func (b *bunch) clear() {
	b.timer.Stop()
	b.wait = nil
	clear(b.refs)
}

func (b *bunch) stop() { b.timer.Stop() }

// gather delivers a record, unless it is a deletion: that waits a moment for others. One more
// record of an object whose deletion waits has all of them delivered first.
func (r *Run) gather(ctx context.Context, d pipeline.Delivery) error {
	deletion := d.Invalid == nil && d.Op == pipeline.OpDelete && r.s.Deletions != nil
	if _, waits := r.bunch.refs[d.Ref]; waits || deletion && len(r.bunch.wait) >= maxBunch {
		if err := r.release(ctx); err != nil {
			return err
		}
	}
	if !deletion {
		return r.deliver(ctx, d)
	}
	r.bunch.add(d, time.Now())
	r.bunched()
	return nil
}

// release delivers the deletions that wait.
func (r *Run) release(ctx context.Context) error {
	wait := r.bunch.wait
	r.bunch.clear()
	defer r.bunched()
	tombstones := make(map[pipeline.Ref]pipeline.Record, len(wait))
	for _, d := range wait {
		tombstones[d.Ref] = d.Record
	}
	if err := r.s.Deletions(ctx, tombstones); err != nil {
		return err
	}
	for _, d := range wait {
		if err := r.deliver(ctx, d); err != nil {
			return err
		}
	}
	return nil
}

// bunched tells the stats what waits.
func (r *Run) bunched() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state.bunched = len(r.bunch.wait)
	if r.state.bunched == 0 {
		return
	}
	r.state.behind = r.bunch.wait[0].Position
	r.state.behind.Seq--
}
