package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/telemetry"
)

// replayReconciler brings the runs in line with the Replays. Like reconciler it is the single
// writer of their status.
type replayReconciler struct {
	client   client.Client
	events   recorder
	replayer Replayer
	log      *slog.Logger
	interval time.Duration
	orphaned func(mark string) bool
	compiler *compiler
	// wake asks for a Replay to be reconciled.
	wake func(ctx context.Context, key client.ObjectKey)

	mu    sync.Mutex
	tasks map[client.ObjectKey]*task
	uids  map[client.ObjectKey]types.UID
}

// Reconcile brings one Replay's run and status in line with it.
func (r *replayReconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	key := req.NamespacedName
	rep := &v1alpha1.Replay{}
	if err := r.client.Get(ctx, key, rep); err != nil {
		if apierrors.IsNotFound(err) {
			return reconcile.Result{}, r.gone(ctx, key)
		}
		return reconcile.Result{}, fmt.Errorf("read replay %q: %w", key, err)
	}
	t := r.task(key)
	if t != nil && t.uid != rep.UID {
		r.end(key)
		t = nil
	}
	r.mu.Lock()
	r.uids[key] = rep.UID
	r.mu.Unlock()
	if !rep.DeletionTimestamp.IsZero() {
		r.end(key)
		return reconcile.Result{}, nil
	}
	if t != nil && t.base == rep.ResourceVersion {
		return reconcile.Result{RequeueAfter: soon}, nil // the cache does not show our last write yet
	}
	if finished(rep) && !asksAgain(rep) {
		r.end(key)
		return r.expire(ctx, rep)
	}
	if finished(rep) && !approves(rep) {
		return r.report(ctx, nil, rep, discarded(rep.Status, rep.Annotations, time.Now()))
	}
	if t != nil && !r.paused(ctx, rep) {
		return r.report(ctx, t, rep, t.next(rep.Status, rep.Annotations, time.Now()))
	}
	w, why, err := r.prepare(ctx, rep)
	switch {
	case err != nil:
		return reconcile.Result{}, err
	case why != nil:
		r.end(key)
		return r.report(ctx, nil, rep, waiting(rep.Status, *why, time.Now()))
	}
	if rep.Status.Position == nil {
		return r.begin(ctx, rep, w)
	}
	w.At = pipeline.Moment{Position: positionOf(rep.Status.Position)}
	if rep.Status.PositionTime != nil {
		w.At.Time = rep.Status.PositionTime.Time
	}
	// Whoever approves before anything is held wants all deletions of the run.
	w.Approved = rep.Annotations[v1alpha1.AnnotationApproveDeletions] != ""
	t = r.start(ctx, key, rep, w)
	return r.report(ctx, t, rep, t.next(rep.Status, rep.Annotations, time.Now()))
}

// finished reports whether a Replay has ended.
func finished(rep *v1alpha1.Replay) bool {
	return rep.Status.Phase == v1alpha1.ReplayComplete || rep.Status.Phase == v1alpha1.ReplayFailed
}

// asksAgain reports whether somebody has decided about deletions that a Replay that has ended holds back.
func asksAgain(rep *v1alpha1.Replay) bool {
	d := rep.Status.Deletions
	return d != nil && d.Held > 0 && (approves(rep) || rep.Annotations[v1alpha1.AnnotationDiscardDeletions] != d.Discarded)
}

// approves reports whether the deletions that are held back are to be made.
func approves(rep *v1alpha1.Replay) bool {
	d := rep.Status.Deletions
	return d != nil && rep.Annotations[v1alpha1.AnnotationApproveDeletions] != d.Approved
}

func positionOf(p *v1alpha1.Position) pipeline.Position {
	return pipeline.Position{Epoch: p.Epoch, Seq: uint64(max(p.Sequence, 0))}
}

