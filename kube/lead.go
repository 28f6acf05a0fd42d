package kube

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coordinationv1 "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// The times of an election: a leader that dies is followed within leaseDuration, one
// that stops within retryPeriod.
const (
	leaseDuration = 15 * time.Second
	renewDeadline = 10 * time.Second
	retryPeriod   = 2 * time.Second
)

// Lead takes part in the election for a Lease until ctx ends, calls elected when this process
// leads, and returns nil when it no longer does; when ctx ends it gives the lead up. It fails at
// once if the Lease cannot be used at all. Leadership keeps work from being done
// twice; it does not fence: what must not be done twice needs a guard of its own.
func (c *Client) Lead(ctx context.Context, namespace, name string, elected func()) error {
	leases, err := coordinationv1.NewForConfigAndClient(c.config, c.http)
	if err != nil {
		return fmt.Errorf("prepare election for lease %s/%s: %w", namespace, name, err)
	}
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("prepare election for lease %s/%s: %w", namespace, name, err)
	}
	lock := &leadLock{LeaseLock: resourcelock.LeaseLock{
		LeaseMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Client:    leases,
		// The name of a Pod alone is not enough: its container may be restarted.
		LockConfig: resourcelock.ResourceLockConfig{Identity: host + "_" + rand.Text()},
	}}
	ctx, cancel := context.WithCancelCause(quiet(ctx))
	defer cancel(nil)
	lock.forbidden = cancel
	cannot := func(err error) error {
		return fmt.Errorf("use lease %s/%s for the election: %w: grant get, create and update of leases in the namespace, "+
			"or do without the election", namespace, name, classify(err))
	}
	if _, _, err := lock.Get(ctx); err != nil && !IsNotFound(err) {
		// The election would try for ever without a word.
		return cannot(err)
	}
	told := make(chan struct{})
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: lock, Name: name, ReleaseOnCancel: true,
		LeaseDuration: leaseDuration, RenewDeadline: renewDeadline, RetryPeriod: retryPeriod,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(context.Context) { defer close(told); elected() },
			OnStoppedLeading: func() {},
		},
	})
	if err != nil {
		return fmt.Errorf("prepare election for lease %s/%s: %w", namespace, name, err)
	}
	elector.Run(ctx)
	if lock.held.Load() {
		<-told
	}
	if cause := context.Cause(ctx); IsForbidden(cause) {
		return cannot(cause)
	}
	return nil
}

// leadLock notes whether the lease was ever ours: then the elector has started a goroutine
// to say so. Until then, forbidden is told that it may not be taken.
type leadLock struct {
	resourcelock.LeaseLock
	held      atomic.Bool
	forbidden context.CancelCauseFunc
}

// Create implements resourcelock.Interface.
func (l *leadLock) Create(ctx context.Context, r resourcelock.LeaderElectionRecord) error {
	return l.note(l.LeaseLock.Create(ctx, r))
}

// Update implements resourcelock.Interface.
func (l *leadLock) Update(ctx context.Context, r resourcelock.LeaderElectionRecord) error {
	return l.note(l.LeaseLock.Update(ctx, r))
}

func (l *leadLock) note(err error) error {
	switch {
	case err == nil:
		l.held.Store(true)
	case IsForbidden(err) && !l.held.Load():
		l.forbidden(err)
	}
	return err
}
