package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/apply"
	"github.com/dr-syncer/dr-syncer/telemetry"
)

// errEnded is the end of a run that nobody asked to end and that gave no error.
var errEnded = errors.New("the run ended by itself")

const (
	// soon is when to look again at a resource that the cache does not show as it is yet.
	soon = 100 * time.Millisecond
	// unreadPause is when to look again for rules that are being read; that they were is told too.
	unreadPause = time.Second
	// deleteTimeout bounds one attempt at deleting copies, so that none keeps other
	// Replications from being reconciled; deletePause is the time to the next.
	deleteTimeout = 30 * time.Second
	deletePause   = 5 * time.Second
	// maxNote is the most text that the API server takes in an Event.
	maxNote = 1000
)

// recorder writes Kubernetes Events.
type recorder interface {
	Eventf(regarding, related runtime.Object, eventtype, reason, action, note string, args ...any)
}

// reconciler brings the runs in line with the Replications. The queue hands it one
// Replication at a time only once, which makes it the single writer of its status.
type reconciler struct {
	client   client.Client
	events   recorder
	engine   Engine
	compiler *compiler
	log      *slog.Logger
	interval time.Duration
	oldest   func(site string) time.Time // nil if it is not known
	// wake asks for a Replication to be reconciled.
	wake func(ctx context.Context, key client.ObjectKey)

	mu      sync.Mutex
	keepers map[client.ObjectKey]*keeper
	seen    map[client.ObjectKey]int64 // generations
}

// Reconcile brings one Replication's run, status and copies in line with it.
func (r *reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	key := req.NamespacedName
	repl := &v1alpha1.Replication{}
	if err := r.client.Get(ctx, key, repl); err != nil {
		if apierrors.IsNotFound(err) {
			return reconcile.Result{}, r.gone(ctx, key)
		}
		return reconcile.Result{}, fmt.Errorf("read replication %q: %w", key, err)
	}
	r.changed(ctx, key, repl.Generation)
	k := r.keeper(key, repl.UID)
	if !repl.DeletionTimestamp.IsZero() {
		return r.remove(ctx, k, repl)
	}
	if err := r.hold(ctx, repl, repl.Spec.OnDelete == v1alpha1.OnDeleteCopies); err != nil {
		return reconcile.Result{}, err
	}
	why, err := r.refusal(ctx, repl)
	if err != nil {
		return reconcile.Result{}, err
	}
	if why == nil && !continuous(repl.Spec) {
		return r.runs(ctx, k, repl)
	}
	if why != nil {
		k.refuse(repl, *why)
		return r.report(ctx, k, repl)
	}
	rules, err := r.compiler.edition(ctx, repl, k.rules())
	if errors.Is(err, errUnread) {
		return reconcile.Result{RequeueAfter: unreadPause}, nil
	}
	if err != nil {
		return reconcile.Result{}, fmt.Errorf("make the rules of replication %q: %w", key, err)
	}
	k.accept(ctx, repl, rules)
	return r.report(ctx, k, repl)
}

// keeper returns that of a Replication, made at first use. One of the same name
// that was deleted unnoticed is ended.
func (r *reconciler) keeper(key client.ObjectKey, uid types.UID) *keeper {
	r.mu.Lock()
	k := r.keepers[key]
	former := k
	if k == nil || k.uid != uid {
		k = &keeper{
			owner: key, uid: uid, engine: r.engine, orphaned: r.orphaned, interval: r.interval, oldest: r.oldest,
			log:  r.log.With(telemetry.KeyReplication, key.String()),
			wake: func(ctx context.Context) { r.wake(ctx, key) },
		}
		r.keepers[key] = k
	}
	r.mu.Unlock()
	if former != nil && former != k {
		former.stop()
	}
	return k
}