// prepare makes the wish of a Replay, or says what it waits for.
func (r *replayReconciler) prepare(ctx context.Context, rep *v1alpha1.Replay) (ReplayWish, *refusal, error) {
	w := ReplayWish{
		Name: client.ObjectKeyFromObject(rep), UID: rep.UID, Guard: rep.Spec.DeletionGuard,
		DryRun: rep.Spec.Mode == v1alpha1.ReplayDryRun, Prune: rep.Spec.Prune, Orphaned: r.orphaned,
	}
	if rep.Spec.Template != nil {
		w.Spec = *rep.Spec.Template.DeepCopy()
	} else {
		w.Owner = types.NamespacedName{Namespace: rep.Namespace, Name: rep.Spec.Replication.Name}
		repl := &v1alpha1.Replication{}
		if err := r.client.Get(ctx, w.Owner, repl); apierrors.IsNotFound(err) {
			return w, &refusal{v1alpha1.ReasonNoReplication, fmt.Sprintf("There is no Replication %q in this namespace.", w.Owner.Name)}, nil
		} else if err != nil {
			return w, nil, fmt.Errorf("read replication %q: %w", w.Owner, err)
		}
		w.Spec = *repl.Spec.DeepCopy()
		if d := repl.Status.Deletions; d != nil && d.DiscardedThrough != nil && metav1.IsControlledBy(rep, repl) {
			w.Discarded = positionOf(d.DiscardedThrough)
		}
		if why := r.inTheWay(ctx, rep, repl); why != nil && !w.DryRun {
			return w, why, nil
		}
	}
	if why, err := r.bind(ctx, &w); why != nil || err != nil {
		return w, why, err
	}
	if errs := r.replayer.Validate(w.Spec); len(errs) > 0 {
		return w, &refusal{v1alpha1.ReasonInvalidSpec, sentences(errs)}, nil
	}
	return w, nil, nil
}

// bind makes the rules of a wish, or says what it waits for.
func (r *replayReconciler) bind(ctx context.Context, w *ReplayWish) (*refusal, error) {
	asking := &v1alpha1.Replication{Spec: w.Spec}
	asking.Namespace, asking.Name = w.Owner.Namespace, w.Owner.Name
	if w.Owner.Name == "" {
		asking.Namespace, asking.Name = w.Name.Namespace, ownName(w.Name.Name)
	}
	rules, err := r.compiler.edition(ctx, asking, nil)
	switch {
	case errors.Is(err, errUnread):
		return &refusal{v1alpha1.ReasonStarting, "The ConfigMaps of its rules are being read."}, nil
	case err != nil:
		return nil, err
	case rules.problem != nil:
		return rules.problem, nil
	}
	w.Rules = rules.set
	return nil, nil //nolint:nilnil // no refusal is a value here
}

// ownName stands for the name of a Replication where a Replay acts in its own name. No Replication
// has it: names hold no capital letters.
func ownName(replay string) string { return "Replay_" + replay }

// paused reports whether a run under way has to stop because its Replication was paused.
func (r *replayReconciler) paused(ctx context.Context, rep *v1alpha1.Replay) bool {
	if rep.Spec.Replication == nil {
		return false
	}
	repl := &v1alpha1.Replication{}
	key := types.NamespacedName{Namespace: rep.Namespace, Name: rep.Spec.Replication.Name}
	return r.client.Get(ctx, key, repl) == nil && repl.Spec.Paused && metav1.IsControlledBy(rep, repl)
}

// inTheWay says what keeps a Replay from running in the name of a Replication.
func (r *replayReconciler) inTheWay(ctx context.Context, rep *v1alpha1.Replay, repl *v1alpha1.Replication) *refusal {
	ours := metav1.IsControlledBy(rep, repl)
	switch {
	case ours && repl.Spec.Paused:
		return &refusal{v1alpha1.ReasonPaused, "Its Replication is paused: the run goes on when it is not."}
	case !ours && !repl.Spec.Paused && (repl.Spec.Mode == v1alpha1.ModeContinuous || repl.Spec.Mode == ""):
		return &refusal{v1alpha1.ReasonWaiting, fmt.Sprintf("Replication %q is Continuous and would bring its copies back to now: "+
			"pause it, or give the Replay a template to replay into other namespaces.", repl.Name)}
	}
	var all v1alpha1.ReplayList
	if err := r.client.List(ctx, &all, client.InNamespace(rep.Namespace)); err != nil {
		return &refusal{v1alpha1.ReasonWaiting, "The other Replays cannot be listed: " + err.Error()}
	}
	for i := range all.Items {
		o := &all.Items[i]
		if o.UID == rep.UID || finished(o) || o.Spec.Replication == nil || o.Spec.Replication.Name != repl.Name || o.Spec.Mode == v1alpha1.ReplayDryRun {
			continue
		}
		older := o.CreationTimestamp.Before(&rep.CreationTimestamp) || o.CreationTimestamp.Equal(&rep.CreationTimestamp) && o.Name < rep.Name
		if older {
			return &refusal{v1alpha1.ReasonWaiting, fmt.Sprintf("Replay %q runs in the name of the same Replication: this one begins when it has ended.", o.Name)}
		}
	}
	return nil
}

