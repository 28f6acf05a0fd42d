package transfer

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/pipeline"
)

// Recovery points are VolumeSnapshots of the destination's claim, where its driver makes some. They outlive the transfer: a newer one
// of the claim removes those beyond the number to keep.

const snapshotGroup = "snapshot.storage.k8s.io"

// AnnotationKeep with the value "true" on a recovery point keeps it from being removed.
const AnnotationKeep = "dr-syncer.io/keep"

// volumeSnapshot is of the API's objects what we need.
type volumeSnapshot struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              volumeSnapshotSpec    `json:"spec"`
	Status            *volumeSnapshotStatus `json:"status,omitempty"`
}

type volumeSnapshotSpec struct {
	Source struct {
		Claim string `json:"persistentVolumeClaimName"`
	} `json:"source"`
	Class string `json:"volumeSnapshotClassName,omitempty"`
}

type volumeSnapshotStatus struct {
	Ready *bool `json:"readyToUse,omitempty"`
	Error *struct {
		Message string `json:"message,omitempty"`
	} `json:"error,omitempty"`
}

// snapshotting is what is known of the recovery points of a claim.
type snapshotting struct {
	state Snapshot
	kind  kube.Kind
	class string
	all   []*volumeSnapshot
}

// observeSnapshots looks whether the claim's driver makes snapshots, and at those of the claim.
func (r *Runner) observeSnapshots(ctx context.Context, vt *v1alpha1.VolumeTransfer, s State, claim *corev1.PersistentVolumeClaim) (*snapshotting, error) {
	if claim == nil || claim.Spec.StorageClassName == nil || vt.Spec.Snapshots == v1alpha1.SnapshotsNever {
		return &snapshotting{}, nil
	}
	out := &snapshotting{}
	var err error
	if out.kind, err = r.Client.Kind(ctx, pipeline.GroupResource{Group: snapshotGroup, Resource: "volumesnapshots"}); pipeline.ClassOf(err) == pipeline.Dependency {
		return &snapshotting{}, nil
	} else if err != nil {
		return nil, err
	}
	if out.class, err = r.snapshotClass(ctx, *claim.Spec.StorageClassName); err != nil || out.class == "" {
		return &snapshotting{}, err
	}
	out.state.Possible = true
	found, err := r.Client.Find(ctx, out.kind, vt.Namespace, LabelClaim+"="+string(claim.UID))
	if err != nil {
		return nil, err
	}
	for _, f := range found {
		snapshot, err := decode[volumeSnapshot](f)
		if err != nil {
			return nil, err
		}
		out.all = append(out.all, snapshot)
		if snapshot.Name != snapshotName(string(vt.UID), s.Epoch) {
			continue
		}
		out.state.Exists = true
		if st := snapshot.Status; st != nil {
			out.state.Ready = st.Ready != nil && *st.Ready
			if st.Error != nil && !out.state.Ready {
				out.state.Failed = harmless(st.Error.Message, maxText)
			}
		}
	}
	return out, nil
}

// snapshotClass is the VolumeSnapshotClass of the driver of a storage class: the one marked as default, or the first by
// name; empty if there is none.
func (r *Runner) snapshotClass(ctx context.Context, storageClass string) (string, error) {
	kinds := make([]kube.Kind, 2)
	for i, gr := range []pipeline.GroupResource{{Group: "storage.k8s.io", Resource: "storageclasses"}, {Group: snapshotGroup, Resource: "volumesnapshotclasses"}} {
		var err error
		if kinds[i], err = r.Client.Kind(ctx, gr); pipeline.ClassOf(err) == pipeline.Dependency {
			return "", nil
		} else if err != nil {
			return "", err
		}
	}
	object, err := r.Client.Get(ctx, kinds[0], "", storageClass)
	if kube.IsNotFound(err) {
		return "", nil
	} else if err != nil {
		return "", err
	}
	var class struct {
		Provisioner string `json:"provisioner"`
	}
	if err := json.Unmarshal(object.Raw, &class); err != nil {
		return "", errors.New("decode a storage class: it is not of the form that is expected")
	}
	found, err := r.Client.Find(ctx, kinds[1], "", "")
	if err != nil {
		return "", err
	}
	best, isDefault := "", false
	for _, f := range found {
		var of struct {
			metav1.ObjectMeta `json:"metadata"`
			Driver            string `json:"driver"`
		}
		if err := json.Unmarshal(f.Raw, &of); err != nil {
			return "", errors.New("decode a class of snapshots: it is not of the form that is expected")
		}
		marked := of.Annotations[snapshotGroup+"/is-default-class"] == "true"
		if of.Driver == class.Provisioner && (best == "" || marked && !isDefault) {
			best, isDefault = f.Name, marked
		}
	}
	return best, nil
}

