package transfer

import (
	"fmt"
	"slices"
	"time"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
)

// Patience with what others do, within one attempt.
const (
	// preparePatience is for the source to answer and the claim to be there.
	preparePatience = 3 * time.Minute
	// connectPatience is for volumes to be attached, images to be pulled and both movers to run.
	connectPatience = 15 * time.Minute
	publishPatience = 15 * time.Minute
	// endPatience is what a mover gets beyond the attempt's timeout to say how it ended.
	endPatience = 2 * time.Minute
)

// Action is something to be done. All may be repeated.
type Action struct {
	Kind ActionKind
	// Epoch is the attempt that it is for.
	Epoch uint64
}

// ActionKind says what is to be done.
type ActionKind uint8

const (
	// Ask asks the source to serve; it has to be repeated. Withdraw takes it back.
	Ask ActionKind = iota
	Withdraw
	// MakeIdentity makes the secret of the epoch.
	MakeIdentity
	// DropIdentity removes it.
	DropIdentity
	// MakeClaim makes the destination's claim, or grows it.
	MakeClaim
	// StartMover starts the mover of the epoch, if the claim has none.
	StartMover
	// StopMover removes the mover of the epoch.
	StopMover
	// MakeSnapshot makes the recovery point of the epoch.
	MakeSnapshot
	// PruneSnapshots removes the recovery points that are not to be kept.
	PruneSnapshots
	// Leave gives the place at the gate back.
	Leave
)

var actionNames = [...]string{
	"Ask", "Withdraw", "MakeIdentity", "DropIdentity", "MakeClaim", "StartMover", "StopMover", "MakeSnapshot", "PruneSnapshots", "Leave",
}

// String names the action.
func (a Action) String() string { return fmt.Sprintf("%s(%d)", actionNames[a.Kind], a.Epoch) }

// Step says where a transfer stands next, and what is to be done there. It is a function of its arguments. The state has to be
// written down before anything is done.
func Step(t Terms, s State, w World, now time.Time) (State, []Action) {
	next := advance(t, s, w, now)
	if next.Phase != s.Phase {
		next.Since = now
	}
	return next, duties(t, next, w)
}

// advance moves a state on by one phase at most.
func advance(t Terms, s State, w World, now time.Time) State {
	if s.Busy() && s.Phase != v1alpha1.VolumeTransferCleaningUp {
		switch {
		case w.Deleted:
			return finish(s, Deleted, "it was deleted")
		case w.Suspended:
			return finish(s, Suspended, "it is suspended")
		case s.Phase != v1alpha1.VolumeTransferPublishing && now.After(s.Began.Add(t.Timeout+endPatience)):
			return finish(s, Transient, fmt.Sprintf("it was not done within %s: raise spec.timeout if there is so much to copy", t.Timeout))
		}
	}
	switch s.Phase {
	case "", v1alpha1.VolumeTransferPending:
		return advancePending(s, w, now)
	case v1alpha1.VolumeTransferPreparing:
		return advancePreparing(s, w, now)
	case v1alpha1.VolumeTransferConnecting:
		return advanceConnecting(s, w, now)
	case v1alpha1.VolumeTransferTransferring, v1alpha1.VolumeTransferVerifying:
		return advanceCopying(s, w)
	case v1alpha1.VolumeTransferPublishing:
		return advancePublishing(t, s, w, now)
	case v1alpha1.VolumeTransferCleaningUp:
		return advanceCleaning(t, s, w, now)
	case v1alpha1.VolumeTransferComplete, v1alpha1.VolumeTransferFailed:
	}
	return s
}

func advancePending(s State, w World, now time.Time) State {
	s.Phase = v1alpha1.VolumeTransferPending
	switch {
	case w.Deleted: // nothing of it is there
		s.Phase, s.Outcome = v1alpha1.VolumeTransferFailed, &Outcome{Deleted, "it was deleted"}
		return s
	case w.Suspended, now.Before(s.NotBefore), !w.Admitted:
		return s
	}
	s.Phase, s.Epoch, s.Began, s.Outcome = v1alpha1.VolumeTransferPreparing, s.Epoch+1, now, nil
	return s
}