// begin finds out what moment is meant, once, and writes it down before anything is done.
func (r *replayReconciler) begin(ctx context.Context, rep *v1alpha1.Replay, w ReplayWish) (reconcile.Result, error) {
	at, err := r.replayer.Resolve(ctx, w.Spec.Source.Site, rep.Spec.UpTo, rep.Labels[v1alpha1.LabelRunOf] != "")
	var gone unreachable
	switch {
	case errors.As(err, &gone):
		return r.report(ctx, nil, rep, failing(rep.Status, refusal{v1alpha1.ReasonNotThere, "The moment cannot be replayed: " + err.Error()}, time.Now()))
	case errors.Is(err, pipeline.ErrNoHistory):
		return r.report(ctx, nil, rep, waiting(rep.Status, refusal{
			v1alpha1.ReasonUnknownSite,
			"The log holds no history of the site: check the name, and that a collector runs with --site set to it.",
		}, time.Now()))
	case err != nil:
		return r.report(ctx, nil, rep, waiting(rep.Status, refusal{v1alpha1.ReasonLogUnavailable, "The log cannot be read: " + err.Error()}, time.Now()))
	}
	next := begun(rep.Status, w.Spec.Source.Site, at, time.Now())
	if _, err := r.report(ctx, nil, rep, next); err != nil {
		return reconcile.Result{}, err
	}
	return reconcile.Result{RequeueAfter: soon}, nil
}

// report writes the status if it says something new.
func (r *replayReconciler) report(ctx context.Context, t *task, rep *v1alpha1.Replay, next v1alpha1.ReplayStatus) (reconcile.Result, error) {
	key := client.ObjectKeyFromObject(rep)
	former, base := *rep.Status.DeepCopy(), rep.ResourceVersion
	again := reconcile.Result{}
	if next.Phase == v1alpha1.ReplayPending {
		again.RequeueAfter = replayPoll
		if c := meta.FindStatusCondition(next.Conditions, v1alpha1.ConditionComplete); c.Reason == v1alpha1.ReasonStarting {
			again.RequeueAfter = soon
		}
	}
	if sameReplay(former, next) {
		return again, nil
	}
	rep.Status = next
	if err := r.client.Status().Update(ctx, rep); err != nil {
		if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
			return reconcile.Result{RequeueAfter: soon}, nil
		}
		return reconcile.Result{}, fmt.Errorf("write status of replay %q: %w", key, err)
	}
	if t != nil {
		t.base = awaited(base, rep.ResourceVersion)
	}
	for _, e := range replayTransitions(former, next) {
		r.emit(rep, e)
	}
	if finished(rep) {
		r.log.InfoContext(ctx, "replay ended", telemetry.KeyName, key.String(), telemetry.KeyPhase, string(next.Phase))
		r.end(key)
		return r.expire(ctx, rep)
	}
	return again, nil
}

func (r *replayReconciler) emit(rep *v1alpha1.Replay, t transition) {
	kind := "Normal"
	if t.warning {
		kind = "Warning"
	}
	r.events.Eventf(rep, nil, kind, t.reason, t.action, "%s", cut(t.note))
}

// expire deletes a Replay whose time after its end has passed.
func (r *replayReconciler) expire(ctx context.Context, rep *v1alpha1.Replay) (reconcile.Result, error) {
	if rep.Spec.TTLSecondsAfterFinished == nil || rep.Status.CompletionTime == nil {
		return reconcile.Result{}, nil
	}
	left := time.Until(rep.Status.CompletionTime.Add(time.Duration(*rep.Spec.TTLSecondsAfterFinished) * time.Second))
	if left > 0 {
		return reconcile.Result{RequeueAfter: left}, nil
	}
	if err := r.client.Delete(ctx, rep, client.Preconditions{UID: &rep.UID}); err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return reconcile.Result{}, fmt.Errorf("delete replay %q: %w", client.ObjectKeyFromObject(rep), err)
	}
	return reconcile.Result{}, nil
}

