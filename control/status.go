package control

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/pipeline"
)

// The times that keep conditions from flapping.
const (
	// failingFor is how long a run or an object must fail before a condition says so.
	failingFor = 15 * time.Second
	// silentAfter is how long nothing must be heard of a source before it counts as lost.
	silentAfter = time.Minute
	// behindAfter is the age of the oldest waiting change from which on the copy is
	// not caught up, and caughtUpBelow that below which it is again.
	behindAfter   = time.Minute
	caughtUpBelow = 10 * time.Second
	// heartbeatSlack is the silence of a source that is none: it speaks every few seconds.
	heartbeatSlack = 15 * time.Second
	// positionEvery is how often a position is written that alone has changed.
	positionEvery = 10 * time.Minute
)

// refusal is why a Replication is not carried out.
type refusal struct{ reason, message string }

// rulesInUse is how many rules run, and why they are not the ones that the spec asks
// for, if they are not.
type rulesInUse struct {
	count   int
	problem *refusal
}

// situation is everything that a status follows from, beside the former one.
type situation struct {
	generation int64
	// anew is set if the spec selects or places otherwise than the one that the
	// former status speaks of.
	anew     bool
	deleting bool
	// deleteErr is what keeps the copies from being deleted.
	deleteErr error
	paused    bool
	// syncNow asks for a run with every new value; the one that there is was begun for it.
	syncNow string
	// deletions is what is held back, nil if nothing was ever.
	deletions *v1alpha1.DeletionsStatus
	refused   *refusal
	// rules are those that spec.transforms asks for; nil if it does not.
	rules *rulesInUse
	// snapshot is that of the run, nil if there is none.
	snapshot *Snapshot
	// failing and stuck are since when objects, and the run, have been failing
	// without a break; zero if they are not.
	failing, stuck time.Time
	// oldest is since when the source can be read back; zero if that is not known.
	oldest time.Time
	now    time.Time
}

// nextStatus is what is true now. It changes nothing of former.
func nextStatus(former v1alpha1.ReplicationStatus, s situation) v1alpha1.ReplicationStatus {
	next := *former.DeepCopy()
	next.ObservedGeneration = s.generation
	if s.anew {
		next.FirstCopyTime, next.Position, next.Lag = nil, nil, nil
		next.Counts, next.Kinds, next.LastError = v1alpha1.Counts{}, nil, nil
	}
	if s.snapshot != nil {
		report(&next, s)
		next.Runs = nil
		if !s.paused && s.syncNow != "" {
			next.LastSyncNow = s.syncNow
		}
	}
	tellOldest(&next, s.oldest)
	next.Phase = phase(next, s)
	if s.rules == nil && s.refused == nil {
		meta.RemoveStatusCondition(&next.Conditions, v1alpha1.ConditionTransformsReady)
	}
	for _, c := range conditions(former, next, s) {
		c.ObservedGeneration = s.generation
		c.LastTransitionTime = metav1.NewTime(s.now)
		meta.SetStatusCondition(&next.Conditions, c)
	}
	return next
}

// whole is a time as the server keeps it, to the second: with more, what was written would differ from what is read.
func whole(t time.Time) metav1.Time { return metav1.NewTime(t.Truncate(time.Second)) }

// tellOldest notes since when every moment can be read back, to the second that is no
// promise too much. While that is not known, what was said before is the best there is.
func tellOldest(next *v1alpha1.ReplicationStatus, oldest time.Time) {
	if oldest.IsZero() {
		return
	}
	at := whole(oldest)
	if at.Time.Before(oldest) {
		at = whole(oldest.Add(time.Second))
	}
	next.OldestMoment = &at
}

// report takes over what the run knows.
func report(next *v1alpha1.ReplicationStatus, s situation) {
	snap := s.snapshot
	if snap.LastEvent != nil {
		next.LastEvent = snap.LastEvent
	}
	if snap.LastError != nil {
		next.LastError = snap.LastError
	}
	switch snap.Stage {
	case StageStarting:
		return // what was true before is the best that is known
	case StagePaused:
		next.Counts.Pending, next.Counts.Failed = 0, 0
		for i := range next.Kinds {
			next.Kinds[i].Pending, next.Kinds[i].Failed = 0, 0
		}
	case StageFollowing:
		next.Deletions = s.deletions
		if next.FirstCopyTime == nil {
			now := metav1.NewTime(s.now)
			next.FirstCopyTime = &now
		}
		count(next, snap.Kinds)
	case StageCopying:
		// Going over everything again after a restart, the counts start from nothing;
		// those from before are nearer the truth until it is done.
		if next.FirstCopyTime == nil {
			count(next, snap.Kinds)
		}
	}
	if !snap.Position.IsZero() {
		//nolint:gosec // G115: the log's sequences are far below 2^63
		next.Position = &v1alpha1.Position{Epoch: snap.Position.Epoch, Sequence: int64(snap.Position.Seq)}
	}
	next.Lag = &v1alpha1.Lag{Events: snap.Behind, Seconds: int64(lag(snap).Seconds())}
}

