package control

import (
	"context"
	"errors"
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

var _ Replayer = (*Replays)(nil)

// errNoPast reports an engine that was not given one.
var errNoPast = errors.New("this log keeps no past that can be read")

// Resolve implements Replayer.
func (e *Replays) Resolve(ctx context.Context, site string, upTo *v1alpha1.UpTo, frozen bool) (pipeline.Moment, error) {
	if e.Past == nil {
		return pipeline.Moment{}, Unreachable(errNoPast)
	}
	past := e.Past(site)
	if upTo == nil {
		upTo = &v1alpha1.UpTo{}
	}
	if frozen && *upTo == (v1alpha1.UpTo{}) {
		m, err := past.Snapshot(ctx)
		if err == nil {
			return m.Moment, nil
		}
		// The run matters more than the snapshot before it.
		e.Log.WarnContext(ctx, "no snapshot before a run", telemetry.KeySite, site, telemetry.KeyError, err)
	}
	reach, err := past.Reach(ctx)
	if err != nil {
		return pipeline.Moment{}, err
	}
	switch {
	case upTo.Time != nil:
		m, err := past.Locate(ctx, upTo.Time.Time)
		return m, lost(err)
	case upTo.Position != nil:
		m := pipeline.Moment{Position: pipeline.Position{Epoch: upTo.Position.Epoch, Seq: uint64(max(upTo.Position.Sequence, 0))}}
		if m.Position.Compare(reach.Newest.Position) > 0 {
			return m, Unreachable(fmt.Errorf("position %s has not come yet: the history ends at %s", m.Position, reach.Newest))
		}
		for _, err := range past.State(ctx, m.Position, pipeline.Query{Heartbeat: true}) {
			if err != nil && !errors.Is(err, pipeline.ErrForeign) {
				return m, lost(err)
			}
		}
		return m, nil
	case upTo.Snapshot != "":
		i := slices.IndexFunc(reach.Snapshots, func(m pipeline.Manifest) bool { return m.Name == upTo.Snapshot })
		if i < 0 {
			return pipeline.Moment{}, Unreachable(fmt.Errorf("snapshot %q of site %q: %w", upTo.Snapshot, site, pipeline.ErrNoSnapshot))
		}
		return reach.Snapshots[i].Moment, nil
	}
	return reach.Newest, nil
}

// lost marks the errors that tell that a moment is gone for good.
func lost(err error) error {
	if errors.Is(err, pipeline.ErrGap) || errors.Is(err, pipeline.ErrNoSnapshot) {
		return Unreachable(err)
	}
	return err
}

// ReplayMark is the mark of the copies of a Replay that runs in its own name. No Replication
// has it.
func ReplayMark(namespace, name string) string { return apply.Mark(namespace, ownName(name)) }

// Replay implements Replayer.
func (e *Replays) Replay(w ReplayWish) (ReplayRun, error) {
	past := e.Past(w.Spec.Source.Site)
	spec := w.Spec
	spec.DeletionPolicy = v1alpha1.DeletionRetain
	if w.Prune {
		spec.DeletionPolicy = v1alpha1.DeletionMirror
	}
	r := &replaying{
		wish: w, site: spec.Source.Site, results: e.Results, log: e.Log,
		former: map[pipeline.Ref]pipeline.ObjectResult{}, done: map[pipeline.Ref]pipeline.Result{},
		kinds: map[pipeline.GroupResource]v1alpha1.ReplayCounts{}, diffs: map[pipeline.Ref][]string{}, full: make(chan struct{}, 1),
	}
	guard := w.Guard
	if guard == nil {
		guard = spec.DeletionGuard
	}
	var decided *v1alpha1.DeletionsStatus
	if w.Approved {
		guard = &v1alpha1.DeletionGuard{Disabled: true}
		decided = &v1alpha1.DeletionsStatus{ApprovedThrough: placeOf(w.At.Position)}
	}
	r.guard = apply.NewGuard(guard, decided, true)
	settings := apply.Settings{
		Namespace: w.Name.Namespace, Name: w.Name.Name, Mark: ReplayMark(w.Name.Namespace, w.Name.Name), Spec: spec,
		Client: e.Client, Inventory: e.Inventory, Rules: w.Rules, Destination: e.Destination, Rewind: true, Guard: r.guard,
		Protected: e.Protected, Orphaned: w.Orphaned, Log: e.Log,
	}
	if w.Owner.Name != "" {
		settings.Namespace, settings.Name, settings.Mark = w.Owner.Namespace, w.Owner.Name, ""
	}
	if w.DryRun {
		settings.Preview = r.preview
	}
	var err error
	if r.applier, err = apply.New(settings); err != nil {
		return nil, err
	}
	s := replay.Settings{Sink: r.applier, Waves: apply.Wave, Pump: e.pump(Wish{Owner: w.Name, Spec: spec}, r), Log: e.Log}
	if w.Prune {
		s.Deletions = r.deletions
	}
	r.state = selected{past, r.applier}
	if r.run, err = replay.Upto(w.At, r.state, s); err != nil {
		return nil, err
	}
	return r, nil
}

// ForgetReplay implements Replayer.
func (e *Replays) ForgetReplay(ctx context.Context, uid types.UID) error {
	if e.Results == nil {
		return nil
	}
	return e.Results.Remove(ctx, string(uid))
}

// SweepReplays implements Replayer.
func (e *Replays) SweepReplays(ctx context.Context, exists func(uid types.UID) bool) error {
	if e.Results == nil {
		return nil
	}
	runs, err := e.Results.Runs(ctx)
	if err != nil {
		return err
	}
	for _, run := range runs {
		if exists(types.UID(run)) {
			continue
		}
		if err := e.Results.Remove(ctx, run); err != nil {
			return err
		}
	}
	return nil
}

// replaying is the run of a Replay.
type replaying struct {
	wish    ReplayWish
	site    string
	applier *apply.Applier
	guard   *apply.Guard
	run     *replay.Once
	state   selected
	results pipeline.Results // nil keeps none
	log     *slog.Logger

	mu sync.Mutex
	// former are the results of the runs that were interrupted.
	former map[pipeline.Ref]pipeline.ObjectResult
	done   map[pipeline.Ref]pipeline.Result
	kinds  map[pipeline.GroupResource]v1alpha1.ReplayCounts
	diffs  map[pipeline.Ref][]string
	last   *v1alpha1.LastError
	// fresh are results that are not in the log yet; full says that there are many.
	fresh []pipeline.ObjectResult
	full  chan struct{}
}

// The pace at which results are written.
const (
	resultsEvery = time.Second
	resultsBatch = 1000
)

// Run implements ReplayRun.
func (r *replaying) Run(ctx context.Context) error {
	if err := r.resume(ctx); err != nil {
		return err
	}
	over := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() { r.write(ctx, over) })
	err := r.run.Run(ctx)
	close(over)
	writer.Wait()
	if err == nil {
		err = r.flush(ctx)
	}
	return err
}

