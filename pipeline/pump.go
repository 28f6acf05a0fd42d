package pipeline

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/dr-syncer/dr-syncer/telemetry"
)

// Pump carries records from the log to a Sink: a lane per Ref, the newest
// record of a Ref wins, a failing one is retried in its lane and at last parked,
// and no lane ever waits for another. A delivery is settled when its record was
// applied, parked, or made superfluous by a newer one; after the end of Run the
// rest is left unsettled.
//
// All methods are safe for concurrent use.
type Pump struct {
	cfg    PumpConfig
	sink   Sink
	parker Parker
	log    *slog.Logger

	kick    chan struct{} // the first timer has changed
	stopped chan struct{}

	mu      sync.Mutex
	work    *sync.Cond // on mu: there may be something to take
	started bool
	closed  bool
	lanes   *lanes
	letters letters
	stats   counters
	wakes   uint64
	waiters []*waiter
}

// waiter waits for a condition that is checked under Pump.mu.
type waiter struct {
	ready func() bool
	done  chan struct{}
}

// errStopped ends calls that would wait for a pump whose Run is over.
var errStopped = errors.New("the pump has stopped")

// NewPump returns a pump that does nothing until Run. Settings that are not
// positive are replaced by the default ones. parker may be called at once for
// different Refs.
func NewPump(cfg PumpConfig, sink Sink, parker Parker, log *slog.Logger) *Pump {
	cfg = cfg.withDefaults()
	p := &Pump{
		cfg: cfg, sink: sink, parker: parker, log: log.With(telemetry.KeyReplication, cfg.Owner),
		kick: make(chan struct{}, 1), stopped: make(chan struct{}),
		lanes: newLanes(cfg), letters: letters{},
	}
	p.work = sync.NewCond(&p.mu)
	return p
}

// Parked tells the pump, before its first Submit, which dead letters its owner
// has: DeadLetters.List. Only those are removed when their object is healed.
func (p *Pump) Parked(list iter.Seq2[DeadLetter, error]) error {
	for d, err := range list {
		if err != nil {
			return fmt.Errorf("load dead letters: %w", err)
		}
		if d.Owner == p.cfg.Owner {
			p.mu.Lock()
			p.note(d)
			p.mu.Unlock()
		}
	}
	return nil
}

// Run applies what is submitted until ctx ends, and returns nil when every
// attempt has come back. It can be called once.
func (p *Pump) Run(ctx context.Context) error {
	p.mu.Lock()
	if p.started {
		p.mu.Unlock()
		return errors.New("run pump: it was run before")
	}
	p.started = true
	p.mu.Unlock()
	unregister := telemetry.Gauge(telemetry.MetricPumpPending, p.sample)
	defer unregister()

	var running sync.WaitGroup
	for range p.cfg.Workers {
		running.Go(func() { p.worker(ctx) })
	}
	running.Go(func() { p.timer(ctx) })
	running.Go(func() { p.extend(ctx) })
	<-ctx.Done()
	p.mu.Lock()
	p.closed = true
	p.work.Broadcast()
	p.mu.Unlock()
	close(p.stopped)
	running.Wait()
	p.abandon()
	return nil
}

// Submit takes in one delivery, and waits while too much is held. It returns
// ctx's error, or one that says that the pump has stopped; then the delivery was
// not taken in. What it takes in is settled sooner or later.
func (p *Pump) Submit(ctx context.Context, d Delivery) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	switch {
	case d.Invalid != nil && d.Ref.Name == "":
		p.foreign(ctx, d)
		return nil
	case d.Invalid == nil && d.Op == OpHeartbeat:
		p.heartbeat(ctx, d)
		return nil
	}
	it := p.newItem(ctx, d)
	superseded, err := p.admit(ctx, it)
	if err != nil {
		it.span.End(err)
		return err
	}
	if superseded != nil {
		p.supersede(ctx, superseded, it)
	}
	return nil
}

// itemOverhead is what a held record occupies beside its body, roughly.
const itemOverhead = 1 << 10

