package replay

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/telemetry"
)

// follow submits every record after from until the subscription is lost, the
// history breaks, or everything must be read again.
func (r *Run) follow(ctx context.Context, from pipeline.Position) error {
	sub, err := r.s.History.Follow(ctx, r.s.Consumer, from)
	if err != nil {
		return fmt.Errorf("follow history: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	var reader sync.WaitGroup
	defer func() {
		cancel()
		reader.Wait()
		if err := sub.Close(); err != nil {
			r.s.Log.Debug("subscription not closed", telemetry.KeyReplication, r.s.Pump.Owner, telemetry.KeyError, err)
		}
	}()
	r.bunch.clear()
	r.replicating(from)
	signal(r.fresh) // what is parked from before is tried again too
	r.s.Log.Info("following the history", telemetry.KeyReplication, r.s.Pump.Owner,
		telemetry.KeyEpoch, from.Epoch, telemetry.KeySequence, from.Seq)

	deliveries := make(chan pipeline.Delivery)
	lost := make(chan error, 1)
	reader.Go(func() { lost <- next(ctx, sub, deliveries) })

	for {
		select {
		case err := <-lost:
			return fmt.Errorf("follow history: %w", err)
		case d := <-deliveries:
			if err := r.gather(ctx, d); err != nil {
				return err
			}
		case <-r.bunch.timer.C:
			if err := r.release(ctx); err != nil {
				return err
			}
		case <-r.changed:
			r.repair.arm(time.Now())
		case <-r.repair.timer.C:
			r.repair.fired(time.Now())
			if err := r.repairDrift(ctx); err != nil {
				return err
			}
		case <-r.fresh:
			s := r.pump.Stats()
			r.parked.parked(time.Now(), s.ParkedTotal)
		case <-r.again:
			r.parked.soon(time.Now())
		case <-r.parked.timer.C:
			if err := r.retryParked(ctx); err != nil {
				return err
			}
		}
	}
}

// next passes on deliveries until the subscription or ctx ends.
func next(ctx context.Context, sub pipeline.Subscription, to chan<- pipeline.Delivery) error {
	for {
		d, err := sub.Next(ctx)
		if err != nil {
			return err
		}
		select {
		case to <- d:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// deliver submits one record of the history, unless a newer one of its Ref was already.
func (r *Run) deliver(ctx context.Context, d pipeline.Delivery) error {
	defer r.followed(d)
	if newer, ok := r.ahead[d.Ref]; ok && d.Invalid == nil {
		if d.Position.Compare(newer) < 0 {
			if d.Settler == nil {
				return nil
			}
			if err := d.Settler.Ack(); err != nil {
				r.s.Log.Debug("delivery not acknowledged", telemetry.KeyReplication, r.s.Pump.Owner, telemetry.KeyError, err)
			}
			return nil
		}
		delete(r.ahead, d.Ref)
	}
	grew, err := r.submit(ctx, d, d.Position)
	if err != nil {
		return err
	}
	if grew {
		r.s.Log.Info("more is selected now, reading everything again", telemetry.KeyReplication, r.s.Pump.Owner,
			telemetry.KeyNamespace, d.Ref.Name)
		return errAnew
	}
	return nil
}

// repairDrift applies the newest records of the copies that have drifted.
func (r *Run) repairDrift(ctx context.Context) error {
	refs := r.takeDrift()
	if len(refs) > maxDrift {
		r.s.Log.Info("many copies were changed by others, reading everything again",
			telemetry.KeyReplication, r.s.Pump.Owner, telemetry.KeyCount, len(refs))
		return errAnew
	}
	if err := r.redo(ctx, refs); err != nil {
		return err
	}
	r.s.Log.Debug("copies that others changed were applied again", telemetry.KeyReplication, r.s.Pump.Owner, telemetry.KeyCount, len(refs))
	return nil
}

// retryParked tries everything that is parked again, with the newest records.
func (r *Run) retryParked(ctx context.Context) error {
	classes := r.pump.ParkedRefs()
	longest := maxRedriveDelay
	refs := make(map[pipeline.Ref]struct{}, len(classes))
	for ref, class := range classes {
		refs[ref] = struct{}{}
		if class == pipeline.Transient {
			longest = maxTransientDelay
		}
	}
	r.parked.fired(time.Now(), longest, len(refs) > 0)
	if len(refs) == 0 {
		return nil
	}
	r.s.Log.Debug("trying again what is parked", telemetry.KeyReplication, r.s.Pump.Owner, telemetry.KeyCount, len(refs))
	return r.redo(ctx, refs)
}

// redo submits the newest records of refs.
func (r *Run) redo(ctx context.Context, refs map[pipeline.Ref]struct{}) error {
	kinds := map[pipeline.GroupResource]bool{}
	for ref := range refs {
		kinds[ref.GroupResource()] = true
	}
	base := r.position()
	for _, wave := range r.group(keys(kinds)) {
		for _, kind := range wave {
			if err := r.read(ctx, kind, func(rec pipeline.Record) error {
				if _, ok := refs[rec.Ref]; !ok {
					return nil
				}
				grew, err := r.submit(ctx, pipeline.Delivery{Record: rec}, base)
				if grew && err == nil {
					err = errAnew
				}
				return err
			}); err != nil {
				return err
			}
		}
	}
	return nil
}

// How soon drift is repaired, and how seldom if somebody keeps causing it.
const (
	repairDelay    = 300 * time.Millisecond
	maxRepairDelay = 30 * time.Second
	repairQuiet    = time.Minute
)

// repair paces the repair of drift: soon after the first sign, so that many signs
// make one pass, and ever later while it goes on, so that a controller which
// undoes our writes gets no endless fight out of it.
type repair struct {
	timer *time.Timer
	armed bool
	delay time.Duration
	last  time.Time
}

func newRepair() *repair {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return &repair{timer: t, delay: repairDelay}
}

func (p *repair) arm(now time.Time) {
	if p.armed {
		return
	}
	if now.Sub(p.last) > repairQuiet {
		p.delay = repairDelay
	}
	p.armed = true
	p.timer.Reset(p.delay)
}

func (p *repair) fired(now time.Time) {
	p.armed, p.last = false, now
	p.delay = min(2*p.delay, maxRepairDelay)
}

func (p *repair) stop() { p.timer.Stop() }

func keys(set map[pipeline.GroupResource]bool) []pipeline.GroupResource {
	out := make([]pipeline.GroupResource, 0, len(set))
	for k := range set {
		out = append(out, k)
	}
	return out
}