// exists reports whether there is a Replay with the UID, or if that cannot be known.
func (r *replayReconciler) exists(uid types.UID) bool {
	var all v1alpha1.ReplayList
	// From the cache: it neither waits nor fails once it has synced.
	if err := r.client.List(context.Background(), &all); err != nil {
		return true
	}
	return slices.ContainsFunc(all.Items, func(rep v1alpha1.Replay) bool { return rep.UID == uid })
}

// gone ends what is left of a Replay that is no more.
func (r *replayReconciler) gone(ctx context.Context, key client.ObjectKey) error {
	r.end(key)
	r.compiler.book.use(ctx, types.NamespacedName{Namespace: key.Namespace, Name: ownName(key.Name)})
	r.mu.Lock()
	uid, known := r.uids[key]
	delete(r.uids, key)
	r.mu.Unlock()
	if !known {
		return nil
	}
	if err := r.replayer.ForgetReplay(ctx, uid); err != nil {
		r.mu.Lock()
		r.uids[key] = uid
		r.mu.Unlock()
		return fmt.Errorf("forget replay %q: %w", key, err)
	}
	return nil
}

// task is the work on one Replay. base is used by the reconciler alone.
type task struct {
	uid  types.UID
	wish ReplayWish
	base string // the resource version that the last write was made from
	halt func()

	mu    sync.Mutex
	run   ReplayRun
	ended bool  // everything is done
	err   error // why it is tried again
}

func (r *replayReconciler) task(key client.ObjectKey) *task {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tasks[key]
}

// start begins the work on a Replay. It ends with end, not with ctx.
func (r *replayReconciler) start(ctx context.Context, key client.ObjectKey, rep *v1alpha1.Replay, w ReplayWish) *task {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	t := &task{uid: rep.UID, wish: w}
	var both sync.WaitGroup
	t.halt = func() {
		cancel()
		both.Wait()
	}
	both.Go(func() {
		r.work(ctx, t)
		r.wake(ctx, key)
	})
	both.Go(func() {
		tick := time.NewTicker(r.interval)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				r.wake(ctx, key)
			}
		}
	})
	r.mu.Lock()
	r.tasks[key] = t
	r.mu.Unlock()
	return t
}

// work makes runs until one has done everything or ctx ends.
func (r *replayReconciler) work(ctx context.Context, t *task) {
	delays := wait.Backoff{Duration: replayDelay, Factor: 2, Jitter: 0.5, Steps: 8, Cap: maxReplayDelay}
	for ctx.Err() == nil {
		run, err := r.replayer.Replay(t.wish)
		if err == nil {
			t.mu.Lock()
			t.run = run
			t.mu.Unlock()
			err = run.Run(ctx)
		}
		if ctx.Err() != nil {
			return
		}
		t.mu.Lock()
		t.err, t.ended = err, err == nil
		t.mu.Unlock()
		var gone unreachable
		if err == nil || errors.As(err, &gone) {
			return
		}
		delay := delays.Step()
		r.log.WarnContext(ctx, "replay interrupted, going on", telemetry.KeyName, t.wish.Name.String(), telemetry.KeyError, err, telemetry.KeyDuration, delay)
		select {
		case <-time.After(delay):
		case <-ctx.Done():
		}
	}
}

// end stops the work on a Replay and waits. Without any it does nothing.
func (r *replayReconciler) end(key client.ObjectKey) {
	r.mu.Lock()
	t := r.tasks[key]
	delete(r.tasks, key)
	r.mu.Unlock()
	if t != nil {
		t.halt()
	}
}

// stop ends all work and waits for it. Nothing is reconciled any more.
func (r *replayReconciler) stop() {
	r.mu.Lock()
	tasks := r.tasks
	r.tasks = map[client.ObjectKey]*task{}
	r.mu.Unlock()
	var all sync.WaitGroup
	for _, t := range tasks {
		all.Go(t.halt)
	}
	all.Wait()
}