func (p *Pump) newItem(ctx context.Context, d Delivery) *item {
	it := &item{Delivery: d, kind: d.Ref.GroupResource().String(), size: int64(len(d.Body)) + itemOverhead}
	ctx, it.span = telemetry.StartSpan(telemetry.Extract(ctx, d.Trace), telemetry.SpanConsume, []telemetry.Attr{
		telemetry.String(telemetry.KeyReplication, p.cfg.Owner),
		telemetry.String(telemetry.KeyKind, it.kind),
		telemetry.String(telemetry.KeyNamespace, d.Ref.Namespace),
		telemetry.String(telemetry.KeyName, d.Ref.Name),
		telemetry.String(telemetry.KeyOp, d.Op.String()),
		telemetry.String(telemetry.KeyEpoch, d.Position.Epoch),
		telemetry.Int64(telemetry.KeySequence, int64(d.Position.Seq)), //nolint:gosec // sequences stay far below 2^63
	})
	it.trace = telemetry.Inject(ctx)
	return it
}

// admit puts an item into its lane as soon as there is room.
func (p *Pump) admit(ctx context.Context, it *item) (superseded *item, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.lanes.full(it.Ref) {
		if err := p.wait(ctx, func() bool { return !p.lanes.full(it.Ref) }); err != nil {
			return nil, err
		}
	}
	if p.closed {
		return nil, errStopped
	}
	if p.stats.floor != nil {
		// What is submitted again must not make the low watermark go back.
		if settled, _ := p.settled(); settled.Compare(*p.stats.floor) > 0 {
			p.stats.floor = &settled
		}
		if it.Position.Compare(*p.stats.floor) <= 0 {
			it.young = -1
		}
	}
	if l, parked := p.letters[it.Ref]; parked && l.position == it.Position {
		it.redo = true
	}
	superseded = p.lanes.add(it)
	p.stats.advance(it.Position)
	p.work.Signal()
	if it.lane != nil && it.lane.cooling {
		p.look()
	}
	return superseded, nil
}

// wait returns when ready was true, which need not last. p.mu is held before
// and after, and not meanwhile.
func (p *Pump) wait(ctx context.Context, ready func() bool) error {
	if p.closed {
		return errStopped
	}
	w := &waiter{ready: ready, done: make(chan struct{})}
	p.waiters = append(p.waiters, w)
	p.mu.Unlock()
	var err error
	select {
	case <-w.done:
	case <-ctx.Done():
		err = ctx.Err()
	case <-p.stopped:
		err = errStopped
	}
	p.mu.Lock()
	if err != nil {
		p.waiters = slices.DeleteFunc(p.waiters, func(other *waiter) bool { return other == w })
	}
	return err
}

// release lets go whoever waits for what is true now. p.mu is held.
func (p *Pump) release() {
	p.waiters = slices.DeleteFunc(p.waiters, func(w *waiter) bool {
		if !w.ready() {
			return false
		}
		close(w.done)
		return true
	})
}

// Settled tells the pump that everything up to at was submitted and settled before,
// or cannot be for now: submitted again it counts as work, but neither for the
// low watermark nor for the age of what waits.
func (p *Pump) Settled(at Position) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stats.floor == nil || at.Compare(*p.stats.floor) > 0 {
		p.stats.floor = &at
	}
	p.lanes.settledTo(at)
}

// ParkedRefs returns what the owner has dead letters of, with the class of each.
// Submitted again, the same record has one attempt, without a trace if it fails
// as before.
func (p *Pump) ParkedRefs() map[Ref]Class {
	p.mu.Lock()
	defer p.mu.Unlock()
	refs := make(map[Ref]Class, len(p.letters))
	for ref, l := range p.letters {
		refs[ref] = l.class
	}
	return refs
}

