package control

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// pausedPoll is how often a paused run looks whether the source is there, and how
// long it waits before it follows the history again.
const pausedPoll = 5 * time.Second

// pausedRun is a Runner that applies nothing and tells how much waits: it follows
// the history and counts the records of objects, as heartbeats wait for nobody.
type pausedRun struct {
	history  pipeline.History
	consumer string
	from     pipeline.Position

	mu    sync.Mutex
	state pipeline.State
	// err and lost are what keep it from looking and from following.
	err, lost error
	looked    bool              // state is known
	counted   bool              // up to where the history ended when it was first looked at
	at        pipeline.Position // through which it was counted
	count     int64
	since     time.Time // when something began to wait
}

// Run implements Runner.
func (p *pausedRun) Run(ctx context.Context) error {
	var counting sync.WaitGroup
	defer counting.Wait()
	tick := time.NewTicker(pausedPoll)
	defer tick.Stop()
	for begun := false; ; {
		state, err := p.history.State(ctx)
		if ctx.Err() != nil {
			return nil
		}
		p.saw(state, err, time.Now())
		if err == nil && !begun && !p.from.IsZero() {
			begun = true
			counting.Go(func() { p.keepCounting(ctx) })
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// saw learns where the history ends. With no place to count from, all of it waits.
func (p *pausedRun) saw(state pipeline.State, err error, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err = err
	if err != nil {
		return
	}
	p.state, p.looked = state, true
	if p.from.IsZero() {
		p.counted, p.count = true, int64(state.Last.Seq) //nolint:gosec // sequences stay far below 2^63
		if p.since.IsZero() && p.count > 0 {
			p.since = now
		}
		return
	}
	if p.at.IsZero() {
		p.at = p.from
	}
	p.counted = p.counted || p.at.Compare(state.Last) >= 0
}

// keepCounting counts until ctx ends, from the place that was reached or, if that is
// no longer there, from the first one that is.
func (p *pausedRun) keepCounting(ctx context.Context) {
	after := p.from
	for {
		err := p.follow(ctx, after)
		if ctx.Err() != nil {
			return
		}
		p.mu.Lock()
		after, p.lost = p.at, err
		if errors.Is(err, pipeline.ErrGap) || errors.Is(err, pipeline.ErrEpochEnded) {
			after, p.lost = p.state.First, nil
			after.Seq -= min(after.Seq, 1)
		}
		p.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-time.After(pausedPoll):
		}
	}
}

// follow counts what comes until something ends that.
func (p *pausedRun) follow(ctx context.Context, after pipeline.Position) (err error) {
	sub, err := p.history.Follow(ctx, p.consumer, after)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sub.Close()) }()
	for {
		d, err := sub.Next(ctx)
		if err != nil {
			return err
		}
		p.took(d)
		if d.Settler == nil {
			continue
		}
		if err := d.Settler.Ack(); err != nil {
			return err
		}
	}
}

func (p *pausedRun) took(d pipeline.Delivery) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lost = nil
	if d.Position.Compare(p.at) <= 0 {
		return // it was delivered before
	}
	p.at = d.Position
	p.counted = p.counted || p.at.Compare(p.state.Last) >= 0
	if d.Invalid != nil || d.Op == pipeline.OpHeartbeat {
		return
	}
	p.count++
	if p.since.IsZero() {
		p.since = d.Stored
	}
}

// Snapshot implements Runner.
func (p *pausedRun) Snapshot() Snapshot {
	p.mu.Lock()
	defer p.mu.Unlock()
	snap := Snapshot{Stage: StagePaused, Err: cmp.Or(p.err, p.lost), Position: p.from, Heard: p.state.LastTime}
	if !p.looked || !p.counted {
		// Until it has been looked at and counted nothing is known, but that the site is unknown.
		snap.Stage = StageStarting
		if errors.Is(snap.Err, pipeline.ErrNoHistory) {
			snap.Stage = StagePaused
		}
		return snap
	}
	snap.Behind = p.count
	if !p.since.IsZero() {
		snap.Lag = max(0, time.Since(p.since))
	}
	return snap
}
