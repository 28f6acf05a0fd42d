package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/telemetry"
)

const (
	// DefaultStatusInterval is the shortest time between two writes of one status.
	DefaultStatusInterval = time.Second
	// reconcilers is how many Replications are reconciled at once.
	reconcilers = 4
	// wakeQueue is how many wishes to be reconciled can wait for the queue.
	wakeQueue = 256
	// stopTimeout is how long reconciles under way may take to end.
	stopTimeout = 10 * time.Second
)

// Settings is what Run needs.
type Settings struct {
	// Client reaches the API server that holds the Replications.
	Client *kube.Client
	// Engine does their work.
	Engine Engine
	// Namespace is that of DR-Syncer itself, where rules are that several Replications share.
	Namespace string
	// Replayer does the work of Replays; without it there are none.
	Replayer Replayer
	// Volumes says how VolumeTransfers are run; without it they are not.
	Volumes *Volumes
	// Oldest says since when each moment of a site can be read back, zero if that is not known; it is
	// cheap. Without it statuses do not tell.
	Oldest func(site string) time.Time
	Log    *slog.Logger
	// StatusInterval is the shortest time between two writes of one status;
	// DefaultStatusInterval if 0.
	StatusInterval time.Duration
}

// Run reconciles the Replications of all namespaces until ctx ends, then stops
// their runs and waits for them. It calls ready once it has seen all Replications.
// It is called once, by one process of those that share a destination.
func Run(ctx context.Context, s Settings, ready func()) error {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return fmt.Errorf("make scheme: %w", err)
	}
	logger := logr.FromSlogHandler(sparing{s.Log.Handler()})
	log.SetLogger(logger) // what the library logs outside of any controller
	noNameCheck, grace := true, stopTimeout
	mgr, err := manager.New(s.Client.REST(), manager.Options{
		Scheme:                  scheme,
		Logger:                  logger,
		Metrics:                 server.Options{BindAddress: "0"}, // the side port is the program's
		HealthProbeBindAddress:  "0",
		GracefulShutdownTimeout: &grace,
		// The check knows no end of a controller: a second Run in one process would fail it.
		Controller: config.Controller{SkipNameValidation: &noNameCheck},
	})
	if err != nil {
		return fmt.Errorf("prepare the controller: %w", err)
	}
	wakes := make(chan event.GenericEvent, wakeQueue)
	r := &reconciler{
		client: mgr.GetClient(), events: mgr.GetEventRecorder("dr-syncer"), engine: s.Engine, log: s.Log,
		interval: s.StatusInterval, oldest: s.Oldest,
		keepers: map[client.ObjectKey]*keeper{}, seen: map[client.ObjectKey]int64{},
		wake: func(ctx context.Context, key client.ObjectKey) {
			repl := &v1alpha1.Replication{}
			repl.Namespace, repl.Name = key.Namespace, key.Name
			select {
			case wakes <- event.GenericEvent{Object: repl}:
			case <-ctx.Done():
			}
		},
	}
	r.compiler = &compiler{shared: s.Namespace, book: newRulebook(s.Client, func(ctx context.Context, namespace string) {
		for _, owner := range r.compiler.book.usersOf(namespace) {
			r.wake(ctx, owner)
		}
	})}
	if r.interval == 0 {
		r.interval = DefaultStatusInterval
	}
	replications := builder.ControllerManagedBy(mgr)
	var replays *replayReconciler
	if s.Replayer != nil {
		replications = replications.Owns(&v1alpha1.Replay{})
		if replays, err = controlReplays(mgr, s, r); err != nil {
			return err
		}
	}
	if s.Volumes != nil {
		if err = controlTransfers(mgr, s); err != nil {
			return err
		}
	}
	err = replications.
		Named("replication").
		For(&v1alpha1.Replication{}, builder.WithPredicates(asked)).
		WatchesRawSource(source.Channel(wakes, &handler.EnqueueRequestForObject{})).
		WithOptions(controller.Options{MaxConcurrentReconciles: reconcilers}).
		Complete(r)
	if err != nil {
		return fmt.Errorf("prepare the controller: %w", err)
	}
	defer r.gauges()()
	synced := manager.RunnableFunc(func(ctx context.Context) error {
		if !mgr.GetCache().WaitForCacheSync(ctx) {
			return nil
		}
		ready()
		if err := s.Engine.Sweep(ctx, r.exists); err != nil && ctx.Err() == nil {
			// Nothing but room is lost; the next start tries again.
			s.Log.WarnContext(ctx, "dead letters of deleted replications are kept", telemetry.KeyError, err)
		}
		if s.Replayer == nil {
			return nil
		}
		if err := s.Replayer.SweepReplays(ctx, replays.exists); err != nil && ctx.Err() == nil {
			s.Log.WarnContext(ctx, "results of deleted replays are kept", telemetry.KeyError, err)
		}
		return nil
	})
	if err := mgr.Add(synced); err != nil {
		return fmt.Errorf("prepare the controller: %w", err)
	}
	watching, stopWatching := context.WithCancel(ctx)
	var reading sync.WaitGroup
	reading.Go(func() { r.compiler.book.run(watching) })
	err = mgr.Start(ctx)
	stopWatching()
	reading.Wait()
	r.stop()
	if replays != nil {
		replays.stop()
	}
	if err != nil && (ctx.Err() == nil || !errors.Is(err, context.Canceled)) {
		return fmt.Errorf("run the controller: %w", err)
	}
	return nil
}

// asked lets through what may ask for something: another spec, or another annotation.
var asked = predicate.Or[client.Object](predicate.GenerationChangedPredicate{}, predicate.AnnotationChangedPredicate{})

// controlReplays adds the controller of the Replays to the manager.
func controlReplays(mgr manager.Manager, s Settings, of *reconciler) (*replayReconciler, error) {
	wakes := make(chan event.GenericEvent, wakeQueue)
	r := &replayReconciler{
		client: of.client, events: of.events, replayer: s.Replayer, log: s.Log, interval: of.interval, orphaned: of.orphaned, compiler: of.compiler,
		tasks: map[client.ObjectKey]*task{}, uids: map[client.ObjectKey]types.UID{},
		wake: func(ctx context.Context, key client.ObjectKey) {
			rep := &v1alpha1.Replay{}
			rep.Namespace, rep.Name = key.Namespace, key.Name
			select {
			case wakes <- event.GenericEvent{Object: rep}:
			case <-ctx.Done():
			}
		},
	}
	err := builder.ControllerManagedBy(mgr).
		Named("replay").
		For(&v1alpha1.Replay{}, builder.WithPredicates(asked)).
		WatchesRawSource(source.Channel(wakes, &handler.EnqueueRequestForObject{})).
		WithOptions(controller.Options{MaxConcurrentReconciles: reconcilers}).
		Complete(r)
	if err != nil {
		return nil, fmt.Errorf("prepare the controller: %w", err)
	}
	return r, nil
}

// sparing leaves out what the library says of its own comings and goings.
type sparing struct{ slog.Handler }

func (h sparing) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn && h.Handler.Enabled(ctx, level)
}

func (h sparing) WithAttrs(attrs []slog.Attr) slog.Handler {
	return sparing{h.Handler.WithAttrs(attrs)}
}
func (h sparing) WithGroup(name string) slog.Handler { return sparing{h.Handler.WithGroup(name)} }