// resume learns what was done before the Replay was interrupted.
func (r *replaying) resume(ctx context.Context) error {
	if r.results == nil {
		return nil
	}
	for one, err := range r.results.List(ctx, string(r.wish.UID)) {
		if err != nil {
			return err
		}
		r.former[one.Ref] = one
	}
	return nil
}

// write keeps the log's list of results up to date until the run is over or ctx ends.
func (r *replaying) write(ctx context.Context, over <-chan struct{}) {
	tick := time.NewTicker(resultsEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-over:
			return
		case <-tick.C:
		case <-r.full:
		}
		if err := r.flush(ctx); err != nil && ctx.Err() == nil {
			r.log.WarnContext(ctx, "results are not written yet, trying again", telemetry.KeyReplication, r.wish.Name.String(), telemetry.KeyError, err)
		}
	}
}

func (r *replaying) flush(ctx context.Context) error {
	r.mu.Lock()
	batch := r.fresh
	r.fresh = nil
	r.mu.Unlock()
	if r.results == nil || len(batch) == 0 {
		return nil
	}
	if err := r.results.Add(ctx, string(r.wish.UID), batch); err != nil {
		r.mu.Lock()
		r.fresh = append(batch, r.fresh...)
		r.mu.Unlock()
		return err
	}
	return nil
}

// preview keeps what an object would change in, until its result comes.
func (r *replaying) preview(c apply.Change) {
	if len(c.Diff) == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.diffs[c.Ref] = append(r.diffs[c.Ref], c.Diff...)
}