// changed has all other Replications looked at when this one has a new spec: it
// may overlap with them now, or no longer.
func (r *reconciler) changed(ctx context.Context, key client.ObjectKey, generation int64) {
	r.mu.Lock()
	former, known := r.seen[key]
	r.seen[key] = generation
	var others []client.ObjectKey
	if known && former != generation {
		others = r.othersThan(key)
	}
	r.mu.Unlock()
	for _, other := range others {
		r.wake(ctx, other)
	}
}

// othersThan is called with mu held.
func (r *reconciler) othersThan(key client.ObjectKey) []client.ObjectKey {
	var others []client.ObjectKey
	for other := range r.keepers {
		if other != key {
			others = append(others, other)
		}
	}
	return others
}

// gone ends what is left of a Replication that is no more.
func (r *reconciler) gone(ctx context.Context, key client.ObjectKey) error {
	r.mu.Lock()
	k := r.keepers[key]
	delete(r.keepers, key)
	delete(r.seen, key)
	others := r.othersThan(key)
	r.mu.Unlock()
	r.compiler.book.use(ctx, key)
	if k != nil {
		k.stop()
		k.log.InfoContext(ctx, "replication is gone")
	}
	for _, other := range others {
		r.wake(ctx, other)
	}
	if err := r.engine.Forget(ctx, key); err != nil {
		return fmt.Errorf("forget replication %q: %w", key, err)
	}
	return nil
}

// hold sets or takes away the finalizer, if it is not as wanted.
func (r *reconciler) hold(ctx context.Context, repl *v1alpha1.Replication, want bool) error {
	if controllerutil.ContainsFinalizer(repl, v1alpha1.Finalizer) == want {
		return nil
	}
	patch := client.MergeFromWithOptions(repl.DeepCopy(), client.MergeFromWithOptimisticLock{})
	if want {
		controllerutil.AddFinalizer(repl, v1alpha1.Finalizer)
	} else {
		controllerutil.RemoveFinalizer(repl, v1alpha1.Finalizer)
	}
	if err := r.client.Patch(ctx, repl, patch); err != nil && (want || !apierrors.IsNotFound(err)) {
		return fmt.Errorf("set finalizer of replication %q: %w", client.ObjectKeyFromObject(repl), err)
	}
	return nil
}

// remove ends a Replication that is being deleted, with its copies if that is
// wanted, and lets it go.
func (r *reconciler) remove(ctx context.Context, k *keeper, repl *v1alpha1.Replication) (reconcile.Result, error) {
	k.remove(repl.Generation)
	if !controllerutil.ContainsFinalizer(repl, v1alpha1.Finalizer) {
		return reconcile.Result{}, nil // others hold it; its end is told as an event
	}
	if repl.Spec.OnDelete == v1alpha1.OnDeleteCopies {
		if _, err := r.report(ctx, k, repl); err != nil {
			return reconcile.Result{}, err
		}
		late, err := r.deleteCopies(ctx, k)
		k.undeleted(err)
		if err != nil {
			if _, reported := r.report(ctx, k, repl); reported != nil {
				return reconcile.Result{}, errors.Join(err, reported)
			}
			if late {
				return reconcile.Result{RequeueAfter: deletePause}, nil
			}
			return reconcile.Result{}, fmt.Errorf("delete the copies of replication %q: %w", k.owner, err)
		}
		r.emit(repl, transition{reason: "CopiesDeleted", action: "Delete", note: "The copies were deleted."})
	}
	return reconcile.Result{}, r.hold(ctx, repl, false)
}

// deleteCopies reports that it was late, if that is all that failed.
func (r *reconciler) deleteCopies(ctx context.Context, k *keeper) (late bool, err error) {
	try, cancel := context.WithTimeout(ctx, deleteTimeout)
	defer cancel()
	err = r.engine.DeleteCopies(try, k.owner)
	return try.Err() != nil && ctx.Err() == nil, err
}

