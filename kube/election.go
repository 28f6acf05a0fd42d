package kube

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// The times of a leader election: a leader that dies is followed after about
// leaseDuration, one that stops in order at once.
const (
	leaseDuration = 15 * time.Second
	renewDeadline = 10 * time.Second
	retryPeriod   = 2 * time.Second
)

// ErrLeadershipLost reports that Elect's run was stopped because the lease could not be
// renewed: another candidate may lead by now.
var ErrLeadershipLost = errors.New("leadership lost")

// Elect waits until this candidate leads and then calls run, whose context ends when
// leadership is lost or ctx ends. It returns run's error, ErrLeadershipLost, or
// nil when ctx ended. The Lease namespace/name is given up only after run returned, so two
// candidates that can both reach the server never run at once; one that is cut off from
// it must be fenced by what it writes to. identity must be unique among the candidates.
func Elect(ctx context.Context, c *Client, namespace, name, identity string, run func(context.Context) error) error {
	lock, err := resourcelock.NewFromKubeconfig(resourcelock.LeasesResourceLock, namespace, name,
		resourcelock.ResourceLockConfig{Identity: identity}, c.REST(), renewDeadline)
	if err != nil {
		return fmt.Errorf("elect leader by lease %q in namespace %q: %w", name, namespace, err)
	}
	electCtx, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	var (
		leading = make(chan context.Context, 1)
		stopped = make(chan struct{})
	)
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock:            lock,
		LeaseDuration:   leaseDuration,
		RenewDeadline:   renewDeadline,
		RetryPeriod:     retryPeriod,
		ReleaseOnCancel: true,
		Name:            name,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(ctx context.Context) { leading <- ctx },
			OnStoppedLeading: func() {},
		},
	})
	if err != nil {
		return fmt.Errorf("elect leader by lease %q in namespace %q: %w", name, namespace, err)
	}
	go func() {
		defer close(stopped)
		elector.Run(quiet(electCtx))
	}()
	defer func() {
		giveUp()
		<-stopped
	}()

	var leaderCtx context.Context
	select {
	case leaderCtx = <-leading:
	case <-ctx.Done():
		return nil
	}
	runCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	unlink := context.AfterFunc(leaderCtx, cancel)
	defer unlink()
	err = run(runCtx)
	switch {
	case err != nil && ctx.Err() == nil && leaderCtx.Err() != nil:
		return fmt.Errorf("%w: %w", ErrLeadershipLost, err)
	case err == nil && ctx.Err() == nil && leaderCtx.Err() != nil:
		return ErrLeadershipLost
	}
	return err
}
