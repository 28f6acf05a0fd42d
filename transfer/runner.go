package transfer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/telemetry"
	"github.com/dr-syncer/dr-syncer/transfer/stream"
)

// Runner runs transfers at the destination. It keeps nothing: what it needs to know is written down in the resources. It is safe for
// concurrent use, but not for one transfer at once.
type Runner struct {
	Client *kube.Client
	Board  *Board
	Gate   *Gate
	Image  Image
	Log    *slog.Logger
}

// The pace of Run.
const (
	busyInterval    = 2 * time.Second
	pendingInterval = 5 * time.Second
)

// Turn is what came of one turn of a transfer.
type Turn struct {
	// Again is when to look at it again; 0 for not before it changes.
	Again time.Duration
	// Clean says that nothing of the transfer is left but what it was for.
	Clean bool
}

// Run looks at a transfer, takes one step, has the status written down and then does what is to be done. It is called again and again, by
// one process of those that share a destination; it may fail or die anywhere. write fails if the resource is not what it was.
func (r *Runner) Run(ctx context.Context, vt *v1alpha1.VolumeTransfer, write func(context.Context, v1alpha1.VolumeTransferStatus) error) (Turn, error) {
	now := time.Now()
	state := stateOf(vt.Status)
	seen, err := r.observe(ctx, vt, state)
	if err != nil {
		return Turn{}, err
	}
	key, place := string(vt.UID), seen.place(vt)
	waits := ""
	switch {
	case state.Busy():
		r.Gate.Keep(key, place)
	case !state.Ended() && !seen.world.Deleted && !seen.world.Suspended && !now.Before(state.NotBefore):
		seen.world.Admitted, waits = r.Gate.Enter(key, place)
	}
	next, actions := Step(terms(vt, state), state, seen.world, now)
	if next.Phase != state.Phase {
		r.Log.InfoContext(ctx, "volume transfer goes on", telemetry.KeyNamespace, vt.Namespace, telemetry.KeyName, vt.Name,
			telemetry.KeyPhase, string(next.Phase), telemetry.KeyEpoch, next.Epoch)
	}
	if err := write(ctx, statusOf(vt, next, seen, waits, now)); err != nil {
		return Turn{}, err
	}
	var errs []error
	for _, a := range actions {
		if err := r.act(ctx, vt, next, seen, a, key); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", a, err))
		}
	}
	if next.Busy() {
		errs = append(errs, r.tend(ctx, vt, seen))
	}
	turn := Turn{Again: busyInterval, Clean: len(seen.world.Identities) == 0 && (seen.world.Mover == nil || !seen.world.Mover.Ours)}
	switch {
	case next.Phase != state.Phase:
		const atOnce = 50 * time.Millisecond
		turn.Again = atOnce
	case next.Ended() && turn.Clean:
		turn.Again = 0
	case next.Phase == v1alpha1.VolumeTransferPending:
		turn.Again = max(pendingInterval, next.NotBefore.Sub(now))
		if next.NotBefore.After(now) {
			turn.Again = next.NotBefore.Sub(now)
		}
	}
	return turn, errors.Join(errs...)
}

// Forget drops what is held of a transfer that is no more, by its UID. What it has made goes with it. It may be repeated.
func (r *Runner) Forget(uid string) {
	r.Gate.Leave(uid)
	r.Board.Forget(uid)
}

// Inside are the transfers that have been admitted, as a new Gate wants them.
func Inside(all []v1alpha1.VolumeTransfer) map[string]Place {
	inside := map[string]Place{}
	for i := range all {
		if vt := &all[i]; stateOf(vt.Status).Busy() {
			inside[string(vt.UID)] = (&observed{}).place(vt)
		}
	}
	return inside
}

func terms(vt *v1alpha1.VolumeTransfer, s State) Terms {
	return Terms{
		Snapshots: vt.Spec.Snapshots, Attempts: max(int(vt.Spec.Attempts), 1), Timeout: vt.Spec.Timeout.Duration,
		Jitter: jitter(string(vt.UID), s.Epoch),
	}
}

// session is that of an attempt.
func session(vt *v1alpha1.VolumeTransfer, s State) stream.Session {
	return stream.Session{
		ID: sessionID(string(vt.UID), s.Epoch), Claim: vt.Spec.Source.Site + "/" + vt.Spec.Source.Namespace + "/" + vt.Spec.Source.Claim,
		Epoch: s.Epoch, Expires: s.Began.Add(vt.Spec.Timeout.Duration).UTC().Truncate(time.Second),
	}
}

// claimName is the destination's claim.
func claimName(vt *v1alpha1.VolumeTransfer) string {
	if vt.Spec.Destination.Claim != "" {
		return vt.Spec.Destination.Claim
	}
	return vt.Spec.Source.Claim
}

// place is what the transfer takes up, as far as that is known.
func (o *observed) place(vt *v1alpha1.VolumeTransfer) Place {
	p := Place{Claim: vt.Namespace + "/" + claimName(vt), Class: vt.Spec.Destination.StorageClass}
	if o.claim != nil {
		p.Node = o.claim.Annotations["volume.kubernetes.io/selected-node"]
		if o.claim.Spec.StorageClassName != nil {
			p.Class = *o.claim.Spec.StorageClassName
		}
	}
	if o.pod != nil && o.pod.Spec.NodeName != "" {
		p.Node = o.pod.Spec.NodeName
	}
	return p
}

// facts are what the source tells now or, while it is silent, what it told before.
func (o *observed) facts(vt *v1alpha1.VolumeTransfer) Facts {
	if o.answer != nil && o.answer.Facts != nil {
		return *o.answer.Facts
	}
	s := vt.Status.Source
	if s == nil {
		return Facts{}
	}
	f := Facts{UID: s.UID, AccessModes: s.AccessModes, Block: s.VolumeMode == string(corev1.PersistentVolumeBlock), Node: s.Node, Live: s.InUse}
	if s.Capacity != nil {
		f.Capacity = s.Capacity.String()
	}
	return f
}