func advancePreparing(s State, w World, now time.Time) State {
	switch {
	case w.Source.State == SourceRefused:
		return refused(s, w.Source)
	case w.Claim.Blocked != nil:
		return finish(s, w.Claim.Blocked.Class, w.Claim.Blocked.Message)
	case w.Claim.Exists && w.Claim.Fits && slices.Contains(w.Identities, s.Epoch) && w.Source.State != SourceSilent:
		s.Phase = v1alpha1.VolumeTransferConnecting
		return s
	case now.After(s.Since.Add(preparePatience)) && w.Source.State == SourceSilent:
		return finish(s, Transient, "the source's cluster does not answer: its collector has to run with --mover-image, and reach the log")
	case now.After(s.Since.Add(preparePatience)):
		return finish(s, Transient, "the claim is not there, or not large enough yet: look at the events of the claim")
	}
	return s
}

func advanceConnecting(s State, w World, now time.Time) State {
	switch m := w.Mover; {
	case m != nil && m.Ours && m.Epoch == s.Epoch && (m.Running || m.Ended):
		s.Phase = v1alpha1.VolumeTransferTransferring
	case w.Source.State == SourceRefused:
		return refused(s, w.Source)
	case m == nil && w.Claim.Blocked != nil:
		return finish(s, w.Claim.Blocked.Class, w.Claim.Blocked.Message)
	case now.After(s.Since.Add(connectPatience)):
		return finish(s, Transient, "the movers did not both start: "+waitingFor(w))
	}
	return s
}

// waitingFor says what connecting waits for.
func waitingFor(w World) string {
	switch {
	case w.Mover != nil && !w.Mover.Ours:
		return "another transfer's mover uses the claim"
	case w.Mover != nil && w.Mover.Why != "":
		return "here: " + w.Mover.Why
	case w.Mover != nil:
		return "here the Pod does not run"
	case w.Source.State == SourceSilent:
		return "the source's cluster does not answer"
	case w.Source.Message != "":
		return "at the source: " + w.Source.Message
	}
	return "at the source the Pod does not run"
}

func advanceCopying(s State, w World) State {
	m := w.Mover
	switch {
	case m == nil || !m.Ours || m.Epoch != s.Epoch:
		return finish(s, Transient, "the mover was removed")
	case m.Ended && m.Outcome.Class == Done:
		s.Phase = v1alpha1.VolumeTransferPublishing
	case m.Ended:
		return finish(s, m.Outcome.Class, m.Outcome.Message)
	case w.Source.State == SourceRefused: // nobody serves any more
		return refused(s, w.Source)
	case m.Verifying:
		s.Phase = v1alpha1.VolumeTransferVerifying
	default:
		s.Phase = v1alpha1.VolumeTransferTransferring
	}
	return s
}

func advancePublishing(t Terms, s State, w World, now time.Time) State {
	p := w.Snapshot
	switch {
	case t.Snapshots == v1alpha1.SnapshotsNever, p.Ready, !p.Possible && t.Snapshots != v1alpha1.SnapshotsRequire:
		return finish(s, Done, "copied")
	case !p.Possible:
		return finish(s, Permanent, "the copy is whole, but its storage makes no snapshots: install a VolumeSnapshotClass of its driver, or give snapshots: Auto")
	case p.Failed != "":
		return finish(s, Transient, "the copy is whole, but its snapshot failed: "+p.Failed)
	case now.After(s.Since.Add(publishPatience)):
		return finish(s, Transient, "the copy is whole, but its snapshot does not become ready: look at the events of the VolumeSnapshot")
	}
	return s
}