// orphaned reports that a mark is that of no Replication and no Replay.
func (r *reconciler) orphaned(mark string) bool {
	if r.any(func(o *v1alpha1.Replication) bool { return apply.Mark(o.Namespace, o.Name) == mark }) {
		return false
	}
	var all v1alpha1.ReplayList
	if err := r.client.List(context.Background(), &all); err != nil {
		return false
	}
	return !slices.ContainsFunc(all.Items, func(o v1alpha1.Replay) bool { return ReplayMark(o.Namespace, o.Name) == mark })
}

// exists reports whether there is a Replication of that name ("namespace/name").
func (r *reconciler) exists(owner string) bool {
	return r.any(func(o *v1alpha1.Replication) bool { return client.ObjectKeyFromObject(o).String() == owner })
}

// any reports whether is holds for a Replication, or if that cannot be known.
func (r *reconciler) any(is func(*v1alpha1.Replication) bool) bool {
	var all v1alpha1.ReplicationList
	// From the cache: it neither waits nor fails once it has synced.
	if err := r.client.List(context.Background(), &all); err != nil {
		return true
	}
	return slices.ContainsFunc(all.Items, func(o v1alpha1.Replication) bool { return is(&o) })
}

// refusal says why a Replication cannot be carried out, nil if it can.
func (r *reconciler) refusal(ctx context.Context, repl *v1alpha1.Replication) (*refusal, error) {
	errs := r.engine.Validate(repl.Spec)
	if _, err := scheduleOf(repl.Spec); err != nil {
		errs = append(errs, err)
	}
	if len(errs) > 0 {
		return &refusal{v1alpha1.ReasonInvalidSpec, sentences(errs)}, nil
	}
	var all v1alpha1.ReplicationList
	if err := r.client.List(ctx, &all); err != nil {
		return nil, fmt.Errorf("list replications: %w", err)
	}
	if first := r.precedes(all.Items, repl); first != "" {
		return &refusal{v1alpha1.ReasonOverlap, fmt.Sprintf("Replication %q, which is older, writes the same kinds into the same namespaces: "+
			"select other namespaces or kinds in one of them, or map the namespaces elsewhere.", first)}, nil
	}
	return nil, nil //nolint:nilnil // no refusal is a value here
}

// precedes returns the oldest Replication that overlaps with repl and is itself
// carried out, empty if there is none.
func (r *reconciler) precedes(all []v1alpha1.Replication, repl *v1alpha1.Replication) string {
	slices.SortFunc(all, func(a, b v1alpha1.Replication) int {
		if c := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); c != 0 {
			return c
		}
		return strings.Compare(client.ObjectKeyFromObject(&a).String(), client.ObjectKeyFromObject(&b).String())
	})
	var accepted []*v1alpha1.Replication
	for i := range all {
		o := &all[i]
		this := o.UID == repl.UID
		spec := o.Spec
		if this {
			spec = repl.Spec
		}
		rival := slices.IndexFunc(accepted, func(a *v1alpha1.Replication) bool { return overlaps(a.Spec, spec) })
		switch {
		case this && rival >= 0:
			return client.ObjectKeyFromObject(accepted[rival]).String()
		case this:
			return ""
		case rival < 0 && len(r.engine.Validate(o.Spec)) == 0:
			accepted = append(accepted, o)
		}
	}
	return ""
}

// report writes the status if it has something new to say, and Kubernetes Events
// for what happened since.
func (r *reconciler) report(ctx context.Context, k *keeper, repl *v1alpha1.Replication) (reconcile.Result, error) {
	fresh, ago := k.saw(repl)
	if !fresh {
		return reconcile.Result{RequeueAfter: soon}, nil
	}
	former, base := repl.Status, repl.ResourceVersion
	s := k.look(time.Now())
	next := nextStatus(former, s)
	if !worthWriting(former, next, ago) {
		return reconcile.Result{}, nil
	}
	if ago < r.interval {
		return reconcile.Result{RequeueAfter: r.interval - ago}, nil
	}
	repl.Status = next
	if err := r.client.Status().Update(ctx, repl); err != nil {
		if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
			return reconcile.Result{RequeueAfter: soon}, nil
		}
		return reconcile.Result{}, fmt.Errorf("write status of replication %q: %w", k.owner, err)
	}
	k.wrote(next, awaited(base, repl.ResourceVersion))
	telemetry.Add(ctx, telemetry.MetricReplicationStatusWrites, 1, telemetry.String(telemetry.KeyReplication, k.owner.String()))
	if former.Phase != next.Phase {
		k.log.InfoContext(ctx, "phase changed", telemetry.KeyPhase, string(next.Phase), telemetry.KeyReason, reasonOf(next, v1alpha1.ConditionReady))
	}
	var parked *v1alpha1.LastError
	if s.snapshot != nil {
		parked = s.snapshot.LastParked
	}
	for _, t := range transitions(former, next, parked) {
		r.emit(repl, t)
	}
	return reconcile.Result{}, nil
}

