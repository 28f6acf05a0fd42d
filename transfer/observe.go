package transfer

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/telemetry"
	"github.com/dr-syncer/dr-syncer/transfer/rsync"
)

// observed is what a look at a transfer's surroundings found.
type observed struct {
	world    World
	claim    *corev1.PersistentVolumeClaim
	pod      *corev1.Pod
	secrets  map[uint64]*corev1.Secret
	answer   *Answer
	report   *Report
	snapshot *snapshotting
}

// observe looks at everything that a transfer has to do with.
func (r *Runner) observe(ctx context.Context, vt *v1alpha1.VolumeTransfer, s State) (*observed, error) {
	o := &observed{secrets: map[uint64]*corev1.Secret{}}
	o.world = World{Deleted: !vt.DeletionTimestamp.IsZero(), Suspended: vt.Spec.Suspend, Source: Source{State: SourceSilent}}
	uid := string(vt.UID)
	found, err := r.Client.Find(ctx, kube.Secrets, vt.Namespace, LabelTransfer+"="+uid+","+LabelEnd+"=destination")
	if err != nil {
		return nil, err
	}
	for _, f := range found {
		secret, err := decode[corev1.Secret](f)
		if err != nil {
			return nil, err
		}
		if epoch, err := strconv.ParseUint(secret.Labels[LabelEpoch], 10, 64); err == nil {
			o.secrets[epoch] = secret
			o.world.Identities = append(o.world.Identities, epoch)
		}
	}
	if a, ok := r.Board.Answer(sessionID(uid, s.Epoch)); ok && s.Epoch > 0 {
		o.answer = &a
		o.world.Source = Source{State: a.State, Message: a.Message, Class: a.Class}
	}
	if err := r.observeClaim(ctx, vt, o); err != nil {
		return nil, err
	}
	if o.pod != nil {
		o.world.Mover = moverOf(o.pod, uid)
		r.listen(ctx, o, sessionID(uid, s.Epoch))
	}
	if s.Phase == v1alpha1.VolumeTransferPublishing || s.Phase == v1alpha1.VolumeTransferComplete {
		if o.snapshot, err = r.observeSnapshots(ctx, vt, s, o.claim); err != nil {
			return nil, err
		}
		o.world.Snapshot = o.snapshot.state
	}
	return o, nil
}

// listen reads what the mover tells.
func (r *Runner) listen(ctx context.Context, o *observed, session string) {
	m := o.world.Mover
	switch {
	case !m.Ours || o.pod.Labels[LabelSession] != session:
	case m.Ended:
		_, o.report = endOf(o.pod, session)
	case m.Running:
		lines, err := r.Client.LastLines(ctx, o.pod.Namespace, o.pod.Name)
		if err != nil { // the copy goes on whether it is seen or not
			r.Log.DebugContext(ctx, "cannot read what the mover tells", telemetry.KeyName, o.pod.Name, telemetry.KeyError, err)
			return
		}
		for line := range bytes.Lines(lines) { // its log is among them
			if report, err := ParseReport(line); err == nil && report.Session == session {
				o.report = &report
			}
		}
		if report := o.report; report != nil {
			m.Verifying = report.Phase == string(rsync.PassSample) || report.Phase == string(rsync.PassFull)
		}
	}
}

// observeClaim looks at the destination's claim and at who uses it.
func (r *Runner) observeClaim(ctx context.Context, vt *v1alpha1.VolumeTransfer, o *observed) error {
	object, err := r.Client.Get(ctx, claims, vt.Namespace, claimName(vt))
	if kube.IsNotFound(err) {
		return nil
	} else if err != nil {
		return err
	}
	if o.claim, err = decode[corev1.PersistentVolumeClaim](object); err != nil {
		return err
	}
	all, err := r.Client.Find(ctx, pods, vt.Namespace, "")
	if err != nil {
		return err
	}
	var users []string
	for _, f := range all {
		p, err := decode[corev1.Pod](f)
		if err != nil {
			return err
		}
		switch {
		case p.Name == moverName(string(o.claim.UID)) && p.Labels[LabelEnd] == destinationEnd:
			o.pod = p
		case uses(p, o.claim.Name):
			users = append(users, p.Name)
		}
	}
	want, err := wanted(vt, o.facts(vt))
	if err != nil {
		return err
	}
	o.world.Claim = judgeClaim(o.claim, vt.Spec.Destination.Adopt, o.facts(vt), want, users)
	return nil
}

// uses reports whether a Pod that is not over mounts a claim.
func uses(p *corev1.Pod, claim string) bool {
	if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		return false
	}
	for _, v := range p.Spec.Volumes {
		if v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ClaimName == claim {
			return true
		}
	}
	return false
}

// wanted is how large the destination's claim has to be; zero if that is not known yet.
func wanted(vt *v1alpha1.VolumeTransfer, f Facts) (resource.Quantity, error) {
	want := resource.Quantity{}
	if f.Capacity != "" {
		q, err := resource.ParseQuantity(f.Capacity)
		if err != nil {
			return want, fmt.Errorf("read the capacity of the source: %w", err)
		}
		want = q
	}
	if c := vt.Spec.Destination.Capacity; c != nil {
		want = *c
	}
	return want, nil
}

// judgeClaim says whether a claim can be written to. users are the Pods that mount it.
func judgeClaim(c *corev1.PersistentVolumeClaim, adopt bool, source Facts, want resource.Quantity, users []string) Claim {
	asked := c.Spec.Resources.Requests[corev1.ResourceStorage]
	out := Claim{Exists: true, Fits: asked.Cmp(want) >= 0}
	if has, ok := c.Status.Capacity[corev1.ResourceStorage]; ok && has.Cmp(want) < 0 && c.Status.Phase == corev1.ClaimBound {
		out.Fits = false
	}
	block := c.Spec.VolumeMode != nil && *c.Spec.VolumeMode == corev1.PersistentVolumeBlock
	ours := c.Labels[LabelClaim] != "" || c.Labels[v1alpha1.LabelReplication] != ""
	switch {
	case c.DeletionTimestamp != nil:
		out.Blocked = &Outcome{InUse, fmt.Sprintf("the claim %q is being deleted", c.Name)}
	case !ours && !adopt:
		out.Blocked = &Outcome{Permanent, fmt.Sprintf("the claim %q is not of DR-Syncer's making, and a copy would overwrite it: give spec.destination.adopt: true if that is right", c.Name)}
	case source.UID != "" && source.UID == string(c.UID):
		out.Blocked = &Outcome{Permanent, "source and destination are one and the same claim"}
	case source.UID != "" && block != source.Block:
		out.Blocked = &Outcome{Permanent, fmt.Sprintf("one of the two claims is of volumeMode Block and the other is not: delete the claim %q here, or copy into another", c.Name)}
	case len(users) > 0:
		out.Blocked = &Outcome{InUse, fmt.Sprintf("the Pod %q uses the claim %q, which would change under it: stop it first", users[0], c.Name)}
	}
	return out
}

func decode[T any](o kube.Object) (*T, error) {
	out := new(T)
	if err := json.Unmarshal(o.Raw, out); err != nil {
		return nil, fmt.Errorf("decode %s %q in namespace %q: it is not of the form that is expected", o.Kind, o.Name, o.Namespace)
	}
	return out, nil
}