func advanceCleaning(t Terms, s State, w World, now time.Time) State {
	if len(w.Identities) > 0 || w.Mover != nil && w.Mover.Ours {
		return s
	}
	if s.Outcome == nil { // written by nobody, read from somewhere: an attempt without an end has failed
		s.Outcome = &Outcome{Transient, "it is not known how the attempt ended"}
	}
	switch s.Outcome.Class {
	case Done:
		s.Phase = v1alpha1.VolumeTransferComplete
		return s
	case Deleted:
		s.Phase = v1alpha1.VolumeTransferFailed
		return s
	case Suspended:
		s.Phase, s.NotBefore = v1alpha1.VolumeTransferPending, now
		return s
	default:
	}
	s.Failures++
	if w.Deleted || !again(s.Outcome.Class, s.Failures, t.Attempts) {
		s.Phase = v1alpha1.VolumeTransferFailed
		return s
	}
	s.Phase, s.NotBefore = v1alpha1.VolumeTransferPending, now.Add(pause(s.Failures, t.Jitter))
	return s
}

func finish(s State, c Class, message string) State {
	s.Phase, s.Outcome = v1alpha1.VolumeTransferCleaningUp, &Outcome{c, message}
	return s
}

func refused(s State, from Source) State {
	class := from.Class
	if class == "" || class == Done {
		class = Refused
	}
	return finish(s, class, "the source refuses: "+from.Message)
}

// duties says what is to be done in a state, as far as the world does not show it done. What is not of the present
// attempt is removed in every phase: whoever made it was late.
func duties(t Terms, s State, w World) []Action {
	var out []Action
	add := func(k ActionKind, epoch uint64) { out = append(out, Action{k, epoch}) }
	active := s.Busy() && s.Phase != v1alpha1.VolumeTransferCleaningUp
	for _, e := range w.Identities {
		if !active || e != s.Epoch {
			add(DropIdentity, e)
		}
	}
	if m := w.Mover; m != nil && m.Ours && !m.Going && (!active || m.Epoch != s.Epoch) {
		add(StopMover, m.Epoch)
	}
	identified := slices.Contains(w.Identities, s.Epoch)
	wished := active && identified && s.Phase != v1alpha1.VolumeTransferPublishing
	if wished {
		add(Ask, s.Epoch)
	} else {
		add(Withdraw, s.Epoch)
	}
	switch s.Phase {
	case v1alpha1.VolumeTransferPreparing:
		if !identified {
			add(MakeIdentity, s.Epoch)
		} else if w.Source.State != SourceSilent && w.Source.State != SourceRefused && (!w.Claim.Exists || !w.Claim.Fits) && w.Claim.Blocked == nil {
			add(MakeClaim, s.Epoch)
		}
	case v1alpha1.VolumeTransferConnecting:
		if w.Mover == nil && w.Source.State == SourceServing && identified {
			add(StartMover, s.Epoch)
		}
	case v1alpha1.VolumeTransferPublishing:
		if !w.Snapshot.Exists && w.Snapshot.Possible && t.Snapshots != v1alpha1.SnapshotsNever {
			add(MakeSnapshot, s.Epoch)
		}
	case v1alpha1.VolumeTransferComplete:
		if t.Snapshots != v1alpha1.SnapshotsNever && w.Snapshot.Possible {
			add(PruneSnapshots, s.Epoch)
		}
	case "", v1alpha1.VolumeTransferPending, v1alpha1.VolumeTransferTransferring, v1alpha1.VolumeTransferVerifying, v1alpha1.VolumeTransferCleaningUp, v1alpha1.VolumeTransferFailed:
	}
	if !s.Busy() {
		add(Leave, s.Epoch)
	}
	return out
}

// again reports whether an attempt that ended so, the nth to fail, is followed by another.
func again(c Class, failures, attempts int) bool {
	switch c {
	case Transient, Canceled, InUse, Vanished:
		return failures < attempts
	case Partial, Memory:
		const once = 2
		return failures < min(attempts, once)
	case Done, Permanent, Storage, TooManyDeletions, Different, Refused, Suspended, Deleted:
	}
	return false
}

const (
	firstPause = 5 * time.Second
	maxPause   = 10 * time.Minute
)

// pause is how long to wait after the nth failure.
func pause(failures int, jitter float64) time.Duration {
	wait := firstPause
	for range failures - 1 {
		wait = min(2*wait, maxPause)
	}
	const half = 2
	return wait/half + time.Duration(float64(wait/half)*min(max(jitter, 0), 1))
}
