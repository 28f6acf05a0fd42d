package control

import (
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
)

// transition is something that happened between two statuses, for a Kubernetes Event.
type transition struct {
	warning              bool
	reason, action, note string
}

// transitions tells what happened between two statuses: nothing while nothing
// changes its state, however the numbers move. parked is why an object was parked
// last, nil if that is not known.
func transitions(former, next v1alpha1.ReplicationStatus, parked *v1alpha1.LastError) []transition {
	var out []transition
	happened := func(warning bool, reason, action, note string) {
		out = append(out, transition{warning, reason, action, note})
	}
	if former.Phase != next.Phase {
		switch {
		case next.Phase == v1alpha1.PhasePaused:
			happened(false, "Paused", "Pause", "Paused; the log keeps what comes meanwhile.")
		case former.Phase == v1alpha1.PhasePaused && next.Phase != v1alpha1.PhaseDeleting:
			happened(false, "Resumed", "Resume", "No longer paused; catching up from the log.")
		}
	}
	if was, is := reasonOf(former, v1alpha1.ConditionReady), reasonOf(next, v1alpha1.ConditionReady); was != is {
		switch is {
		case v1alpha1.ReasonInvalidSpec, v1alpha1.ReasonOverlap, v1alpha1.ReasonRunFailing: // that rules are wrong is told below
			happened(true, is, "Run", messageOf(next, v1alpha1.ConditionReady))
		}
	}
	if former.FirstCopyTime == nil && next.FirstCopyTime != nil {
		happened(false, "FirstCopyComplete", "Copy", fmt.Sprintf("The first copy is complete: %d objects are here.", next.Counts.Synced))
	}
	rulesTransition(former, next, happened)
	if c := conditionOf(next, v1alpha1.ConditionDeletionsHeld); c.Status == metav1.ConditionTrue &&
		!meta.IsStatusConditionTrue(former.Conditions, v1alpha1.ConditionDeletionsHeld) {
		happened(true, "DeletionsHeld", "Guard", c.Message)
	}
	sourceTransition(former, next, happened)
	parkedTransition(former, next, parked, happened)
	return out
}

func rulesTransition(former, next v1alpha1.ReplicationStatus, happened func(bool, string, string, string)) {
	was, is := conditionOf(former, v1alpha1.ConditionTransformsReady), conditionOf(next, v1alpha1.ConditionTransformsReady)
	switch {
	case is.Status == metav1.ConditionFalse && (was.Status != metav1.ConditionFalse || was.Message != is.Message):
		happened(true, is.Reason, "Compile", is.Message)
	case is.Status == metav1.ConditionTrue && was.Status == metav1.ConditionFalse:
		happened(false, "RulesMended", "Compile", is.Message)
	}
}

func sourceTransition(former, next v1alpha1.ReplicationStatus, happened func(bool, string, string, string)) {
	was, is := reasonOf(former, v1alpha1.ConditionSourceAvailable), reasonOf(next, v1alpha1.ConditionSourceAvailable)
	lost := meta.IsStatusConditionFalse(next.Conditions, v1alpha1.ConditionSourceAvailable)
	wasLost := meta.IsStatusConditionFalse(former.Conditions, v1alpha1.ConditionSourceAvailable)
	switch {
	case lost && was != is && is == v1alpha1.ReasonUnknownSite:
		happened(true, is, "Connect", messageOf(next, v1alpha1.ConditionSourceAvailable))
	case lost && was != is:
		happened(true, "SourceLost", "Connect", messageOf(next, v1alpha1.ConditionSourceAvailable))
	case wasLost && !lost:
		happened(false, "SourceBack", "Connect", "The source is available again.")
	}
}

func parkedTransition(former, next v1alpha1.ReplicationStatus, last *v1alpha1.LastError, happened func(bool, string, string, string)) {
	switch was, is := former.Counts.Parked, next.Counts.Parked; {
	case is > was && last != nil && last.Object != "":
		note := fmt.Sprintf("Parked %s: %s: %s", last.Object, last.Reason, last.Message)
		if more := is - was - 1; more > 0 {
			note = fmt.Sprintf("%s (and %d more)", note, more)
		}
		happened(true, "ObjectParked", "Park", note)
	case is > was:
		happened(true, "ObjectParked", "Park", fmt.Sprintf("%d objects were parked.", is-was))
	case is < was && is == 0:
		happened(false, "ParkedHealed", "Apply", "No object is parked any more.")
	case is < was:
		happened(false, "ParkedHealed", "Apply", fmt.Sprintf("%d parked objects were healed, %d are left.", was-is, is))
	}
}

func reasonOf(s v1alpha1.ReplicationStatus, kind string) string {
	return conditionOf(s, kind).Reason
}

func messageOf(s v1alpha1.ReplicationStatus, kind string) string {
	return conditionOf(s, kind).Message
}

func conditionOf(s v1alpha1.ReplicationStatus, kind string) metav1.Condition {
	if c := meta.FindStatusCondition(s.Conditions, kind); c != nil {
		return *c
	}
	return metav1.Condition{}
}
