package replay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/telemetry"
)

// Sink is where a run applies to; *apply.Applier is one.
type Sink interface {
	pipeline.Sink
	// Wants reports whether any object of the kind can be selected; others are not read.
	Wants(k pipeline.GroupResource) bool
	// Expect is told the kinds of a first copy before their records come, to prepare for them.
	Expect(ctx context.Context, kinds []pipeline.GroupResource)
	// Observe is told of every record, in the order of its Ref, before Apply is. It reports that more
	// is selected than before, so that all must be read again.
	Observe(r pipeline.Record) (grew bool)
	// OnDrift has fn called with the Ref of each copy that somebody else changed or deleted,
	// until cancel is called.
	OnDrift(fn func(pipeline.Ref)) (cancel func())
}

// Settings wire a run.
type Settings struct {
	History     pipeline.History
	DeadLetters pipeline.DeadLetters
	Sink        Sink
	// Waves gives a kind its place in the order of the first copy, from 0.
	Waves func(pipeline.GroupResource) int
	Pump  pipeline.PumpConfig
	// Deletions, if not nil, is told of tombstones before they are applied: of all of a first copy, to which it may
	// add some, and later of those that come together.
	Deletions func(ctx context.Context, tombstones map[pipeline.Ref]pipeline.Record) error
	// Consumer names the subscription to operators of the log.
	Consumer string
	Log      *slog.Logger
}

// Run is one continuous run. See Continuous.
type Run struct {
	s       Settings
	pump    *pipeline.Pump
	changed chan struct{} // there is drift
	repair  *repair
	parked  *redrive
	bunch   *bunch
	// again has what is parked tried again soon: something has changed for the better.
	again chan struct{}
	// fresh says that something was parked.
	fresh chan struct{}
	// ahead are the records that were submitted before the history was followed to
	// them: until then older ones of their Refs must not be.
	ahead map[pipeline.Ref]pipeline.Position
	// unread are those that were parked when the first copy began, until it comes to them.
	unread map[pipeline.Ref]pipeline.Class

	mu    sync.Mutex
	drift map[pipeline.Ref]struct{}
	state state
}

// maxDrift is how many drifted copies are remembered one by one; beyond it everything
// is read again.
const maxDrift = 10_000

// errAnew has the run begin anew with the first copy, for a reason that is no failure.
var errAnew = errors.New("begin anew")

// Continuous returns a run that does nothing until Run.
func Continuous(s Settings) (*Run, error) {
	if err := s.Pump.Validate(); err != nil {
		return nil, fmt.Errorf("configure replication %s: %w", s.Pump.Owner, err)
	}
	r := &Run{
		s: s, changed: make(chan struct{}, 1), drift: map[pipeline.Ref]struct{}{}, repair: newRepair(), bunch: newBunch(),
		parked: newRedrive(), again: make(chan struct{}, 1), fresh: make(chan struct{}, 1),
	}
	r.state.phase, r.state.unread = Waiting, map[pipeline.GroupResource]int64{}
	cfg := s.Pump
	cfg.Observer = observer{run: r, next: s.Pump.Observer}
	r.pump = pipeline.NewPump(cfg, s.Sink, s.DeadLetters, s.Log)
	return r, nil
}

// How the run paces itself.
const (
	initialDelay = 200 * time.Millisecond
	maxDelay     = 10 * time.Second
	pollInterval = time.Second
	// steady is how long the history must be followed for the next end not to
	// count as one more failure.
	steady = time.Minute
	// patience is how many failures in a row are no reason yet to say that the run
	// fails while it is at work.
	patience = 3
)

// Run keeps the destination in step until ctx ends, then returns nil. It is
// called once.
func (r *Run) Run(ctx context.Context) error {
	defer r.s.Sink.OnDrift(r.drifted)()
	defer r.repair.stop()
	defer r.parked.stop()
	defer r.bunch.stop()
	ctx, cancel := context.WithCancel(ctx)
	var parts sync.WaitGroup
	defer parts.Wait()
	defer cancel()
	failed := make(chan error, 1)
	parts.Go(func() {
		failed <- r.pump.Run(ctx)
		cancel()
	})
	parts.Go(func() { r.poll(ctx) })

	delay, anew := newDelay(), newDelay()
	for loaded := false; ctx.Err() == nil; {
		err := r.load(ctx, &loaded)
		if err == nil {
			err = r.once(ctx)
		}
		if ctx.Err() != nil {
			break
		}
		if r.ended(err) {
			delay.Reset()
			anew.Reset()
		}
		if errors.Is(err, errAnew) {
			pause(ctx, anew.NextBackOff())
			continue
		}
		telemetry.Add(ctx, telemetry.MetricReplicationRestarts, 1, telemetry.String(telemetry.KeyReplication, r.s.Pump.Owner))
		if !errors.Is(err, pipeline.ErrNoHistory) {
			r.s.Log.Warn("run interrupted, beginning anew", telemetry.KeyReplication, r.s.Pump.Owner, telemetry.KeyError, err)
		}
		pause(ctx, delay.NextBackOff())
	}
	return <-failed
}

