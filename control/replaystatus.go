package control

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/pipeline"
)

// set sets conditions of a Replay's status.
func set(s *v1alpha1.ReplayStatus, now time.Time, conditions ...metav1.Condition) {
	for _, c := range conditions {
		c.LastTransitionTime = metav1.NewTime(now)
		meta.SetStatusCondition(&s.Conditions, c)
	}
}

// waiting is the status of a Replay that something keeps from running.
func waiting(former v1alpha1.ReplayStatus, why refusal, now time.Time) v1alpha1.ReplayStatus {
	next := *former.DeepCopy()
	next.Phase = v1alpha1.ReplayPending
	set(&next, now, condition(v1alpha1.ConditionComplete, false, why.reason, why.message))
	return next
}

// failing is the status of a Replay that cannot be done.
func failing(former v1alpha1.ReplayStatus, why refusal, now time.Time) v1alpha1.ReplayStatus {
	next := *former.DeepCopy()
	at := metav1.NewTime(now)
	next.Phase, next.CompletionTime = v1alpha1.ReplayFailed, &at
	set(&next, now, condition(v1alpha1.ConditionComplete, false, why.reason, why.message), condition(v1alpha1.ConditionFailed, true, why.reason, why.message))
	return next
}

// begun is the status of a Replay whose moment is known.
func begun(former v1alpha1.ReplayStatus, site string, at pipeline.Moment, now time.Time) v1alpha1.ReplayStatus {
	next := *former.DeepCopy()
	start, moment := metav1.NewTime(now), metav1.NewTime(at.Time)
	next.Phase, next.Source, next.StartTime = v1alpha1.ReplayRunning, site, &start
	next.Position = &v1alpha1.Position{Epoch: at.Position.Epoch, Sequence: int64(at.Position.Seq)} //nolint:gosec // G115: far below 2^63
	if !at.Time.IsZero() {
		next.PositionTime = &moment
	}
	set(&next, now, condition(v1alpha1.ConditionComplete, false, v1alpha1.ReasonRunning, "The run is under way."))
	return next
}

// next is the status of a Replay that is worked on.
func (t *task) next(former v1alpha1.ReplayStatus, decisions map[string]string, now time.Time) v1alpha1.ReplayStatus {
	t.mu.Lock()
	run, ended, err := t.run, t.ended, t.err
	t.mu.Unlock()
	var p Progress
	if run != nil {
		p = run.Progress()
	}
	return worked(former, p, ended, err, decisions, now)
}

// worked is the status of a Replay from how far its run is.
func worked(former v1alpha1.ReplayStatus, p Progress, ended bool, err error, decisions map[string]string, now time.Time) v1alpha1.ReplayStatus {
	next := *former.DeepCopy()
	next.Phase, next.CompletionTime = v1alpha1.ReplayRunning, nil
	// A run that goes over everything again counts from nothing; what was counted before is nearer the truth
	// until it has come as far.
	if ended || p.Counts.Total >= former.Counts.Total {
		next.Counts, next.Kinds = p.Counts, nil
		for kind, n := range p.Kinds {
			next.Kinds = append(next.Kinds, v1alpha1.ReplayKindCounts{Kind: kind.String(), ReplayCounts: n})
		}
		slices.SortFunc(next.Kinds, func(a, b v1alpha1.ReplayKindCounts) int { return cmp.Compare(a.Kind, b.Kind) })
	}
	if p.LastError != nil {
		next.LastError = p.LastError
	}
	next.Deletions = decided(former.Deletions, p, decisions)
	var gone unreachable
	switch {
	case errors.As(err, &gone):
		return failing(next, refusal{v1alpha1.ReasonNotThere, "The moment cannot be replayed: " + err.Error()}, now)
	case err != nil:
		set(&next, now, condition(v1alpha1.ConditionComplete, false, v1alpha1.ReasonRunFailing, "The run is tried again: "+err.Error()))
		return next
	case !ended:
		set(&next, now, condition(v1alpha1.ConditionComplete, false, v1alpha1.ReasonRunning, "The run is under way."))
		return next
	}
	set(&next, now, heldCondition(next.Deletions))
	if next.Counts.Failed > 0 {
		return failing(next, refusal{v1alpha1.ReasonObjectsFailed, fmt.Sprintf(
			"%d of %d objects could not be applied: see status.lastError, and `drsync replay results` for all of them.", next.Counts.Failed, next.Counts.Total)}, now)
	}
	at := metav1.NewTime(now)
	next.Phase, next.CompletionTime = v1alpha1.ReplayComplete, &at
	set(&next, now, condition(v1alpha1.ConditionComplete, true, v1alpha1.ReasonDone, "Everything is as it was at the moment."))
	return next
}

// discarded is the status of a Replay that has ended, whose copies are to be kept.
func discarded(former v1alpha1.ReplayStatus, decisions map[string]string, now time.Time) v1alpha1.ReplayStatus {
	next := *former.DeepCopy()
	next.Deletions.Held, next.Deletions.AfterReset, next.Deletions.Emptied, next.Deletions.Scopes = 0, 0, 0, nil
	next.Deletions.Discarded = decisions[v1alpha1.AnnotationDiscardDeletions]
	set(&next, now, heldCondition(next.Deletions))
	return next
}

