package control

import (
	"context"
	"fmt"
	"sync"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/transfer"
)

// Volumes is how VolumeTransfers are run.
type Volumes struct {
	// Runner runs them; its Gate is made here, from those that were admitted before.
	Runner transfer.Runner
	Caps   transfer.Caps
}

// transferWorkers is how many VolumeTransfers are looked at at once.
const transferWorkers = 8

// transferReconciler takes turns of the VolumeTransfers. All that it knows is in them.
type transferReconciler struct {
	client client.Client
	// now reads past the cache.
	now     client.Reader
	volumes Volumes

	mu     sync.Mutex
	runner *transfer.Runner
	uids   map[client.ObjectKey]string
}

// Reconcile takes one turn.
func (r *transferReconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	runner, err := r.prepare(ctx)
	if err != nil {
		return reconcile.Result{}, err
	}
	vt := &v1alpha1.VolumeTransfer{}
	err = r.client.Get(ctx, req.NamespacedName, vt)
	if err != nil && !apierrors.IsNotFound(err) {
		return reconcile.Result{}, fmt.Errorf("read volume transfer %q: %w", req.NamespacedName, err)
	}
	r.mu.Lock()
	last := r.uids[req.NamespacedName]
	if err == nil {
		r.uids[req.NamespacedName] = string(vt.UID)
	} else {
		delete(r.uids, req.NamespacedName)
	}
	r.mu.Unlock()
	if last != "" && last != string(vt.UID) {
		runner.Forget(last)
	}
	if err != nil {
		return reconcile.Result{}, nil //nolint:nilerr // it is not there any more
	}
	turn, err := runner.Run(ctx, vt, func(ctx context.Context, status v1alpha1.VolumeTransferStatus) error {
		if equality.Semantic.DeepEqual(status, vt.Status) {
			return nil
		}
		changed := vt.DeepCopy()
		changed.Status = status
		return r.client.Status().Update(ctx, changed)
	})
	switch {
	case apierrors.IsConflict(err), apierrors.IsNotFound(err):
		return reconcile.Result{RequeueAfter: soon}, nil // the cache does not show our last write yet
	case err != nil:
		return reconcile.Result{}, fmt.Errorf("run volume transfer %q: %w", req.NamespacedName, err)
	}
	return reconcile.Result{RequeueAfter: turn.Again}, nil
}

// prepare makes the gate, once all that were admitted before are known.
func (r *transferReconciler) prepare(ctx context.Context) (*transfer.Runner, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.runner != nil {
		return r.runner, nil
	}
	all := &v1alpha1.VolumeTransferList{}
	if err := r.now.List(ctx, all); err != nil {
		return nil, fmt.Errorf("read the volume transfers: %w", err)
	}
	runner := r.volumes.Runner
	runner.Gate = transfer.NewGate(r.volumes.Caps, transfer.Inside(all.Items))
	for i := range all.Items {
		r.uids[client.ObjectKeyFromObject(&all.Items[i])] = string(all.Items[i].UID)
	}
	r.runner = &runner
	return r.runner, nil
}

// controlTransfers adds the controller of the VolumeTransfers to the manager.
func controlTransfers(mgr manager.Manager, s Settings) error {
	r := &transferReconciler{
		client: mgr.GetClient(), now: mgr.GetAPIReader(), volumes: *s.Volumes, uids: map[client.ObjectKey]string{},
	}
	err := builder.ControllerManagedBy(mgr).
		Named("volumetransfer").
		For(&v1alpha1.VolumeTransfer{}, builder.WithPredicates(asked)).
		WithOptions(controller.Options{MaxConcurrentReconciles: transferWorkers}).
		Complete(r)
	if err != nil {
		return fmt.Errorf("prepare the controller: %w", err)
	}
	return nil
}