// Drop removes the owner's dead letter of a Ref that is no longer of interest;
// without one it does nothing.
func (p *Pump) Drop(ctx context.Context, ref Ref) error {
	if _, parked := p.ParkedRefs()[ref]; !parked {
		return nil
	}
	if err := p.parker.Remove(ctx, p.cfg.Owner, ref); err != nil {
		return fmt.Errorf("remove dead letter of %s: %w", ref, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forget(ref)
	return nil
}

// Settle waits until nothing that was submitted before the call is queued or in
// its first attempt; what is being retried does not hold it up.
func (p *Pump) Settle(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	order := p.lanes.order
	for p.lanes.freshUpTo(order) {
		if err := p.wait(ctx, func() bool { return !p.lanes.freshUpTo(order) }); err != nil {
			return err
		}
	}
	return nil
}

// Drain waits until nothing is held: everything that was submitted is applied, superseded or parked.
func (p *Pump) Drain(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.lanes.held > 0 {
		if err := p.wait(ctx, func() bool { return p.lanes.held == 0 }); err != nil {
			return err
		}
	}
	return nil
}

// Wake retries everything that waits for a Dependency, now and without charging
// the attempt to its budget.
func (p *Pump) Wake() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wakes++
	p.lanes.wake()
	p.work.Broadcast()
}

// worker works until ctx ends.
func (p *Pump) worker(ctx context.Context) {
	for ctx.Err() == nil {
		it := p.take()
		if it == nil {
			return
		}
		p.step(ctx, it)
	}
}

func (p *Pump) take() *item {
	p.mu.Lock()
	defer p.mu.Unlock()
	for !p.closed {
		if it := p.lanes.take(); it != nil {
			it.wakes = p.wakes
			return it
		}
		p.work.Wait()
	}
	return nil
}

// timer queues the lanes whose wait is over, until ctx ends.
func (p *Pump) timer(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-p.kick:
		}
		p.mu.Lock()
		next, moved := p.lanes.dueBy(time.Now())
		if moved {
			p.work.Broadcast()
		}
		p.mu.Unlock()
		if next.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(next))
		}
	}
}

// extend tells the log regularly that the deliveries held are being worked on,
// until ctx ends.
func (p *Pump) extend(ctx context.Context) {
	ticker := time.NewTicker(p.cfg.ExtendEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		p.mu.Lock()
		var settlers []Settler
		for _, it := range p.lanes.oldest.items {
			if it.Settler != nil {
				settlers = append(settlers, it.Settler)
			}
		}
		p.mu.Unlock()
		for _, s := range settlers {
			if err := s.Extend(); err != nil {
				p.log.DebugContext(ctx, "delivery not extended", telemetry.KeyError, err)
			}
		}
	}
}

// abandon ends the spans of what is left unsettled.
func (p *Pump) abandon() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, it := range p.lanes.oldest.items {
		it.span.End(nil, telemetry.String(telemetry.KeyResult, resultAbandoned))
	}
}

// foreign disposes of a message that names no object of ours.
func (p *Pump) foreign(ctx context.Context, d Delivery) {
	p.mu.Lock()
	p.stats.advance(d.Position)
	p.stats.foreign++
	n, loud := p.stats.foreign, p.stats.foreignLog.pass(time.Now())
	p.mu.Unlock()
	telemetry.Add(ctx, telemetry.MetricPumpResults, 1, telemetry.String(telemetry.KeyReplication, p.cfg.Owner),
		telemetry.String(telemetry.KeyKind, ""), telemetry.String(telemetry.KeyResult, resultForeign))
	if loud {
		p.log.WarnContext(ctx, "foreign message in the log ignored", telemetry.KeyEpoch, d.Position.Epoch,
			telemetry.KeySequence, d.Position.Seq, telemetry.KeyCount, n, telemetry.KeyError, d.Invalid)
	}
	p.ack(ctx, d)
}

func (p *Pump) heartbeat(ctx context.Context, d Delivery) {
	h, err := d.Heartbeat()
	p.mu.Lock()
	p.stats.advance(d.Position)
	if err == nil && d.Position.Compare(p.stats.heartbeat.Position) >= 0 {
		p.stats.heartbeat = HeartbeatRecord{Heartbeat: h, Position: d.Position, Stored: d.Stored}
	}
	p.mu.Unlock()
	if err != nil {
		p.log.WarnContext(ctx, "heartbeat cannot be read", telemetry.KeyEpoch, d.Position.Epoch,
			telemetry.KeySequence, d.Position.Seq, telemetry.KeyError, err)
	}
	p.ack(ctx, d)
}

// ack settles a delivery. If it fails the log delivers the record again, which
// does no harm.
func (p *Pump) ack(ctx context.Context, d Delivery) {
	if d.Settler == nil {
		return
	}
	if err := d.Settler.Ack(); err != nil {
		p.log.DebugContext(ctx, "delivery not acknowledged", telemetry.KeyError, err)
	}
}