// decided is what is held back and what was decided about it.
func decided(former *v1alpha1.DeletionsStatus, p Progress, decisions map[string]string) *v1alpha1.DeletionsStatus {
	approved, discarded := decisions[v1alpha1.AnnotationApproveDeletions], decisions[v1alpha1.AnnotationDiscardDeletions]
	if former == nil && p.Counts.Held == 0 && approved == "" && discarded == "" {
		return nil
	}
	d := v1alpha1.DeletionsStatus{Held: p.Counts.Held, AfterReset: p.AfterReset, Emptied: p.Emptied, Scopes: p.Held, Approved: approved, Discarded: discarded}
	if former != nil && discarded != former.Discarded {
		d.Held, d.AfterReset, d.Emptied, d.Scopes = 0, 0, 0, nil
	}
	return &d
}

// heldCondition says whether deletions are held back.
func heldCondition(d *v1alpha1.DeletionsStatus) metav1.Condition {
	if d == nil || d.Held == 0 {
		return condition(v1alpha1.ConditionDeletionsHeld, false, v1alpha1.ReasonNoneHeld, "No deletion is held back.")
	}
	reason, because := "", []string{}
	for _, cause := range []struct {
		held         int64
		reason, text string
	}{
		{d.Held - d.AfterReset - d.Emptied, v1alpha1.ReasonTooMany, "they are too many at once"},
		{d.AfterReset, v1alpha1.ReasonSourceReset, "the source was restored to an earlier state, or replaced by another cluster, and lacks these objects since"},
		{d.Emptied, v1alpha1.ReasonSourceEmptied, "the source lists nothing any more of their kind or namespace, and nobody saw them being deleted"},
	} {
		if cause.held <= 0 {
			continue
		}
		if reason == "" {
			reason = cause.reason
		}
		if cause.held < d.Held {
			cause.text = fmt.Sprintf("%d of them because %s", cause.held, cause.text)
		}
		because = append(because, cause.text)
	}
	return condition(v1alpha1.ConditionDeletionsHeld, true, reason, fmt.Sprintf(
		"%d deletions are held back: %s (%s): approve them with the annotation %s, or keep the copies with %s, each with a new value.",
		d.Held, strings.Join(because, ", "), scopesText(d.Scopes), v1alpha1.AnnotationApproveDeletions, v1alpha1.AnnotationDiscardDeletions))
}

// scopesText names the scopes for people, the first few.
func scopesText(scopes []v1alpha1.HeldScope) string {
	const most = 3
	text := ""
	for i, s := range scopes {
		switch {
		case i == most:
			return text + ", ..."
		case i > 0:
			text += ", "
		}
		if s.Namespace != "" {
			text += "namespace " + s.Namespace
		} else {
			text += s.Kind
		}
	}
	return text
}

// sameReplay reports whether two statuses say the same.
func sameReplay(a, b v1alpha1.ReplayStatus) bool { return equality.Semantic.DeepEqual(a, b) }

// replayTransitions tells what happened between two statuses of a Replay.
func replayTransitions(former, next v1alpha1.ReplayStatus) []transition {
	var out []transition
	if former.Phase != next.Phase {
		c := meta.FindStatusCondition(next.Conditions, v1alpha1.ConditionComplete)
		switch next.Phase {
		case v1alpha1.ReplayRunning:
			out = append(out, transition{false, "Started", "Replay", "Replaying up to " + momentOf(next) + "."})
		case v1alpha1.ReplayComplete:
			n := next.Counts
			out = append(out, transition{false, "Completed", "Replay", fmt.Sprintf(
				"Replayed up to %s: %d created, %d changed, %d unchanged, %d deleted, %d held back, %d skipped.",
				momentOf(next), n.Created, n.Changed, n.Unchanged, n.Deleted, n.Held, n.Skipped)})
		case v1alpha1.ReplayFailed:
			out = append(out, transition{true, "Failed", "Replay", c.Message})
		case v1alpha1.ReplayPending:
			if c.Reason == v1alpha1.ReasonStarting {
				break
			}
			out = append(out, transition{true, c.Reason, "Replay", c.Message})
		}
	}
	was, is := meta.IsStatusConditionTrue(former.Conditions, v1alpha1.ConditionDeletionsHeld), meta.FindStatusCondition(next.Conditions, v1alpha1.ConditionDeletionsHeld)
	if is != nil && is.Status == metav1.ConditionTrue && !was {
		out = append(out, transition{true, "DeletionsHeld", "Guard", is.Message})
	}
	return out
}

// momentOf is the moment of a Replay for people.
func momentOf(s v1alpha1.ReplayStatus) string {
	text := ""
	if s.Position != nil {
		text = fmt.Sprintf("%s/%d", s.Position.Epoch, s.Position.Sequence)
	}
	if s.PositionTime != nil {
		text = s.PositionTime.UTC().Format(time.RFC3339) + " (" + text + ")"
	}
	return text
}
