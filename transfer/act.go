package transfer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/transfer/rsync"
	"github.com/dr-syncer/dr-syncer/transfer/stream"
)

const (
	sourceEnd      = "source"
	destinationEnd = "destination"
)

// act does one thing. All of it may be repeated, and what is there already is right.
func (r *Runner) act(ctx context.Context, vt *v1alpha1.VolumeTransfer, s State, o *observed, a Action, key string) error {
	switch a.Kind {
	case Ask:
		return r.ask(vt, s, o)
	case Withdraw:
		r.Board.Withdraw(sessionID(string(vt.UID), a.Epoch))
	case MakeIdentity:
		return r.makeIdentity(ctx, vt, s)
	case DropIdentity:
		if secret := o.secrets[a.Epoch]; secret != nil {
			return gone(r.Client.Delete(ctx, kube.Secrets, secret.Namespace, secret.Name, string(secret.UID)))
		}
	case MakeClaim:
		return r.makeClaim(ctx, vt, o)
	case StartMover:
		return r.startMover(ctx, vt, s, o)
	case StopMover:
		if o.pod != nil {
			return gone(r.Client.Delete(ctx, pods, o.pod.Namespace, o.pod.Name, string(o.pod.UID)))
		}
	case MakeSnapshot:
		return r.makeSnapshot(ctx, vt, s, o)
	case PruneSnapshots:
		return r.pruneSnapshots(ctx, vt, s, o)
	case Leave:
		r.Gate.Leave(key)
	}
	return nil
}

// gone is no error if another object has the name now.
func gone(err error) error {
	if kube.IsConflict(err) {
		return nil
	}
	return err
}

// made is no error if it is there already.
func made(err error) error {
	if kube.IsExists(err) {
		return nil
	}
	return err
}

func (r *Runner) ask(vt *v1alpha1.VolumeTransfer, s State, o *observed) error {
	identity, err := stream.ParseIdentity(o.secrets[s.Epoch].Data[identityKey])
	if err != nil {
		return err
	}
	r.Board.Wish(vt.Spec.Source.Site, Wish{
		Session: session(vt, s), Peer: identity.Pin(), Transfer: string(vt.UID), Privileged: vt.Spec.MoverSecurity == v1alpha1.MoverPrivileged,
	})
	return nil
}

// labels are those of what an attempt makes.
func labels(vt *v1alpha1.VolumeTransfer, epoch uint64) map[string]string {
	return map[string]string{
		LabelTransfer: string(vt.UID), LabelEpoch: strconv.FormatUint(epoch, 10), LabelEnd: destinationEnd, LabelSession: sessionID(string(vt.UID), epoch),
		v1alpha1.LabelIgnore: "true", // this cluster may be a source too
	}
}

func owner(vt *v1alpha1.VolumeTransfer) []metav1.OwnerReference {
	yes := true
	return []metav1.OwnerReference{{
		APIVersion: v1alpha1.GroupVersion.String(), Kind: "VolumeTransfer", Name: vt.Name, UID: vt.UID, Controller: &yes,
	}}
}

func (r *Runner) makeIdentity(ctx context.Context, vt *v1alpha1.VolumeTransfer, s State) error {
	text, err := newIdentity(session(vt, s), stream.Destination)
	if err != nil {
		return err
	}
	body, err := secret(vt.Namespace, identityName(string(vt.UID), s.Epoch), labels(vt, s.Epoch), owner(vt), text, nil)
	if err != nil {
		return err
	}
	return made(create(ctx, r.Client, kube.Secrets, vt.Namespace, body))
}

func newIdentity(s stream.Session, role stream.Role) ([]byte, error) {
	identity, err := stream.NewIdentity(s, role)
	if err != nil {
		return nil, err
	}
	return identity.MarshalPEM()
}

func create(ctx context.Context, c *kube.Client, k kube.Kind, namespace string, object any) error {
	body, err := json.Marshal(object)
	if err != nil {
		return fmt.Errorf("encode %s: %w", k.GroupResource, err)
	}
	_, err = c.Create(ctx, k, namespace, body)
	return err
}

