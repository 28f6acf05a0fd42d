package control

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/apply"
	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/replay"
	"github.com/dr-syncer/dr-syncer/telemetry"
)

// Replays is the Engine that replays a site's history into this cluster.
type Replays struct {
	// Client reaches the destination.
	Client apply.Client
	// Inventory is that of the destination. It must be running.
	Inventory *apply.Inventory
	// History opens the history of a site.
	History func(site string) pipeline.History
	// Past opens the past of a site; without it there are no Replays.
	Past func(site string) *replay.Past
	// Results keeps what Replays did with each object; nil keeps nothing.
	Results pipeline.Results
	// DeadLetters are those of this destination.
	DeadLetters pipeline.DeadLetters
	// Destination is this cluster's name; it tells its subscriptions from those of others.
	Destination string
	// Protected are namespaces that are never written to, beside the cluster's own.
	Protected []string
	Log       *slog.Logger
}

var _ Engine = (*Replays)(nil)

// Validate implements Engine.
func (e *Replays) Validate(spec v1alpha1.ReplicationSpec) []error {
	errs := apply.Validate(spec)
	if m := spec.NamespaceMapping; m != nil {
		for _, name := range e.Protected {
			if slices.Contains(slices.Collect(maps.Values(m.Names)), name) {
				errs = append(errs, fmt.Errorf("spec.namespaceMapping.names: namespace %q holds DR-Syncer itself: choose another name", name))
			}
		}
	}
	return errs
}

