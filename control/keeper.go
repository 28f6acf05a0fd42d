package control

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/telemetry"
)

// keeper keeps one Replication running as its spec says, and holds what its
// status follows from. All methods are safe for concurrent use.
type keeper struct {
	owner    types.NamespacedName
	uid      types.UID
	engine   Engine
	orphaned func(mark string) bool
	log      *slog.Logger
	interval time.Duration
	// oldest says since when a site can be read back; nil if that is not known.
	oldest func(site string) time.Time
	// wake asks for the Replication to be reconciled.
	wake func(ctx context.Context)

	mu        sync.Mutex
	site      string // the source
	work      string // what the run was made from
	selection string // the part of it that says which objects go where
	edition   *edition
	halt      func() // stops the run and waits; nil if there is none
	run       Runner // nil between two runs
	ended     error  // how the last run ended
	situation situation
	decisions decisions
	written   v1alpha1.ReplicationStatus
	writtenAt time.Time
	base      string // the resource version that the last write was made from
}

// accept has the Replication run as its spec says, with these rules, from the status that stands
// in the resource. It stops the former run if the work is another: the next goes over everything
// again, and writes what has another result now.
func (k *keeper) accept(ctx context.Context, r *v1alpha1.Replication, rules *edition) {
	k.bind(r, rules)
	if rules.set == nil {
		k.refuse(r, *rules.problem)
		return
	}
	work, selection := workOf(r.Spec)+rules.key+r.Annotations[v1alpha1.AnnotationSyncNow], selectionOf(r.Spec)
	k.mu.Lock()
	same := k.halt != nil && k.work == work
	if k.selection == "" && r.Status.ObservedGeneration != 0 && r.Status.ObservedGeneration != r.Generation ||
		k.selection != "" && k.selection != selection {
		k.situation.anew = true
	}
	k.site, k.work, k.selection = r.Spec.Source.Site, work, selection
	k.situation.generation, k.situation.paused, k.situation.refused = r.Generation, r.Spec.Paused, nil
	k.situation.syncNow = r.Annotations[v1alpha1.AnnotationSyncNow]
	k.decisions.wish(r)
	anew := k.situation.anew
	k.mu.Unlock()
	if same {
		return
	}
	from := k.stop()
	w := Wish{Owner: k.owner, Spec: *r.Spec.DeepCopy(), Rules: rules.set, Deletions: r.Status.Deletions.DeepCopy(), Orphaned: k.orphaned}
	if p := r.Status.Position; p != nil && p.Sequence > 0 {
		w.From = pipeline.Position{Epoch: p.Epoch, Seq: uint64(p.Sequence)}
	}
	if anew {
		w.From = pipeline.Position{} // what was selected before says nothing of what is now
	} else if from.Compare(w.From) > 0 {
		w.From = from // the status is not written for each
	}
	k.start(ctx, w)
}

// bind takes up the rules of the Replication.
func (k *keeper) bind(r *v1alpha1.Replication, rules *edition) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.edition = rules
	k.situation.rules = nil
	if r.Spec.Transforms != nil {
		k.situation.rules = &rulesInUse{count: rules.count, problem: rules.problem}
	}
}

// rules returns those that were taken up last, nil if none were.
func (k *keeper) rules() *edition {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.edition
}

// refuse stops the run and says why there is none.
func (k *keeper) refuse(r *v1alpha1.Replication, why refusal) {
	k.stop()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.situation.generation, k.situation.paused, k.situation.refused = r.Generation, r.Spec.Paused, &why
}

// remove stops the run for good.
func (k *keeper) remove(generation int64) {
	k.stop()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.situation.generation, k.situation.deleting = generation, true
}

// undeleted says what keeps the copies from being deleted, nil for nothing.
func (k *keeper) undeleted(problem error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.situation.deleteErr = problem
}

// start begins the run and the watch over it. Both end with stop, not with ctx.
func (k *keeper) start(ctx context.Context, w Wish) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var both sync.WaitGroup
	both.Go(func() { k.keepRunning(ctx, w) })
	both.Go(func() { k.watch(ctx) })
	k.mu.Lock()
	defer k.mu.Unlock()
	k.halt = func() {
		cancel()
		both.Wait()
	}
}

// stop ends the run, waits for it, and returns how far it came, zero if that is not
// known. Without one it does nothing.
func (k *keeper) stop() (reached pipeline.Position) {
	k.mu.Lock()
	halt := k.halt
	k.halt = nil
	k.mu.Unlock()
	if halt == nil {
		return reached
	}
	halt()
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.run != nil {
		reached = k.run.Snapshot().Position
	}
	k.run, k.ended = nil, nil
	k.situation.failing, k.situation.stuck = time.Time{}, time.Time{}
	return reached
}

// steady is how long a run must have gone for its end not to count as one more failure.
const steady = time.Minute

// keepRunning makes runs until ctx ends, with growing delays.
func (k *keeper) keepRunning(ctx context.Context, w Wish) {
	fresh := wait.Backoff{Duration: time.Second, Factor: 2, Jitter: 0.5, Steps: 8, Cap: time.Minute}
	delays := fresh
	for ctx.Err() == nil {
		begin := time.Now()
		err := k.runOnce(ctx, w)
		if ctx.Err() != nil {
			return
		}
		if time.Since(begin) > steady {
			delays = fresh
		}
		k.mu.Lock()
		k.run, k.ended = nil, err
		k.mu.Unlock()
		telemetry.Add(ctx, telemetry.MetricReplicationRestarts, 1, telemetry.String(telemetry.KeyReplication, k.owner.String()))
		delay := delays.Step()
		k.log.WarnContext(ctx, "run ended, starting another", telemetry.KeyError, err, telemetry.KeyDuration, delay)
		select {
		case <-time.After(delay):
		case <-ctx.Done():
		}
	}
}