func (r *reconciler) emit(repl *v1alpha1.Replication, t transition) {
	kind := "Normal"
	if t.warning {
		kind = "Warning"
	}
	r.events.Eventf(repl, nil, kind, t.reason, t.action, "%s", cut(t.note))
}

// cut is as much of a note as an Event takes.
func cut(note string) string {
	if len(note) > maxNote {
		note = strings.ToValidUTF8(note[:maxNote-3], "") + "..."
	}
	return note
}

// stop ends all runs and waits for them. Nothing is reconciled any more.
func (r *reconciler) stop() {
	r.mu.Lock()
	keepers := r.keepers
	r.keepers = map[client.ObjectKey]*keeper{}
	r.mu.Unlock()
	var all sync.WaitGroup
	for _, k := range keepers {
		all.Go(func() { k.stop() })
	}
	all.Wait()
}

// samples returns one sample per Replication for each value of state.
func (r *reconciler) samples(read func(s situation) map[string]float64) []telemetry.Sample {
	r.mu.Lock()
	keepers := make([]*keeper, 0, len(r.keepers))
	for _, k := range r.keepers {
		keepers = append(keepers, k)
	}
	r.mu.Unlock()
	var out []telemetry.Sample
	for _, k := range keepers {
		s := k.look(time.Now())
		if s.snapshot == nil {
			continue
		}
		for state, v := range read(s) {
			attrs := []telemetry.Attr{telemetry.String(telemetry.KeyReplication, k.owner.String())}
			if state != "" {
				attrs = append(attrs, telemetry.String(telemetry.KeyState, state))
			}
			out = append(out, telemetry.Sample{Value: v, Attrs: attrs})
		}
	}
	return out
}

// gauges shows where the runs stand at /metrics until the returned function is called.
func (r *reconciler) gauges() (unregister func()) {
	lagEvents := telemetry.Gauge(telemetry.MetricReplicationLagEvents, func() []telemetry.Sample {
		return r.samples(func(s situation) map[string]float64 { return map[string]float64{"": float64(s.snapshot.Behind)} })
	})
	lagSeconds := telemetry.Gauge(telemetry.MetricReplicationLagSeconds, func() []telemetry.Sample {
		return r.samples(func(s situation) map[string]float64 {
			return map[string]float64{"": lag(s.snapshot).Seconds()}
		})
	})
	objects := telemetry.Gauge(telemetry.MetricReplicationObjects, func() []telemetry.Sample {
		return r.samples(func(s situation) map[string]float64 {
			var n v1alpha1.ReplicationStatus
			count(&n, s.snapshot.Kinds)
			return map[string]float64{
				"synced": float64(n.Counts.Synced), "pending": float64(n.Counts.Pending),
				"failed": float64(n.Counts.Failed), "parked": float64(n.Counts.Parked),
			}
		})
	})
	return func() {
		lagEvents()
		lagSeconds()
		objects()
	}
}

// sentences makes one line of several errors.
func sentences(errs []error) string {
	texts := make([]string, len(errs))
	for i, err := range errs {
		texts[i] = err.Error()
	}
	return strings.Join(texts, "; ")
}