func count(next *v1alpha1.ReplicationStatus, kinds map[pipeline.GroupResource]v1alpha1.Counts) {
	next.Counts, next.Kinds = v1alpha1.Counts{}, nil
	for kind, n := range kinds {
		if n == (v1alpha1.Counts{}) {
			continue
		}
		next.Counts.Synced += n.Synced
		next.Counts.Pending += n.Pending
		next.Counts.Failed += n.Failed
		next.Counts.Parked += n.Parked
		next.Kinds = append(next.Kinds, v1alpha1.KindCounts{Kind: kind.String(), Counts: n})
	}
	slices.SortFunc(next.Kinds, func(a, b v1alpha1.KindCounts) int { return cmp.Compare(a.Kind, b.Kind) })
}

// lag is the snapshot's, without the moments by which a heartbeat may be late.
func lag(snap *Snapshot) time.Duration {
	if snap.Behind == 0 && snap.Lag < heartbeatSlack {
		return 0
	}
	return snap.Lag
}

// halted reports whether the run has been kept from working for long enough to
// say so. That the source is unknown is said at once.
func halted(s situation) bool {
	return s.snapshot != nil && s.snapshot.Err != nil &&
		(errors.Is(s.snapshot.Err, pipeline.ErrNoHistory) || !s.stuck.IsZero() && s.now.Sub(s.stuck) >= failingFor)
}

func phase(next v1alpha1.ReplicationStatus, s situation) v1alpha1.Phase {
	switch {
	case s.deleting:
		return v1alpha1.PhaseDeleting
	case s.refused != nil:
		return v1alpha1.PhaseFailed
	case s.paused:
		return v1alpha1.PhasePaused
	case s.snapshot == nil || halted(s):
		return v1alpha1.PhasePending
	case next.FirstCopyTime != nil:
		return v1alpha1.PhaseReplicating
	case s.snapshot.Stage == StageStarting:
		return v1alpha1.PhasePending
	}
	return v1alpha1.PhaseCopying
}

// conditions returns the conditions that can be told. Those that nothing is known
// of are left as they were.
func conditions(former, next v1alpha1.ReplicationStatus, s situation) []metav1.Condition {
	out := []metav1.Condition{ready(next, s)}
	if s.rules != nil {
		out = append(out, transformsReady(s))
	}
	if s.snapshot == nil || s.snapshot.Stage == StageStarting && s.snapshot.Err == nil {
		return out
	}
	out = append(out, sourceAvailable(s))
	if s.snapshot.Stage == StageStarting {
		return out
	}
	if next.Deletions != nil || meta.FindStatusCondition(former.Conditions, v1alpha1.ConditionDeletionsHeld) != nil {
		out = append(out, heldCondition(next.Deletions))
	}
	return append(out, caughtUp(former, next, s), degraded(next, s))
}

func condition(kind string, status bool, reason, message string) metav1.Condition {
	c := metav1.Condition{Type: kind, Status: metav1.ConditionFalse, Reason: reason, Message: message}
	if status {
		c.Status = metav1.ConditionTrue
	}
	return c
}

func ready(next v1alpha1.ReplicationStatus, s situation) metav1.Condition {
	no := func(reason, message string) metav1.Condition {
		return condition(v1alpha1.ConditionReady, false, reason, message)
	}
	switch next.Phase {
	case v1alpha1.PhaseDeleting:
		if s.deleteErr != nil {
			return no(v1alpha1.ReasonDeleting, "The copies cannot be deleted: "+s.deleteErr.Error())
		}
		return no(v1alpha1.ReasonDeleting, "The copies are being deleted.")
	case v1alpha1.PhaseFailed:
		return no(s.refused.reason, s.refused.message)
	case v1alpha1.PhasePaused:
		return no(v1alpha1.ReasonPaused, "Paused by spec.paused; unpausing catches up from the log.")
	case v1alpha1.PhaseCopying:
		return no(v1alpha1.ReasonCopying, "The first copy is being made.")
	case v1alpha1.PhaseReplicating:
		return condition(v1alpha1.ConditionReady, true, v1alpha1.ReasonReplicating, "Changes are applied as they come.")
	case v1alpha1.PhasePending, v1alpha1.PhaseIdle, v1alpha1.PhaseRunning:
	}
	switch {
	case !halted(s):
		return no(v1alpha1.ReasonStarting, "The run is starting.")
	case errors.Is(s.snapshot.Err, pipeline.ErrNoHistory):
		c := sourceAvailable(s)
		return no(c.Reason, c.Message)
	}
	return no(v1alpha1.ReasonRunFailing, "The run is tried again: "+s.snapshot.Err.Error())
}