// runOnce returns why the run ended, never nil.
func (k *keeper) runOnce(ctx context.Context, w Wish) error {
	run, err := k.engine.New(w)
	if err != nil {
		return fmt.Errorf("prepare the run: %w", err)
	}
	k.mu.Lock()
	k.run = run
	k.mu.Unlock()
	if err := run.Run(ctx); err != nil {
		return err
	}
	return errEnded
}

// watch asks for a reconcile whenever the status in the resource is no longer
// what is true, until ctx ends.
func (k *keeper) watch(ctx context.Context) {
	tick := time.NewTicker(k.interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			k.decide()
			s := k.look(now)
			k.mu.Lock()
			written, ago := k.written, now.Sub(k.writtenAt)
			k.mu.Unlock()
			if worthWriting(written, nextStatus(written, s), ago) {
				k.wake(ctx)
			}
		}
	}
}

// decide carries out what was decided about deletions.
func (k *keeper) decide() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.run != nil {
		k.decisions.act(k.run)
	}
}

// look returns the situation now.
func (k *keeper) look(now time.Time) situation {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := &k.situation
	s.now, s.snapshot, s.oldest = now, nil, time.Time{}
	if k.oldest != nil {
		s.oldest = k.oldest(k.site)
	}
	if k.halt != nil {
		s.snapshot = &Snapshot{}
		if k.run != nil {
			*s.snapshot = k.run.Snapshot()
			s.deletions = k.decisions.report(s.snapshot.Deletions)
		}
		if s.snapshot.Err == nil && s.snapshot.Stage == StageStarting {
			s.snapshot.Err = k.ended
		}
		if s.snapshot.Stage == StageCopying && !s.anew {
			keepPlace(k.written, s.snapshot)
		}
	}
	var failed int64
	var err error
	if s.snapshot != nil {
		err = s.snapshot.Err
		for _, n := range s.snapshot.Kinds {
			failed += n.Failed
		}
	}
	since(&s.stuck, err != nil, now)
	since(&s.failing, failed > 0, now)
	return *s
}

// keepPlace has a run that goes over everything again stand where it stood: what it
// looks at is old, and was applied before.
func keepPlace(former v1alpha1.ReplicationStatus, snap *Snapshot) {
	if former.FirstCopyTime == nil || former.Lag == nil {
		return
	}
	snap.Position = pipeline.Position{}
	snap.Behind, snap.Lag = former.Lag.Events, time.Duration(former.Lag.Seconds)*time.Second
}

// since keeps when something began to hold, zero while it does not.
func since(t *time.Time, holds bool, now time.Time) {
	switch {
	case !holds:
		*t = time.Time{}
	case t.IsZero():
		*t = now
	}
}

// saw remembers the status that stands in the resource. It reports false if the
// resource is an older one than was last written.
func (k *keeper) saw(r *v1alpha1.Replication) (fresh bool, ago time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.base != "" && k.base == r.ResourceVersion {
		return false, 0
	}
	if k.writtenAt.IsZero() {
		// Whoever wrote what is there may have done so just now.
		k.writtenAt = time.Now().Add(-k.interval)
	}
	k.written = *r.Status.DeepCopy()
	return true, time.Since(k.writtenAt)
}

// awaited returns the resource version that the cache shows until it has seen a write that was made from base and
// gave written: base, or none if the server found nothing to change. Of such a write there is nothing to be seen.
func awaited(base, written string) string {
	if written == base {
		return ""
	}
	return base
}

// wrote remembers a write that was made from the resource version base, "" if it changed nothing.
func (k *keeper) wrote(status v1alpha1.ReplicationStatus, base string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.written, k.base, k.writtenAt = *status.DeepCopy(), base, time.Now()
	k.situation.anew = false
}

// workOf is a text that differs when the run must be another.
func workOf(spec v1alpha1.ReplicationSpec) string {
	spec.OnDelete = ""
	spec.Transforms = nil // whatever it names or selects, the rules are part of the work
	spec.Suspend, spec.SuccessfulRunsHistoryLimit, spec.FailedRunsHistoryLimit = false, nil, nil
	return textOf(spec)
}

// selectionOf is a text that differs when spec selects or places other objects.
func selectionOf(spec v1alpha1.ReplicationSpec) string {
	return textOf(v1alpha1.ReplicationSpec{
		Source: spec.Source, Namespaces: spec.Namespaces, NamespaceMapping: spec.NamespaceMapping,
		Kinds: spec.Kinds, ExcludeKinds: spec.ExcludeKinds,
		LabelSelector: spec.LabelSelector, ExcludeLabels: spec.ExcludeLabels, IncludeClusterScoped: spec.IncludeClusterScoped,
	})
}

func textOf(spec v1alpha1.ReplicationSpec) string {
	text, err := json.Marshal(spec)
	if err != nil {
		// A spec that came as JSON can be written as JSON; if not, every spec differs.
		return err.Error() + time.Now().String()
	}
	return string(text)
}