// makeClaim makes the destination's claim, or has it grow.
func (r *Runner) makeClaim(ctx context.Context, vt *v1alpha1.VolumeTransfer, o *observed) error {
	f := o.facts(vt)
	want, err := wanted(vt, f)
	if err != nil || want.IsZero() {
		return err
	}
	requests := corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: want}}
	if o.claim != nil {
		if asked := o.claim.Spec.Resources.Requests[corev1.ResourceStorage]; asked.Cmp(want) >= 0 {
			return nil // it was told to, and takes its time
		}
		body, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": o.claim.UID}, "spec": map[string]any{"resources": requests}})
		if err != nil {
			return fmt.Errorf("encode the size of a claim: %w", err)
		}
		return r.Client.Merge(ctx, claims, vt.Namespace, o.claim.Name, body)
	}
	mode := corev1.PersistentVolumeFilesystem
	if f.Block {
		mode = corev1.PersistentVolumeBlock
	}
	c := &corev1.PersistentVolumeClaim{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "PersistentVolumeClaim"},
		ObjectMeta: metav1.ObjectMeta{Namespace: vt.Namespace, Name: claimName(vt), Labels: map[string]string{LabelClaim: "true"}},
		Spec:       corev1.PersistentVolumeClaimSpec{Resources: requests, VolumeMode: &mode, AccessModes: modes(vt.Spec.Destination.AccessModes, f.AccessModes)},
	}
	if class := vt.Spec.Destination.StorageClass; class != "" {
		c.Spec.StorageClassName = &class
	}
	return made(create(ctx, r.Client, claims, vt.Namespace, c))
}

// modes are those that are asked for or else those of the source, as far as one can write with them.
func modes(asked, source []string) []corev1.PersistentVolumeAccessMode {
	if len(asked) == 0 {
		asked = source
	}
	var out []corev1.PersistentVolumeAccessMode
	for _, m := range asked {
		if m != modeReadOnly {
			out = append(out, corev1.PersistentVolumeAccessMode(m))
		}
	}
	if len(out) == 0 {
		out = append(out, corev1.ReadWriteOnce)
	}
	return out
}

// startMover writes the configuration beside the identity, and makes the Pod.
func (r *Runner) startMover(ctx context.Context, vt *v1alpha1.VolumeTransfer, s State, o *observed) error {
	kept := o.secrets[s.Epoch]
	if o.answer == nil || o.claim == nil || kept == nil {
		return nil // the next look shows what has changed
	}
	f, at := o.facts(vt), session(vt, s)
	c := moverConfig{
		Session: at, Peer: o.answer.Pin, Root: root(f.Block), Dial: o.answer.Addresses, Relay: r.Image.Relay, Rsync: r.Image.Rsync,
		Limit: limit(vt), Settings: settings(vt, f),
	}
	if err := r.configure(ctx, kept, c); err != nil {
		return err
	}
	pod := moverPod{
		image: r.Image, role: stream.Destination, namespace: vt.Namespace, name: moverName(string(o.claim.UID)), labels: labels(vt, s.Epoch),
		owners: owner(vt), claim: o.claim.Name, secret: kept.Name, block: f.Block, privileged: vt.Spec.MoverSecurity == v1alpha1.MoverPrivileged,
		deadline: time.Until(at.Expires),
	}
	return made(create(ctx, r.Client, pods, vt.Namespace, pod.build()))
}

// configure writes a mover's configuration into its Secret.
func (r *Runner) configure(ctx context.Context, kept *corev1.Secret, c moverConfig) error {
	text, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("encode the configuration of a mover: %w", err)
	}
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": kept.UID}, "data": map[string][]byte{configFile: text}})
	if err != nil {
		return fmt.Errorf("encode the configuration of a mover: %w", err)
	}
	return r.Client.Merge(ctx, kube.Secrets, kept.Namespace, kept.Name, body)
}

// tend brings a changed bandwidth limit to the mover that runs.
func (r *Runner) tend(ctx context.Context, vt *v1alpha1.VolumeTransfer, o *observed) error {
	m := o.world.Mover
	if m == nil || !m.Ours || m.Ended || o.secrets[m.Epoch] == nil {
		return nil
	}
	kept := o.secrets[m.Epoch]
	var c moverConfig
	if err := json.Unmarshal(kept.Data[configFile], &c); err != nil {
		return errors.New("read the configuration of a mover: it is not ours")
	}
	if c.Limit == limit(vt) {
		return nil
	}
	c.Limit = limit(vt)
	return r.configure(ctx, kept, c)
}

func limit(vt *v1alpha1.VolumeTransfer) int64 {
	if vt.Spec.BandwidthLimit == nil {
		return 0
	}
	return max(vt.Spec.BandwidthLimit.Value(), 0)
}

func settings(vt *v1alpha1.VolumeTransfer, f Facts) rsync.Settings {
	s := rsync.Settings{
		Block: f.Block, Include: vt.Spec.Include, Exclude: vt.Spec.Exclude, Live: f.Live && !f.Block, Verify: rsync.Verify(vt.Spec.Verify),
	}
	if f.Block {
		s.Include, s.Exclude = nil, nil
	}
	if d := vt.Spec.Deletions; d != nil && !f.Block {
		s.Delete, s.DeleteCount, s.DeletePercent, s.AllowEmpty = true, int(d.MaxCount), int(d.MaxPercent), d.AllowEmpty
		if d.MaxCount == 0 && d.MaxPercent == 0 {
			s.Delete = false // no limit is not none
		}
	}
	return s
}