func newDelay() *backoff.ExponentialBackOff {
	return backoff.NewExponentialBackOff(backoff.WithInitialInterval(initialDelay),
		backoff.WithMaxInterval(maxDelay), backoff.WithMaxElapsedTime(0))
}

// load tells the pump its dead letters, once.
func (r *Run) load(ctx context.Context, loaded *bool) error {
	if *loaded {
		return nil
	}
	if err := r.pump.Parked(r.s.DeadLetters.List(ctx, r.s.Pump.Owner)); err != nil {
		return fmt.Errorf("begin run: %w", err)
	}
	*loaded = true
	return nil
}

// once makes the first copy and then follows, until something ends that.
func (r *Run) once(ctx context.Context) error {
	from, err := r.copy(ctx)
	if err != nil {
		return err
	}
	return r.follow(ctx, from)
}

// submit hands one record to the pump. base is the position through which the history was followed.
func (r *Run) submit(ctx context.Context, d pipeline.Delivery, base pipeline.Position) (grew bool, err error) {
	if d.Invalid == nil && d.Op != pipeline.OpHeartbeat {
		grew = r.s.Sink.Observe(d.Record)
		if d.Position.Compare(base) > 0 {
			r.ahead[d.Ref] = d.Position
		}
	}
	delete(r.unread, d.Ref)
	return grew, r.pump.Submit(ctx, d)
}

// drifted remembers a copy to be looked at again.
func (r *Run) drifted(ref pipeline.Ref) {
	r.mu.Lock()
	if len(r.drift) <= maxDrift {
		r.drift[ref] = struct{}{}
	}
	r.mu.Unlock()
	signal(r.changed)
}

// signal tells whoever listens next, once however often it is called before.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// takeDrift returns what has drifted and forgets it.
func (r *Run) takeDrift() map[pipeline.Ref]struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	refs := r.drift
	r.drift = map[pipeline.Ref]struct{}{}
	return refs
}

// poll asks where the history ends, so that lag is known while nothing comes.
func (r *Run) poll(ctx context.Context) {
	for {
		s, err := r.s.History.State(ctx)
		if ctx.Err() != nil {
			return
		}
		r.polled(s, err)
		pause(ctx, pollInterval)
	}
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// observer is told by the pump what became of each record.
type observer struct {
	run  *Run
	next pipeline.Observer
}

// The kinds whose arrival others may wait for.
var (
	namespaces  = pipeline.GroupResource{Resource: "namespaces"}
	definitions = pipeline.GroupResource{Group: "apiextensions.k8s.io", Resource: "customresourcedefinitions"}
)

// OnResult implements pipeline.Observer.
func (o observer) OnResult(rec pipeline.Record, res pipeline.Result, err error, attempts int) {
	switch {
	case err != nil:
		signal(o.run.fresh)
	case attempts > 1:
		signal(o.run.again) // what has kept this one from being applied may have kept others
	}
	if err == nil && res != pipeline.ResultSkipped && res != pipeline.ResultUnchanged {
		if k := rec.Ref.GroupResource(); (k == namespaces || k == definitions) && (res == pipeline.ResultCreated || res == pipeline.ResultRecreated) {
			o.run.pump.Wake()
			signal(o.run.again)
		}
		if o.run.live(rec.Position) {
			telemetry.Record(context.Background(), telemetry.MetricApplyLatencySeconds, time.Since(rec.Observed).Seconds(),
				telemetry.String(telemetry.KeyReplication, o.run.s.Pump.Owner))
		}
	}
	if o.next != nil {
		o.next.OnResult(rec, res, err, attempts)
	}
}