// New implements Engine.
func (e *Replays) New(w Wish) (Runner, error) {
	history := e.History(w.Spec.Source.Site)
	if w.Spec.Paused {
		return &pausedRun{history: history, consumer: e.consumer(w), from: w.From}, nil
	}
	guard := apply.NewGuard(w.Spec.DeletionGuard, w.Deletions, false)
	applier, err := apply.New(apply.Settings{
		Namespace: w.Owner.Namespace, Name: w.Owner.Name, Spec: w.Spec, Client: e.Client, Inventory: e.Inventory,
		Guard: guard, Rules: w.Rules, Destination: e.Destination, Protected: e.Protected, Orphaned: w.Orphaned, Log: e.Log,
	})
	if err != nil {
		return nil, err
	}
	r := &replayRun{applier: applier, guard: guard}
	r.run, err = replay.Continuous(replay.Settings{
		History: history, DeadLetters: e.DeadLetters, Sink: applier, Waves: apply.Wave, Pump: e.pump(w, r),
		Consumer: e.consumer(w), Log: e.Log,
		Deletions: func(ctx context.Context, tombstones map[pipeline.Ref]pipeline.Record) error {
			applier.Foresee(ctx, slices.Collect(maps.Values(tombstones)))
			return nil
		},
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

// consumer names the subscription of a run.
func (e *Replays) consumer(w Wish) string { return e.Destination + "/" + w.Owner.String() }

// pump is the configuration that the spec asks for.
func (e *Replays) pump(w Wish, o pipeline.Observer) pipeline.PumpConfig {
	cfg := pipeline.DefaultPumpConfig()
	cfg.Owner, cfg.Observer = w.Owner.String(), o
	if w.Spec.Workers > 0 {
		cfg.Workers = int(w.Spec.Workers)
	}
	if r := w.Spec.Retry; r != nil {
		if r.Attempts > 0 {
			cfg.Attempts = int(r.Attempts)
		}
		if r.InitialDelay != nil {
			cfg.InitialDelay = r.InitialDelay.Duration
		}
		if r.MaxDelay != nil {
			cfg.MaxDelay = r.MaxDelay.Duration
		}
		cfg.MaxDelay = max(cfg.MaxDelay, cfg.InitialDelay)
	}
	return cfg
}

// DeleteCopies implements Engine.
func (e *Replays) DeleteCopies(ctx context.Context, owner types.NamespacedName) error {
	done, err := apply.DeleteCopies(ctx, apply.Deletion{
		Namespace: owner.Namespace, Name: owner.Name, Client: e.Client, Inventory: e.Inventory, Log: e.Log,
	})
	if err != nil {
		return err
	}
	e.Log.InfoContext(ctx, "copies deleted", telemetry.KeyReplication, owner.String(),
		telemetry.KeyCount, done.Deleted, telemetry.KeyKept, done.Kept)
	return nil
}

// Forget implements Engine.
func (e *Replays) Forget(ctx context.Context, owner types.NamespacedName) error {
	for d, err := range e.DeadLetters.List(ctx, owner.String()) {
		if err != nil {
			return fmt.Errorf("list dead letters: %w", err)
		}
		if err := e.DeadLetters.Remove(ctx, owner.String(), d.Ref); err != nil {
			return fmt.Errorf("remove dead letter of %s: %w", d.Ref, err)
		}
	}
	return nil
}

// Sweep implements Engine.
func (e *Replays) Sweep(ctx context.Context, exists func(owner string) bool) error {
	for d, err := range e.DeadLetters.List(ctx, "") {
		switch {
		case err != nil:
			return fmt.Errorf("list dead letters: %w", err)
		case exists(d.Owner):
			continue
		}
		if err := e.DeadLetters.Remove(ctx, d.Owner, d.Ref); err != nil {
			return fmt.Errorf("remove dead letter of %s: %w", d.Ref, err)
		}
	}
	return nil
}

// replayRun is a Runner that applies.
type replayRun struct {
	applier *apply.Applier
	guard   *apply.Guard
	run     *replay.Run

	mu   sync.Mutex
	last *v1alpha1.LastEvent
}

// Run implements Runner.
func (r *replayRun) Run(ctx context.Context) error { return r.run.Run(ctx) }

// Approve implements decider.
func (r *replayRun) Approve() { r.applier.Approve() }

// Discard implements decider.
func (r *replayRun) Discard() { r.applier.Discard() }

// actions are the results that are changes.
var actions = map[pipeline.Result]string{
	pipeline.ResultCreated: "Created", pipeline.ResultConfigured: "Configured",
	pipeline.ResultDeleted: "Deleted", pipeline.ResultRecreated: "Recreated",
}

// OnResult implements pipeline.Observer: it remembers the newest change.
func (r *replayRun) OnResult(rec pipeline.Record, res pipeline.Result, err error, _ int) {
	action, changed := actions[res]
	if err != nil || !changed {
		return
	}
	event := &v1alpha1.LastEvent{Object: objectOf(rec.Ref), Action: action, Time: whole(time.Now())}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = event
}

// objectOf is "group/resource namespace/name".
func objectOf(ref pipeline.Ref) string {
	name := ref.Name
	if ref.Namespace != "" {
		name = ref.Namespace + "/" + ref.Name
	}
	return ref.GroupResource().String() + " " + name
}

// Snapshot implements Runner.
func (r *replayRun) Snapshot() Snapshot {
	s := r.run.Stats()
	snap := Snapshot{
		Err: s.Err, Position: s.Position, Behind: s.LagEvents, Lag: s.Lag, Heard: s.Heard,
		Failing: s.Pump.Heartbeat.Failing, Kinds: map[pipeline.GroupResource]v1alpha1.Counts{},
	}
	switch s.Phase {
	case replay.Waiting:
		// Once it has copied, a run that waits is one that was interrupted.
		if !s.Position.IsZero() {
			snap.Stage = StageFollowing
		}
	case replay.Copying:
		snap.Stage = StageCopying
	case replay.Replicating:
		snap.Stage = StageFollowing
	}
	change := func(k pipeline.GroupResource, change func(c *v1alpha1.Counts)) {
		c := snap.Kinds[k]
		change(&c)
		snap.Kinds[k] = c
	}
	for k, n := range r.applier.Synced() {
		change(k, func(c *v1alpha1.Counts) { c.Synced = n })
	}
	for k, n := range s.Unread {
		change(k, func(c *v1alpha1.Counts) { c.Pending += n })
	}
	for k, n := range s.Pump.Kinds {
		change(k, func(c *v1alpha1.Counts) {
			c.Pending += int64(n.Pending)
			c.Failed, c.Parked = int64(n.Retrying), int64(n.Parked)
		})
	}
	snap.LastError, snap.LastParked = errorOf(s.Pump.LastError), errorOf(s.Pump.LastParked)
	held := r.guard.Held()
	snap.Deletions = &held
	r.mu.Lock()
	defer r.mu.Unlock()
	snap.LastEvent = r.last.DeepCopy()
	return snap
}

// errorOf is nil if there was none.
func errorOf(e pipeline.LastError) *v1alpha1.LastError {
	if e.Message == "" {
		return nil
	}
	out := &v1alpha1.LastError{Reason: e.Class.String(), Message: e.Message, Time: whole(e.Time)}
	if e.Ref.Name != "" {
		out.Object = objectOf(e.Ref)
	}
	return out
}
