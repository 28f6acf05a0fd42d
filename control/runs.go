package control

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/replay"
	"github.com/dr-syncer/dr-syncer/telemetry"
)

// The limits of a history that says nothing else.
const (
	defaultSuccessfulRuns = 3
	defaultFailedRuns     = 1
)

// continuous reports whether a Replication has a run of its own, not Replays.
func continuous(spec v1alpha1.ReplicationSpec) bool {
	return spec.Mode == "" || spec.Mode == v1alpha1.ModeContinuous
}

// scheduleOf reads the schedule of a spec; nil if it has none.
func scheduleOf(spec v1alpha1.ReplicationSpec) (*replay.Schedule, error) {
	if spec.Mode != v1alpha1.ModeScheduled {
		return nil, nil //nolint:nilnil // no schedule is a value here
	}
	s, err := replay.ParseSchedule(spec.Schedule, spec.TimeZone)
	if err != nil {
		return nil, fmt.Errorf("spec.%w", err)
	}
	return &s, nil
}

// turn is what is to be done about the runs of a Replication.
type turn struct {
	// create is the Replay to be made, nil for none.
	create *v1alpha1.Replay
	// remove are the Replays beyond the limits of the history.
	remove []*v1alpha1.Replay
	// next is the status after that, and look when to decide again; zero for not at all.
	next v1alpha1.ReplicationStatus
	look time.Time
}

// decideRuns says what is to be done about the runs of a Replication, given its Replays.
func decideRuns(repl *v1alpha1.Replication, schedule *replay.Schedule, runs []*v1alpha1.Replay, now time.Time) turn {
	var t turn
	var active *v1alpha1.Replay
	var ended []*v1alpha1.Replay
	for _, run := range runs {
		if finished(run) {
			ended = append(ended, run)
		} else if active == nil || run.CreationTimestamp.Before(&active.CreationTimestamp) {
			active = run
		}
	}
	t.next = *repl.Status.DeepCopy()
	if t.next.Runs == nil {
		t.next.Runs = &v1alpha1.RunsStatus{}
	}
	r := t.next.Runs
	idle := active == nil && !repl.Spec.Paused
	if asked := repl.Annotations[v1alpha1.AnnotationSyncNow]; idle && asked != "" && asked != repl.Status.LastSyncNow {
		t.create = runOf(repl, "now-"+short(asked), nil)
		t.next.LastSyncNow = asked
	}
	r.NextTime = nil
	if schedule != nil {
		c := replay.Clock{
			Now: now, Through: repl.CreationTimestamp.Time, Running: active != nil || t.create != nil,
			Suspended: repl.Spec.Suspend || repl.Spec.Paused,
		}
		if r.Through != nil {
			c.Through = r.Through.Time
		}
		if d := repl.Spec.StartingDeadlineSeconds; d != nil {
			c.Deadline = time.Duration(*d) * time.Second
		}
		tick := schedule.Step(c)
		through := whole(tick.Through)
		r.Through = &through
		if !c.Suspended {
			// While a run is under way the next moment is told all the same.
			upcoming := metav1.NewTime(schedule.Next(now))
			r.NextTime = &upcoming
		}
		switch {
		case !tick.Run.IsZero():
			t.create = runOf(repl, fmt.Sprint(tick.Run.Unix()/60), &tick.Run)
			r.Missed = int32(tick.Missed) //nolint:gosec // G115: at most replay.MaxMissed
		case tick.Missed > 0:
			r.Missed = min(r.Missed+int32(tick.Missed), replay.MaxMissed) //nolint:gosec // G115: at most replay.MaxMissed
		}
		t.look = tick.Look
	}
	r.Active = ""
	switch {
	case active != nil:
		r.Active = active.Name
	case t.create != nil:
		r.Active = t.create.Name
	}
	t.remove = summarize(&t.next, repl.Spec, ended)
	settle(&t.next, repl, now)
	return t
}

// summarize takes over what the runs did that have ended, and returns those that are too many.
func summarize(next *v1alpha1.ReplicationStatus, spec v1alpha1.ReplicationSpec, ended []*v1alpha1.Replay) (remove []*v1alpha1.Replay) {
	slices.SortFunc(ended, func(a, b *v1alpha1.Replay) int {
		return timeOf(b.Status.CompletionTime).Compare(timeOf(a.Status.CompletionTime))
	})
	kept := map[v1alpha1.ReplayPhase]int{}
	limit := map[v1alpha1.ReplayPhase]int{
		v1alpha1.ReplayComplete: int(valueOr(spec.SuccessfulRunsHistoryLimit, defaultSuccessfulRuns)),
		v1alpha1.ReplayFailed:   int(valueOr(spec.FailedRunsHistoryLimit, defaultFailedRuns)),
	}
	for i, run := range ended {
		keepDiscarded(next, run)
		if i == 0 {
			next.Runs.Last = summaryOf(run)
			if p := run.Status.Position; p != nil && run.Status.Phase == v1alpha1.ReplayComplete {
				next.Position = p.DeepCopy()
			}
		}
		if at := run.Status.CompletionTime; run.Status.Phase == v1alpha1.ReplayComplete && (next.Runs.LastSuccessTime == nil || next.Runs.LastSuccessTime.Before(at)) {
			next.Runs.LastSuccessTime = at.DeepCopy()
		}
		if kept[run.Status.Phase]++; kept[run.Status.Phase] > limit[run.Status.Phase] {
			remove = append(remove, run)
		}
	}
	return remove
}