// OnResult implements pipeline.Observer.
func (r *replaying) OnResult(rec pipeline.Record, res pipeline.Result, err error, attempts int) {
	one := pipeline.ObjectResult{Ref: rec.Ref, Result: res, Attempts: attempts, Position: rec.Position, Time: time.Now()}
	r.mu.Lock()
	defer r.mu.Unlock()
	if one.Diff = r.diffs[rec.Ref]; one.Diff != nil {
		delete(r.diffs, rec.Ref)
	}
	if err != nil {
		one.Result, one.Class, one.Message = "", pipeline.ClassOf(err), err.Error()
		r.last = &v1alpha1.LastError{Object: objectOf(rec.Ref), Reason: one.Class.String(), Message: one.Message, Time: whole(one.Time)}
	}
	if former, ok := r.former[rec.Ref]; ok {
		same := !former.Failed() && former.Result != pipeline.ResultHeld && res == pipeline.ResultUnchanged && err == nil
		delete(r.former, rec.Ref)
		if same { // done before the interruption
			r.count(rec.Ref, former.Result)
			return
		}
	}
	r.count(rec.Ref, one.Result)
	r.fresh = append(r.fresh, one)
	if len(r.fresh) >= resultsBatch {
		signal(r.full)
	}
}

// signal tells whoever listens next, once.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// count adds a result to the counts. One that comes again for an object replaces the former.
func (r *replaying) count(ref pipeline.Ref, res pipeline.Result) {
	k := ref.GroupResource()
	c := r.kinds[k]
	if before, again := r.done[ref]; again {
		tally(&c, before, -1)
	}
	tally(&c, res, 1)
	r.done[ref], r.kinds[k] = res, c
}

// tally adds n to what a result counts as; one that is empty has failed.
func tally(c *v1alpha1.ReplayCounts, res pipeline.Result, n int64) {
	c.Total += n
	switch res {
	case pipeline.ResultCreated:
		c.Created += n
	case pipeline.ResultConfigured, pipeline.ResultRecreated:
		c.Changed += n
	case pipeline.ResultUnchanged:
		c.Unchanged += n
	case pipeline.ResultDeleted:
		c.Deleted += n
	case pipeline.ResultSkipped:
		c.Skipped += n
	case pipeline.ResultHeld:
		c.Held += n
	default:
		c.Failed += n
	}
}

// deletions completes the tombstones by what the source did not have, so that the copies of
// objects that came into being after the moment go too, and leaves out those that have no copy.
func (r *replaying) deletions(ctx context.Context, tombstones map[pipeline.Ref]pipeline.Record) error {
	exists := map[pipeline.Ref]struct{}{}
	for rec, err := range r.state.past.State(ctx, r.wish.At.Position, pipeline.Query{HeadersOnly: true}) {
		switch {
		case errors.Is(err, pipeline.ErrForeign):
			exists[rec.Ref] = struct{}{} // what it was is not known, so its copy stays
		case err != nil:
			return err
		case rec.Op == pipeline.OpPut, rec.Op == pipeline.OpRelease:
			exists[rec.Ref] = struct{}{}
		}
	}
	extra, err := r.applier.Extra(ctx, r.wish.At.Position, r.site, func(ref pipeline.Ref) bool {
		_, ok := exists[ref]
		return ok
	})
	if err != nil {
		return err
	}
	// What has no copy needs no deletion; what has one is in extra, whatever the history says of it.
	former := maps.Clone(tombstones)
	clear(tombstones)
	for _, rec := range extra {
		if tombstone, ok := former[rec.Ref]; ok {
			if tombstone.Position.Compare(r.wish.Discarded) <= 0 {
				continue // somebody has had the copy kept
			}
			tombstone.Position = rec.Position
			rec = tombstone
		}
		tombstones[rec.Ref] = rec
	}
	r.applier.Foresee(ctx, slices.Collect(maps.Values(tombstones)))
	return nil
}

// Progress implements ReplayRun.
func (r *replaying) Progress() Progress {
	held := r.guard.Held()
	r.mu.Lock()
	defer r.mu.Unlock()
	p := Progress{Kinds: maps.Clone(r.kinds), Held: held.Scopes, AfterReset: int64(held.AfterReset), Emptied: int64(held.Emptied), LastError: r.last}
	for _, c := range r.kinds {
		p.Counts = plus(p.Counts, c)
	}
	return p
}

func plus(a, b v1alpha1.ReplayCounts) v1alpha1.ReplayCounts {
	return v1alpha1.ReplayCounts{
		Total: a.Total + b.Total, Created: a.Created + b.Created, Changed: a.Changed + b.Changed, Unchanged: a.Unchanged + b.Unchanged,
		Deleted: a.Deleted + b.Deleted, Skipped: a.Skipped + b.Skipped, Held: a.Held + b.Held, Failed: a.Failed + b.Failed,
	}
}