func transformsReady(s situation) metav1.Condition {
	problem := s.rules.problem
	switch {
	case problem == nil:
		said := fmt.Sprintf("%d rules of spec.transforms are in use.", s.rules.count)
		if s.rules.count == 1 {
			said = "1 rule of spec.transforms is in use."
		}
		return condition(v1alpha1.ConditionTransformsReady, true, v1alpha1.ReasonRulesInUse, said)
	case s.refused != nil:
		return condition(v1alpha1.ConditionTransformsReady, false, problem.reason,
			"Nothing is applied until this is mended, for there are no former rules:\n"+problem.message)
	}
	return condition(v1alpha1.ConditionTransformsReady, false, problem.reason, "The former rules stay in use until this is mended:\n"+problem.message)
}

func sourceAvailable(s situation) metav1.Condition {
	snap := s.snapshot
	is := func(available bool, reason, message string) metav1.Condition {
		return condition(v1alpha1.ConditionSourceAvailable, available, reason, message)
	}
	switch {
	case errors.Is(snap.Err, pipeline.ErrNoHistory):
		return is(false, v1alpha1.ReasonUnknownSite, "The log holds no history of the site that spec.source.site names: "+
			"check the name, and that a collector runs with --site set to it. This is looked at again every few seconds.")
	case halted(s):
		return is(false, v1alpha1.ReasonLogUnavailable, "The log cannot be read: "+snap.Err.Error())
	case snap.Heard.IsZero() || s.now.Sub(snap.Heard) > silentAfter:
		return is(false, v1alpha1.ReasonSourceSilent, "Nothing is heard of the source's collector: check that it runs and reaches the log.")
	case len(snap.Failing) > 0:
		return is(true, v1alpha1.ReasonSourcePartial, "The collector cannot collect: "+strings.Join(slices.Sorted(maps.Keys(snap.Failing)), ", "))
	}
	return is(true, v1alpha1.ReasonSourceHeard, "The source's collector is heard of.")
}

func caughtUp(former, next v1alpha1.ReplicationStatus, s situation) metav1.Condition {
	was := meta.IsStatusConditionTrue(former.Conditions, v1alpha1.ConditionCaughtUp)
	behind := lag(s.snapshot)
	switch {
	case next.FirstCopyTime == nil:
		return condition(v1alpha1.ConditionCaughtUp, false, v1alpha1.ReasonCopying, "The first copy is not complete.")
	case s.paused && s.snapshot.Behind > 0:
		return condition(v1alpha1.ConditionCaughtUp, false, v1alpha1.ReasonPaused, "Changes wait in the log until this is unpaused.")
	case behind < caughtUpBelow, was && behind < behindAfter:
		return condition(v1alpha1.ConditionCaughtUp, true, v1alpha1.ReasonFollowing, "No change has waited for long.")
	}
	return condition(v1alpha1.ConditionCaughtUp, false, v1alpha1.ReasonBehind, "Changes have waited for more than a minute: see status.lag.")
}

func degraded(next v1alpha1.ReplicationStatus, s situation) metav1.Condition {
	switch {
	case next.Counts.Parked > 0:
		return condition(v1alpha1.ConditionDegraded, true, v1alpha1.ReasonObjectsParked,
			"Objects could not be applied and were parked: see status.kinds and status.lastError. A newer version heals them.")
	case !s.failing.IsZero() && s.now.Sub(s.failing) >= failingFor:
		return condition(v1alpha1.ConditionDegraded, true, v1alpha1.ReasonObjectsFailing,
			"Objects cannot be applied and are being tried again: see status.kinds and status.lastError.")
	}
	return condition(v1alpha1.ConditionDegraded, false, v1alpha1.ReasonAllApplied, "No object is failing for long or parked.")
}

// worthWriting reports whether next says enough that written does not, when the
// last write was the given time ago. An idle source's heartbeats move the
// position and nothing else: that is not worth much.
func worthWriting(written, next v1alpha1.ReplicationStatus, ago time.Duration) bool {
	if lagMoved(written.Lag, next.Lag) {
		return true
	}
	moved := !equality.Semantic.DeepEqual(written.Position, next.Position)
	next.Position, next.Lag = written.Position, written.Lag
	return !equality.Semantic.DeepEqual(written, next) || moved && ago >= positionEvery
}

// lagMoved reports whether the lag came, went, or changed by a tenth. What has not
// waited for a second is no lag yet, but a heartbeat on its way.
func lagMoved(a, b *v1alpha1.Lag) bool {
	if a == nil || b == nil {
		return a != b
	}
	moved := func(a, b int64) bool {
		d := max(a-b, b-a)
		return d > 0 && (a == 0 || b == 0 || d*10 >= min(a, b))
	}
	young := a.Events == 0 && b.Seconds == 0
	return moved(a.Events, b.Events) && !young || moved(a.Seconds, b.Seconds)
}
