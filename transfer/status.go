package transfer

import (
	"cmp"
	"fmt"
	"math"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	corev1 "k8s.io/api/core/v1"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/transfer/rsync"
)

// stateOf reads the state that a status holds.
func stateOf(s v1alpha1.VolumeTransferStatus) State {
	out := State{Phase: s.Phase, Epoch: uint64(max(s.Epoch, 0)), Failures: int(s.Failures)}
	for from, to := range map[*metav1.Time]*time.Time{s.PhaseTime: &out.Since, s.AttemptTime: &out.Began, s.NextAttemptTime: &out.NotBefore} {
		if from != nil {
			*to = from.Time
		}
	}
	if s.Outcome != nil {
		out.Outcome = &Outcome{Class(s.Outcome.Class), s.Outcome.Message}
	}
	return out
}

// statusOf is the status of a transfer in a state, with what was seen. It changes nothing of the old one.
func statusOf(vt *v1alpha1.VolumeTransfer, s State, o *observed, waits string, now time.Time) v1alpha1.VolumeTransferStatus {
	out := *vt.Status.DeepCopy()
	moved := out.Phase != s.Phase
	out.Phase, out.Epoch, out.Failures = s.Phase, int64(min(s.Epoch, math.MaxInt64)), int32(min(s.Failures, math.MaxInt32)) //nolint:gosec // G115: bounded
	out.ObservedGeneration = vt.Generation
	out.PhaseTime, out.AttemptTime, out.NextAttemptTime = moment(s.Since), moment(s.Began), moment(s.NotBefore)
	if s.Epoch > 0 && out.StartTime == nil {
		out.StartTime = moment(s.Began)
	}
	if out.NextAttemptTime != nil && s.Phase != v1alpha1.VolumeTransferPending {
		out.NextAttemptTime = nil
	}
	if moved && s.Phase == v1alpha1.VolumeTransferPreparing {
		out.Copy, out.Source = nil, nil
	}
	switch {
	case s.Outcome == nil:
		out.Outcome = nil
	case out.Outcome == nil || out.Outcome.Class != string(s.Outcome.Class) || out.Outcome.Message != s.Outcome.Message:
		out.Outcome = &v1alpha1.VolumeOutcome{Class: string(s.Outcome.Class), Message: s.Outcome.Message, Time: metav1.NewTime(now)}
		if c := s.Outcome.Class; c != Done && c != Suspended && c != Deleted {
			out.LastError = out.Outcome.DeepCopy()
		}
	}
	sourceStatus(&out, o)
	copyStatus(&out, o, now)
	if moved && s.Phase == v1alpha1.VolumeTransferCleaningUp && s.Outcome != nil && s.Outcome.Class == Done {
		out.RecoveryPoint = o.pointOf(vt, s, s.Began)
	}
	if s.Ended() && out.CompletionTime == nil {
		out.CompletionTime = moment(now)
	}
	out.Progress = progress(out, vt.Spec.Suspend, waits)
	conditions(&out, s, waits, vt.Generation, now)
	return out
}

func moment(t time.Time) *metav1.Time {
	if t.IsZero() {
		return nil
	}
	out := metav1.NewTime(t)
	return &out
}

func sourceStatus(out *v1alpha1.VolumeTransferStatus, o *observed) {
	if o.answer == nil {
		if out.Source != nil && out.Phase != v1alpha1.VolumeTransferComplete && out.Phase != v1alpha1.VolumeTransferFailed {
			out.Source.State, out.Source.Message = string(SourceSilent), ""
		}
		return
	}
	f := v1alpha1.VolumeFacts{}
	if out.Source != nil {
		f = *out.Source
	}
	f.State, f.Message = string(o.answer.State), o.answer.Message
	if a := o.answer.Facts; a != nil {
		f.UID, f.Node, f.InUse, f.AccessModes, f.VolumeMode = a.UID, a.Node, a.Live, a.AccessModes, string(corev1.PersistentVolumeFilesystem)
		if a.Block {
			f.VolumeMode = string(corev1.PersistentVolumeBlock)
		}
		if q, err := resource.ParseQuantity(a.Capacity); err == nil {
			f.Capacity = &q
		}
	}
	out.Source = &f
}

