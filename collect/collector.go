package collect

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/telemetry"
	"github.com/dr-syncer/dr-syncer/transform"
)

// Settings are what a Collector works with. OwnNamespace, Rules, Settled and Tidy may be
// left out.
type Settings struct {
	// Site is the name of the source.
	Site string
	// OwnNamespace is where DR-Syncer runs in the source: it is not collected.
	OwnNamespace string
	Source       Source
	// OpenWriter opens the site's history for writing, making it if needed. It is called
	// again whenever the collector starts over.
	OpenWriter func(ctx context.Context) (pipeline.Writer, error)
	History    pipeline.History
	Config     Config
	// Rules are the rules of stage source to begin with; see UseRules.
	Rules *transform.Set
	// Settled, if not nil, is called when all that there was at the start is in the log: the most
	// memory has been used until then. It is called from the goroutine that writes.
	Settled func()
	// Tidy, if not nil, rids the log of what nothing refers to and returns how much that was. It is called
	// now and then, and sooner when the log cannot take something.
	Tidy func(ctx context.Context) (int, error)
	Log  *slog.Logger
}

// Collector collects from one site.
type Collector struct {
	settings Settings
	// configuring is held while current is replaced.
	configuring sync.Mutex
	current     atomic.Pointer[rules]
	newKinds    chan struct{}
	ready       atomic.Pointer[term]
}

// rules are a configuration made ready.
type rules struct {
	cfg      Config
	selector *Selector
	cleaner  *Cleaner
	// redaction are the rules of stage source; nil if there are none.
	redaction *transform.Set
}

// New makes a Collector. An error is one of configuration.
func New(s Settings) (*Collector, error) {
	if s.Settled == nil {
		s.Settled = func() {}
	}
	if s.Tidy == nil {
		s.Tidy = func(context.Context) (int, error) { return 0, nil }
	}
	if s.Site == "" || s.Source == nil || s.OpenWriter == nil || s.History == nil || s.Log == nil {
		return nil, errors.New("collector needs a site, a source, a history, its writer and a logger")
	}
	c := &Collector{settings: s, newKinds: make(chan struct{}, 1)}
	c.current.Store(&rules{redaction: s.Rules})
	return c, c.Configure(s.Config)
}

// Configure replaces the configuration, also while Run runs: every selected kind is then
// listed anew, and what is not selected any more is released. On an error the former
// configuration stays.
func (c *Collector) Configure(cfg Config) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	selector, err := NewSelector(cfg, c.settings.OwnNamespace)
	if err != nil {
		return err
	}
	cleaner, err := NewCleaner(cfg)
	if err != nil {
		return err
	}
	c.configuring.Lock()
	defer c.configuring.Unlock()
	c.replace(&rules{cfg: cfg, selector: selector, cleaner: cleaner, redaction: c.current.Load().redaction})
	return nil
}

// replace puts rules in force and has the kinds looked at anew. c.configuring is held.
func (c *Collector) replace(next *rules) {
	c.current.Store(next)
	select {
	case c.newKinds <- struct{}{}:
	default:
	}
}

// Complete reports whether every selected kind was listed since Run began, and the log
// knows.
func (c *Collector) Complete() bool {
	t := c.ready.Load()
	return t != nil && t.complete.Load()
}

// Started reports whether Run has read the history and written to it.
func (c *Collector) Started() bool {
	t := c.ready.Load()
	return t != nil && t.started.Load()
}

// errAnew ends a term because what the log says of its epoch does not go on: the source went back to an
// earlier state, or the log lost records.
var errAnew = errors.New("a new epoch has to begin")

// errReset is errAnew for the source's sake.
var errReset = fmt.Errorf("%w: the source was reset", errAnew)

// spoiled is an epoch that must not go on, and whether that is for the source's sake.
type spoiled struct {
	epoch string
	reset bool
}

// Run collects until ctx ends; it then writes what is waiting, for a short while, and
// returns nil. It returns pipeline.ErrFenced when another collector has written:
// Run may then be called again, and starts over from what the log says. It waits, and says so in the
// log, while source or log cannot be reached.
func (c *Collector) Run(ctx context.Context) error {
	var former *spoiled
	pause := newBackOff() // a source that flaps must not make epochs without end
	for {
		began := time.Now()
		t, err := c.begin(ctx, former)
		if err == nil {
			err = t.run(ctx)
		}
		if ctx.Err() != nil {
			return nil //nolint:nilerr // it was asked to stop; what that broke off is no failure
		}
		if !errors.Is(err, errAnew) {
			return err
		}
		former = &spoiled{t.epoch, errors.Is(err, errReset)}
		if time.Since(began) > settledAfter {
			pause.Reset()
		}
		wait(ctx, pause.NextBackOff())
	}
}

// settledAfter is how long a term lasts before a reset of the source is news again.
const settledAfter = 10 * time.Minute

// term is the time from opening the history to being fenced, a reset of the source or the end.
type term struct {
	site        string
	incarnation string
	epoch       string
	former      map[string]string // of the epochs before; see pipeline.Heartbeat
	source      Source
	history     pipeline.History
	writer      pipeline.Writer
	outbox      *outbox
	log         *slog.Logger
	rules       func() *rules
	newKinds    chan struct{}
	settled     func()
	tidyLog     func(context.Context) (int, error)
	beatNow     chan struct{}
	started     atomic.Bool // a heartbeat is in the log
	complete    atomic.Bool // and it says that every kind was listed
	handlers    handlers
	cancel      context.CancelCauseFunc

	// answers counts what may have been answered by another cluster than before. confirmed is its count when the
	// cluster's identity was last asked for; the publisher's alone.
	answers   atomic.Uint64
	confirmed uint64

	mu       sync.Mutex
	problems map[string]string
}