func (r *Runner) makeSnapshot(ctx context.Context, vt *v1alpha1.VolumeTransfer, s State, o *observed) error {
	if o.snapshot == nil || o.claim == nil {
		return nil
	}
	snapshot := &volumeSnapshot{
		TypeMeta: metav1.TypeMeta{APIVersion: o.snapshot.kind.APIVersion(), Kind: o.snapshot.kind.Kind},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: vt.Namespace, Name: snapshotName(string(vt.UID), s.Epoch),
			Labels: map[string]string{
				LabelClaim: string(o.claim.UID), LabelTransfer: string(vt.UID), LabelEpoch: strconv.FormatUint(s.Epoch, 10), v1alpha1.LabelIgnore: "true",
			},
		},
	}
	snapshot.Spec.Source.Claim, snapshot.Spec.Class = o.claim.Name, o.snapshot.class
	return made(create(ctx, r.Client, o.snapshot.kind, vt.Namespace, snapshot))
}

// pruneSnapshots removes the oldest recovery points of the claim beyond the number to keep.
func (r *Runner) pruneSnapshots(ctx context.Context, vt *v1alpha1.VolumeTransfer, s State, o *observed) error {
	if o.snapshot == nil {
		return nil
	}
	var errs []error
	for _, old := range superfluous(o.snapshot.all, snapshotName(string(vt.UID), s.Epoch), int(vt.Spec.Keep)) {
		errs = append(errs, gone(r.Client.Delete(ctx, o.snapshot.kind, vt.Namespace, old.Name, string(old.UID))))
	}
	return errors.Join(errs...)
}

// superfluous are the snapshots to remove when newest was made and so many are to be kept, newest counted. Those that were
// made after it are another transfer's to judge; those that never became usable count as none and go.
func superfluous(all []*volumeSnapshot, newest string, keep int) []*volumeSnapshot {
	var mine *volumeSnapshot
	for _, s := range all {
		if s.Name == newest {
			mine = s
		}
	}
	if mine == nil {
		return nil
	}
	var good, out []*volumeSnapshot
	for _, s := range all {
		switch {
		case s == mine || s.DeletionTimestamp != nil || s.Annotations[AnnotationKeep] == "true" || s.CreationTimestamp.After(mine.CreationTimestamp.Time):
		case s.Status != nil && s.Status.Ready != nil && *s.Status.Ready:
			good = append(good, s)
		default:
			out = append(out, s)
		}
	}
	slices.SortFunc(good, func(a, b *volumeSnapshot) int {
		return cmp.Or(b.CreationTimestamp.Compare(a.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	return append(out, good[min(len(good), max(keep-1, 0)):]...)
}

// pointOf is the recovery point of a copy that began at a moment.
func (o *observed) pointOf(vt *v1alpha1.VolumeTransfer, s State, began time.Time) *v1alpha1.VolumeRecoveryPoint {
	p := &v1alpha1.VolumeRecoveryPoint{Time: metav1.NewTime(began), Consistency: "Unchanged"}
	if o.facts(vt).Live {
		p.Consistency = "Fuzzy"
	}
	if o.world.Snapshot.Ready {
		p.Snapshot = snapshotName(string(vt.UID), s.Epoch)
	}
	return p
}

// title is a size that people read.
func title(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	f, i := float64(n)/unit, 0
	for ; f >= unit && i < 4; i++ {
		f /= unit
	}
	return fmt.Sprintf("%.1f %ciB", f, "KMGTP"[i])
}