// copyStatus takes over what the mover tells. What it told last stays.
func copyStatus(out *v1alpha1.VolumeTransferStatus, o *observed, now time.Time) {
	r := o.report
	if r == nil {
		return
	}
	c := v1alpha1.VolumeCopy{}
	if out.Copy != nil {
		c = *out.Copy.DeepCopy()
	}
	p := r.Progress
	if r.Phase != phaseEnded {
		c.Pass = r.Phase
	}
	c.Carrier, c.NotKept, c.Rate, c.Updated = cmp.Or(r.Carrier, c.Carrier), r.CannotKeep, r.Rate, moment(r.Updated)
	c.Sent, c.Received = max(c.Sent, r.Sent), max(c.Received, r.Received)
	if r.Verdict == nil || p.Bytes > 0 {
		c.Bytes, c.Files, c.TotalFiles = p.Bytes, p.Known-min(p.Left, p.Known), p.Known
	}
	c.TotalBytes = max(r.Total, c.TotalBytes)
	c.ETA = nil
	if p.Complete && p.Left > 0 && c.Files > 0 && out.AttemptTime != nil {
		spent := now.Sub(out.AttemptTime.Time)
		left := time.Duration(float64(spent) / float64(c.Files) * float64(p.Left))
		c.ETA = moment(now.Add(min(max(left, 0), maxSession)))
	}
	if r.Verdict != nil {
		c.Deleted, c.Problems, c.Different, c.Rate = r.Deleted, r.Problems, r.Different, 0
		if r.Total > 0 {
			c.Bytes = r.Total
		}
		if r.Verdict.Class == rsync.Done {
			c.Verified = v1alpha1.VolumeVerify(cmp.Or(string(r.Verified), string(rsync.VerifyNone)))
		}
	}
	if o.pod != nil {
		c.Node = o.pod.Spec.NodeName
	}
	out.Copy = &c
}

// progress is the sum of a status in a few words.
func progress(s v1alpha1.VolumeTransferStatus, suspended bool, waits string) string {
	switch s.Phase {
	case v1alpha1.VolumeTransferPending, "":
		switch {
		case suspended:
			return "suspended"
		case waits != "":
			return waits
		case s.NextAttemptTime != nil:
			return "waits for its next attempt"
		}
		return "waits"
	case v1alpha1.VolumeTransferPreparing, v1alpha1.VolumeTransferConnecting:
		if s.Source != nil && s.Source.Message != "" {
			return "source: " + s.Source.Message
		}
		return "asks the source"
	case v1alpha1.VolumeTransferTransferring, v1alpha1.VolumeTransferVerifying:
		if s.Copy == nil {
			return "begins"
		}
		text := ""
		if s.Copy.TotalFiles > 0 {
			const percent = 100
			text = fmt.Sprintf("%.0f%%, ", percent*float64(s.Copy.Files)/float64(s.Copy.TotalFiles))
		}
		return text + fmt.Sprintf("%s, %s/s", title(s.Copy.Bytes), title(s.Copy.Rate))
	case v1alpha1.VolumeTransferPublishing:
		return "makes the recovery point"
	case v1alpha1.VolumeTransferCleaningUp:
		return "cleans up"
	case v1alpha1.VolumeTransferComplete:
		if s.Copy != nil {
			return fmt.Sprintf("%s, %s received", title(s.Copy.TotalBytes), title(s.Copy.Received))
		}
		return "done"
	case v1alpha1.VolumeTransferFailed:
		if s.Outcome != nil {
			return s.Outcome.Class
		}
	}
	return ""
}

// conditions sets Complete and Failed.
func conditions(out *v1alpha1.VolumeTransferStatus, s State, waits string, generation int64, now time.Time) {
	complete, failed := metav1.ConditionFalse, metav1.ConditionFalse
	reason, message := string(s.Phase), waits
	if s.Outcome != nil {
		reason, message = string(s.Outcome.Class), s.Outcome.Message
	}
	switch s.Phase {
	case v1alpha1.VolumeTransferComplete:
		complete = metav1.ConditionTrue
	case v1alpha1.VolumeTransferFailed:
		failed = metav1.ConditionTrue
	default:
	}
	set(&out.Conditions, v1alpha1.ConditionComplete, complete, reason, message, generation, now)
	set(&out.Conditions, v1alpha1.ConditionFailed, failed, reason, message, generation, now)
}

func set(all *[]metav1.Condition, kind string, status metav1.ConditionStatus, reason, message string, generation int64, now time.Time) {
	c := metav1.Condition{Type: kind, Status: status, Reason: reason, Message: message, ObservedGeneration: generation, LastTransitionTime: metav1.NewTime(now)}
	for i, old := range *all {
		if old.Type == kind {
			if old.Status == status {
				c.LastTransitionTime = old.LastTransitionTime
			}
			(*all)[i] = c
			return
		}
	}
	*all = append(*all, c)
}