// keepDiscarded remembers that somebody had copies kept whose deletion a run held back, so that the next runs do not offer
// it again.
func keepDiscarded(next *v1alpha1.ReplicationStatus, run *v1alpha1.Replay) {
	d, at := run.Status.Deletions, run.Status.Position
	if d == nil || d.Discarded == "" || d.Held > 0 || at == nil {
		return
	}
	if next.Deletions == nil {
		next.Deletions = &v1alpha1.DeletionsStatus{}
	}
	if former := next.Deletions.DiscardedThrough; former == nil || positionOf(former).Compare(positionOf(at)) < 0 {
		next.Deletions.DiscardedThrough = at.DeepCopy()
	}
}

func timeOf(t *metav1.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.Time
}

func valueOr[T any](p *T, or T) T {
	if p == nil {
		return or
	}
	return *p
}

// summaryOf sums up a Replay that has ended.
func summaryOf(run *v1alpha1.Replay) *v1alpha1.RunSummary {
	s := &v1alpha1.RunSummary{Replay: run.Name, Phase: run.Status.Phase, StartTime: run.Status.StartTime, Counts: run.Status.Counts}
	if run.Status.StartTime != nil && run.Status.CompletionTime != nil {
		s.Seconds = int64(run.Status.CompletionTime.Sub(run.Status.StartTime.Time).Seconds())
	}
	return s
}

// settle sums the runs up in phase, counts and conditions.
func settle(next *v1alpha1.ReplicationStatus, repl *v1alpha1.Replication, now time.Time) {
	next.ObservedGeneration = repl.Generation
	next.Lag = nil
	if last := next.Runs.Last; last != nil {
		n := last.Counts
		next.Counts = v1alpha1.Counts{Synced: n.Created + n.Changed + n.Unchanged, Failed: n.Failed}
		next.Kinds = nil
	}
	next.Phase = v1alpha1.PhaseIdle
	c := condition(v1alpha1.ConditionReady, true, v1alpha1.ReasonIdle, "Waiting to be asked for a run, with the annotation "+v1alpha1.AnnotationSyncNow+".")
	switch {
	case repl.Spec.Paused:
		next.Phase = v1alpha1.PhasePaused
		c = condition(v1alpha1.ConditionReady, false, v1alpha1.ReasonPaused, "Paused by spec.paused: no run begins, and one under way is interrupted.")
	case next.Runs.Active != "":
		next.Phase = v1alpha1.PhaseRunning
		c = condition(v1alpha1.ConditionReady, true, v1alpha1.ReasonRunning, fmt.Sprintf("Replay %q is under way.", next.Runs.Active))
	case repl.Spec.Suspend:
		c = condition(v1alpha1.ConditionReady, true, v1alpha1.ReasonSuspended, "Suspended by spec.suspend: the schedule begins no run.")
	case repl.Spec.Mode == v1alpha1.ModeScheduled:
		c = condition(v1alpha1.ConditionReady, true, v1alpha1.ReasonIdle, "Waiting for the schedule.")
	}
	// What a Continuous run knew of does not hold any more.
	meta.RemoveStatusCondition(&next.Conditions, v1alpha1.ConditionSourceAvailable)
	meta.RemoveStatusCondition(&next.Conditions, v1alpha1.ConditionCaughtUp)
	degraded := condition(v1alpha1.ConditionDegraded, false, v1alpha1.ReasonAllApplied, "The last run was completed.")
	if last := next.Runs.Last; last != nil && last.Phase == v1alpha1.ReplayFailed {
		degraded = condition(v1alpha1.ConditionDegraded, true, v1alpha1.ReasonObjectsFailed, fmt.Sprintf("Replay %q failed: look at it for the reason.", last.Replay))
	}
	for _, c := range []metav1.Condition{c, degraded} {
		c.ObservedGeneration, c.LastTransitionTime = repl.Generation, metav1.NewTime(now)
		meta.SetStatusCondition(&next.Conditions, c)
	}
}

// maxRunName leaves room in the name of a Replay for what tells it from others.
const maxRunName = 200