// drainLimit bounds the time for which a stopping collector writes what is waiting.
const drainLimit = 5 * time.Second

func (t *term) run(ctx context.Context) error {
	ctx, t.cancel = context.WithCancelCause(ctx)
	defer t.cancel(nil)
	defer t.gauges()()

	// The publisher outlives the watches, to write what they have left.
	writing, stopWriting := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWriting()
	stopping := make(chan struct{})
	published := make(chan error, 1)
	go func() {
		err := t.publish(writing, stopping)
		t.cancel(err)
		published <- err
	}()
	var wg sync.WaitGroup
	wg.Go(func() { t.watchKinds(ctx) })
	wg.Go(func() { t.admit(ctx) })
	wg.Go(func() { t.watchLog(ctx) })
	for range readers {
		wg.Go(func() { t.read(ctx) })
	}
	wg.Wait()

	close(stopping)
	limit := time.AfterFunc(drainLimit, stopWriting)
	defer limit.Stop()
	err := <-published
	t.outbox.abandon(errAbandoned)
	if cause := context.Cause(ctx); errors.Is(cause, errAnew) {
		return cause
	}
	return err
}

var errAbandoned = errors.New("the collector stopped before the change was durable")

func (t *term) gauges() (unregister func()) {
	site := []telemetry.Attr{telemetry.String(telemetry.KeySite, t.site)}
	gauge := func(m telemetry.Metric, read func() int) func() {
		return telemetry.Gauge(m, func() []telemetry.Sample { return []telemetry.Sample{{Value: float64(read()), Attrs: site}} })
	}
	all := []func(){
		gauge(telemetry.MetricCollectObjects, func() int { n, _ := t.outbox.size(); return n }),
		gauge(telemetry.MetricCollectHeld, func() int { _, n := t.outbox.size(); return n }),
		gauge(telemetry.MetricCollectRefused, t.outbox.refusals),
		gauge(telemetry.MetricOutboxObjects, func() int { n, _ := t.outbox.waiting(); return n }),
		gauge(telemetry.MetricOutboxBlocked, t.outbox.standAside),
		gauge(telemetry.MetricOutboxBytes, func() int { _, n := t.outbox.waiting(); return n }),
	}
	return func() {
		for _, u := range all {
			u()
		}
	}
}

// reset ends the term: the next one begins with a new epoch.
func (t *term) reset(ctx context.Context, k pipeline.GroupResource, reason string) {
	if ctx.Err() != nil {
		return
	}
	t.log.WarnContext(ctx, "source was reset, beginning a new epoch", telemetry.KeyKind, k.String(), telemetry.KeyReason, reason)
	t.cancel(fmt.Errorf("%w: %s", errReset, reason))
}

// unreadable notes an object that cannot be read.
func (t *term) unreadable(ctx context.Context, ref pipeline.Ref, err error) {
	news := t.outbox.refuse(ref, refusal{reason: "cannot read " + objectName(ref) + ": " + err.Error()})
	telemetry.Add(ctx, telemetry.MetricCollectErrors, 1,
		telemetry.String(telemetry.KeySite, t.site), telemetry.String(telemetry.KeyKind, ref.GroupResource().String()))
	if !news {
		return
	}
	t.log.ErrorContext(ctx, "cannot read object", telemetry.KeyKind, ref.GroupResource().String(),
		telemetry.KeyNamespace, ref.Namespace, telemetry.KeyName, ref.Name, telemetry.KeyError, err)
}

// setProblems says what is wrong beside single kinds, by kind pattern.
func (t *term) setProblems(ctx context.Context, problems map[string]string) {
	t.mu.Lock()
	changed := !maps.Equal(t.problems, problems)
	t.problems = problems
	t.mu.Unlock()
	if !changed {
		return
	}
	for kinds, text := range problems {
		t.log.WarnContext(ctx, "cannot discover kinds", telemetry.KeyKind, kinds, telemetry.KeyError, text)
	}
	t.beat()
}

func (t *term) problemsNow() map[string]string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.problems
}

// handlers are the handlers of the watches that run, by kind.
type handlers struct {
	mu   sync.Mutex
	kind map[pipeline.GroupResource]*kindWatch
}

func (h *handlers) get(k pipeline.GroupResource) *kindWatch {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.kind[k]
}

// set sets the handler of a kind; nil takes it out.
func (h *handlers) set(k pipeline.GroupResource, w *kindWatch) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if w == nil {
		delete(h.kind, k)
		return
	}
	if h.kind == nil {
		h.kind = map[pipeline.GroupResource]*kindWatch{}
	}
	h.kind[k] = w
}

// newBackOff doubles from 200 ms to 30 s, with jitter, without end.
func newBackOff() *backoff.ExponentialBackOff {
	return backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(200*time.Millisecond), backoff.WithMultiplier(2),
		backoff.WithMaxInterval(30*time.Second), backoff.WithMaxElapsedTime(0),
	)
}

// wait waits, unless ctx ends.
func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