// runOf makes a Replay of a Replication. Its name follows from what it is made for, so that it is made once.
func runOf(repl *v1alpha1.Replication, suffix string, at *time.Time) *v1alpha1.Replay {
	name := repl.Name[:min(len(repl.Name), maxRunName)]
	run := &v1alpha1.Replay{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: repl.Namespace, Name: strings.TrimRight(name, "-.") + "-" + suffix,
			Labels: map[string]string{v1alpha1.LabelRunOf: short(repl.Name)},
		},
		Spec: v1alpha1.ReplaySpec{
			Replication: &v1alpha1.ReplicationReference{Name: repl.Name},
			Mode:        v1alpha1.ReplayApply, Prune: repl.Spec.DeletionPolicy != v1alpha1.DeletionRetain,
		},
	}
	if len(repl.Name) <= 63 {
		run.Labels[v1alpha1.LabelRunOf] = repl.Name
	}
	if at != nil {
		run.Annotations = map[string]string{v1alpha1.AnnotationScheduledFor: at.UTC().Format(time.RFC3339)}
	}
	return run
}

// short is a few characters that tell a text from others.
func short(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:5])
}

// runs carries out what is to be done about the runs of a Replication that is not Continuous.
func (r *reconciler) runs(ctx context.Context, k *keeper, repl *v1alpha1.Replication) (reconcile.Result, error) {
	k.stop()
	if fresh, _ := k.saw(repl); !fresh {
		return reconcile.Result{RequeueAfter: soon}, nil
	}
	schedule, err := scheduleOf(repl.Spec)
	if err != nil {
		return reconcile.Result{}, err // refused before
	}
	var all v1alpha1.ReplayList
	if err := r.client.List(ctx, &all, client.InNamespace(repl.Namespace)); err != nil {
		return reconcile.Result{}, fmt.Errorf("list the replays of replication %q: %w", k.owner, err)
	}
	var own []*v1alpha1.Replay
	for i := range all.Items {
		if metav1.IsControlledBy(&all.Items[i], repl) {
			own = append(own, &all.Items[i])
		}
	}
	now := time.Now()
	t := decideRuns(repl, schedule, own, now)
	if r.oldest != nil {
		tellOldest(&t.next, r.oldest(repl.Spec.Source.Site))
	}
	if t.create != nil {
		if err := controllerutil.SetControllerReference(repl, t.create, r.client.Scheme()); err != nil {
			return reconcile.Result{}, fmt.Errorf("make a run of replication %q: %w", k.owner, err)
		}
		switch err := r.client.Create(ctx, t.create); {
		case err == nil:
			k.log.InfoContext(ctx, "run begins", telemetry.KeyName, t.create.Name)
			note := fmt.Sprintf("Made Replay %q.", t.create.Name)
			if n := t.next.Runs.Missed; n > 0 {
				note += fmt.Sprintf(" %d moments of the schedule were missed before.", n)
			}
			r.emit(repl, transition{reason: "RunCreated", action: "Schedule", note: note})
		case !apierrors.IsAlreadyExists(err):
			return reconcile.Result{}, fmt.Errorf("make a run of replication %q: %w", k.owner, err)
		}
	}
	for _, run := range t.remove {
		if err := r.client.Delete(ctx, run, client.Preconditions{UID: &run.UID}, client.PropagationPolicy(metav1.DeletePropagationBackground)); err != nil &&
			!apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return reconcile.Result{}, fmt.Errorf("delete replay %q: %w", client.ObjectKeyFromObject(run), err)
		}
	}
	result := reconcile.Result{}
	if !t.look.IsZero() {
		result.RequeueAfter = max(time.Until(t.look), time.Millisecond)
	}
	return r.writeRuns(ctx, k, repl, t.next, result)
}

// writeRuns writes the status of a Replication that is not Continuous, and tells what happened.
func (r *reconciler) writeRuns(ctx context.Context, k *keeper, repl *v1alpha1.Replication, next v1alpha1.ReplicationStatus, result reconcile.Result) (reconcile.Result, error) {
	former, base := *repl.Status.DeepCopy(), repl.ResourceVersion
	if !worthWriting(former, next, positionEvery) {
		return result, nil
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
	if was, is := missedOf(former), missedOf(next); is > was && next.Runs.Active == "" {
		r.emit(repl, transition{warning: true, reason: "RunMissed", action: "Schedule", note: "A moment of the schedule passed without a run: it could not begin within spec.startingDeadlineSeconds."})
	}
	if last := next.Runs.Last; last != nil && (former.Runs == nil || former.Runs.Last == nil || former.Runs.Last.Replay != last.Replay) {
		r.emit(repl, transition{
			warning: last.Phase == v1alpha1.ReplayFailed, reason: "Run" + string(last.Phase), action: "Replay",
			note: fmt.Sprintf("Replay %q ended after %d seconds: %s.", last.Replay, last.Seconds, last.Phase),
		})
	}
	for _, t := range transitions(former, next, nil) {
		r.emit(repl, t)
	}
	return result, nil
}

func missedOf(s v1alpha1.ReplicationStatus) int32 {
	if s.Runs == nil {
		return 0
	}
	return s.Runs.Missed
}
