package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/pipelinetest"
)

const (
	site  = "prod-nyc"
	owner = "team/shop"
)

// rig is a pump with everything around it, in one synctest bubble.
type rig struct {
	t      testing.TB
	pump   *pipeline.Pump
	sink   *pipelinetest.Sink
	parker *pipelinetest.Parker
	fates  *pipelinetest.Settlements
	logs   *strings.Builder
	seq    uint64
	stop   func()
}

// config is quick and easy to calculate with.
func config() pipeline.PumpConfig {
	return pipeline.PumpConfig{
		Owner: owner, Workers: 4, MaxPending: 1000, MaxPendingBytes: 64 << 20, Attempts: 5,
		InitialDelay: time.Second, MaxDelay: 30 * time.Second, AttemptTimeout: 10 * time.Second, ExtendEvery: 20 * time.Second,
	}
}

// newRig makes a pump that does not run yet.
func newRig(t testing.TB, cfg pipeline.PumpConfig) *rig {
	r := &rig{
		t: t, sink: &pipelinetest.Sink{}, parker: &pipelinetest.Parker{}, fates: &pipelinetest.Settlements{}, logs: &strings.Builder{},
	}
	r.pump = pipeline.NewPump(cfg, r.sink, r.parker, slog.New(slog.NewTextHandler(r.logs, nil)))
	return r
}

// run runs f beside the running pump, then checks what must hold in any case.
func run(t *testing.T, cfg pipeline.PumpConfig, f func(ctx context.Context, r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, cfg)
		r.start()
		f(t.Context(), r)
		r.stop()
		for _, complaint := range r.sink.Broken() {
			t.Error(complaint)
		}
	})
}

func (r *rig) start() {
	ctx, cancel := context.WithCancel(r.t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := r.pump.Run(ctx); err != nil {
			r.t.Errorf("Run: %v", err)
		}
	})
	r.stop = func() {
		cancel()
		running.Wait()
	}
}

func at(seq uint64) pipeline.Position {
	return pipeline.Position{Epoch: "01JNZ3QJ6M0000000000000000", Seq: seq}
}

// submit hands over an event as the next record of the history.
func (r *rig) submit(ctx context.Context, e pipeline.Event) {
	r.t.Helper()
	r.seq++
	if err := r.pump.Submit(ctx, r.fates.Deliver(e, at(r.seq))); err != nil {
		r.t.Fatalf("Submit: %v", err)
	}
}

func (r *rig) settle(ctx context.Context) {
	r.t.Helper()
	if err := r.pump.Settle(ctx); err != nil {
		r.t.Fatalf("Settle: %v", err)
	}
}

// letters are the dead letters without what depends on the clock.
func (r *rig) letters() map[string]string {
	short := map[string]string{}
	for ref, d := range r.parker.Letters() {
		short[ref.Name] = fmt.Sprintf("%s after %d at %d: %s", d.Class, d.Attempts, d.Position.Seq, d.Message)
	}
	return short
}

func (r *rig) wantLetters(want map[string]string) {
	r.t.Helper()
	if diff := cmp.Diff(want, r.letters()); diff != "" {
		r.t.Errorf("dead letters (-want +got):\n%s", diff)
	}
}

func (r *rig) wantAllSettled() {
	r.t.Helper()
	for _, complaint := range r.fates.Unsettled() {
		r.t.Error(complaint)
	}
	s := r.pump.Stats()
	if s.Pending != 0 || s.Retrying != 0 || s.Bytes != 0 || s.Settled != s.Seen || !s.OldestStored.IsZero() {
		r.t.Errorf("the pump still holds something: %+v", s)
	}
}

// pass lets time pass, in a bubble.
func pass(d time.Duration) { <-time.After(d) }

func object(name string) pipeline.Ref { return pipelinetest.ConfigMap(site, name) }

var errBusy = errors.New("server is busy")

func times(n int, err error) []error {
	list := make([]error, n)
	for i := range list {
		list[i] = err
	}
	return list
}

func TestPumpApplies(t *testing.T) {
	run(t, config(), func(ctx context.Context, r *rig) {
		for i := range 100 {
			r.submit(ctx, pipelinetest.Put(object(fmt.Sprint(i)), i+1))
		}
		r.submit(ctx, pipelinetest.Delete(object("0"), 200))
		r.settle(ctx)
		if world := r.sink.World(); len(world) != 99 {
			t.Errorf("%d objects arrived, want 99", len(world))
		}
		r.wantAllSettled()
		r.wantLetters(map[string]string{})
		if parks, removals := r.parker.Calls(); parks+removals != 0 {
			t.Errorf("%d parks and %d removals without a failure", parks, removals)
		}
	})
}

func TestPumpNewestWins(t *testing.T) {
	run(t, config(), func(ctx context.Context, r *rig) {
		release := make(chan struct{})
		r.sink.Try = func(_ context.Context, rec pipeline.Record, _ int) error {
			if rec.Version == "1" {
				<-release
			}
			return nil
		}
		for v := 1; v <= 50; v++ {
			r.submit(ctx, pipelinetest.Put(object("a"), v))
			synctest.Wait()
		}
		if s := r.pump.Stats(); s.Pending != 2 || s.Superseded != 48 {
			t.Errorf("one in flight and the newest: %+v", s)
		}
		close(release)
		r.settle(ctx)
		var versions []string
		for _, rec := range r.sink.Applied(object("a")) {
			versions = append(versions, rec.Version)
		}
		if diff := cmp.Diff([]string{"1", "50"}, versions); diff != "" {
			t.Errorf("applied versions: %s", diff)
		}
		r.wantAllSettled()
	})
}

func TestPumpOldRecordsAreSuperfluous(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, config())
		ctx := t.Context()
		for _, seq := range []uint64{5, 3, 5, 7, 6} { // a reading of Current may overlap what is followed
			if err := r.pump.Submit(ctx, r.fates.Deliver(pipelinetest.Put(object("a"), int(seq)), at(seq))); err != nil {
				t.Fatal(err)
			}
		}
		r.start()
		r.settle(ctx)
		applied := r.sink.Applied(object("a"))
		if len(applied) != 1 || applied[0].Position != at(7) {
			t.Errorf("applied %v", applied)
		}
		r.wantAllSettled()
		r.stop()
	})
}

func TestPumpAppliesARepeatedRecordOnce(t *testing.T) {
	run(t, config(), func(ctx context.Context, r *rig) {
		release := make(chan struct{})
		r.sink.Try = func(context.Context, pipeline.Record, int) error {
			<-release
			return nil
		}
		for range 3 {
			if err := r.pump.Submit(ctx, r.fates.Deliver(pipelinetest.Put(object("a"), 1), at(1))); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		close(release)
		r.settle(ctx)
		if n := len(r.sink.Attempts(object("a"))); n != 1 {
			t.Errorf("applied %d times", n)
		}
		r.wantAllSettled()
	})
}

func TestPumpOnePoisonAmongThousand(t *testing.T) {
	run(t, config(), func(ctx context.Context, r *rig) {
		poison := object("object-500")
		r.sink.Script(poison, times(100, errBusy)...)
		start := time.Now()
		for i := range 1000 {
			r.submit(ctx, pipelinetest.Put(object(fmt.Sprintf("object-%d", i)), 1))
		}
		r.settle(ctx)
		if n := len(r.sink.World()); n != 999 || !time.Now().Equal(start) {
			t.Errorf("%d objects arrived after %s", n, time.Since(start))
		}
		pass(5 * time.Minute)
		r.wantLetters(map[string]string{"object-500": "Transient after 5 at 501: server is busy"})
		r.wantAllSettled()
	})
}

func TestPumpForeignMessages(t *testing.T) {
	run(t, config(), func(ctx context.Context, r *rig) {
		invalid := fmt.Errorf("%w: too short", pipeline.ErrForeign)
		stranger := r.fates.Deliver(pipeline.Event{}, at(1))
		stranger.Invalid = invalid
		truncated := r.fates.Deliver(pipeline.Event{Ref: object("a")}, at(2))
		truncated.Invalid = invalid
		for _, d := range []pipeline.Delivery{stranger, truncated} {
			if err := r.pump.Submit(ctx, d); err != nil {
				t.Fatal(err)
			}
		}
		for range 99 {
			if err := r.pump.Submit(ctx, stranger); err != nil {
				t.Fatal(err)
			}
		}
		r.settle(ctx)
		r.wantLetters(map[string]string{"a": "Malformed after 1 at 2: not a DR-Syncer message: too short"})
		if s := r.pump.Stats(); s.Foreign != 100 || s.Seen != at(2) || s.Settled != at(2) {
			t.Errorf("stats: %+v", s)
		}
		if fates := r.fates.All(); fates[0].Acks != 100 || fates[1].Terms != 1 {
			t.Errorf("fates: %+v", fates)
		}
		if n := strings.Count(r.logs.String(), "foreign message"); n != 1 {
			t.Errorf("a flood of foreign messages was logged %d times", n)
		}
		r.seq = 2
		r.submit(ctx, pipelinetest.Put(object("a"), 1))
		r.settle(ctx)
		r.wantLetters(map[string]string{})
	})
}

func TestPumpHeartbeats(t *testing.T) {
	run(t, config(), func(ctx context.Context, r *rig) {
		r.sink.Try = func(context.Context, pipeline.Record, int) error { return errBusy }
		r.submit(ctx, pipelinetest.Heartbeat(site, 1))
		if s := r.pump.Stats(); s.Settled != at(1) || s.Seen != at(1) || s.Heartbeat.Position != at(1) || s.Heartbeat.Incarnation != "incarnation-1" {
			t.Errorf("after a heartbeat: %+v", s)
		}
		r.submit(ctx, pipelinetest.Put(object("a"), 1))
		r.submit(ctx, pipelinetest.Heartbeat(site, 2))
		if err := r.pump.Submit(ctx, r.fates.Deliver(pipelinetest.Heartbeat(site, 1), at(1))); err != nil {
			t.Fatal(err)
		}
		broken := pipelinetest.Heartbeat(site, 3)
		broken.Body = []byte("{")
		r.submit(ctx, broken)
		s := r.pump.Stats()
		if s.Heartbeat.Position != at(3) || !s.Heartbeat.Time.Equal(pipelinetest.Observed.Add(2*time.Second)) || s.Heartbeat.Stored.IsZero() {
			t.Errorf("the newest heartbeat is %+v", s.Heartbeat)
		}
		if s.Settled != at(2) || s.Seen != at(4) || !s.OldestStored.Equal(pipelinetest.Observed) {
			t.Errorf("a heartbeat must not move the low watermark past what is unsettled: %+v", s)
		}
		for i, fate := range r.fates.All() {
			if want := i != 1; (fate.Acks == 1) != want {
				t.Errorf("delivery %d: %+v", i, fate)
			}
		}
	})
}

func TestPumpStats(t *testing.T) {
	run(t, config(), func(ctx context.Context, r *rig) {
		secret := pipeline.Ref{Site: site, Resource: "secrets", Namespace: "default", Name: "s"}
		r.sink.Script(object("bad"), pipeline.WithClass(pipeline.Invalid, errors.New("no")))
		r.sink.Script(object("busy"), times(4, errBusy)...)
		r.submit(ctx, pipelinetest.Put(object("a"), 1))
		r.submit(ctx, pipelinetest.Put(object("bad"), 2))
		r.submit(ctx, pipelinetest.Put(object("busy"), 3))
		r.settle(ctx)
		r.submit(ctx, pipelinetest.Put(secret, 4))
		r.settle(ctx) // lanes run at once: which of the two were the last?
		r.submit(ctx, pipelinetest.Put(object("a"), 5))
		r.settle(ctx)
		s := r.pump.Stats()
		want := pipeline.Stats{
			Kinds: map[pipeline.GroupResource]pipeline.KindStats{
				{Resource: "configmaps"}: {Retrying: 1, Parked: 1, Applied: 2},
				{Resource: "secrets"}:    {Applied: 1},
			},
			Retrying: 1, Bytes: s.Bytes, Parked: 1, ParkedTotal: 1,
			Results: map[pipeline.Result]uint64{pipeline.ResultCreated: 2, pipeline.ResultConfigured: 1},
			Seen:    at(5), Settled: at(3), OldestStored: pipelinetest.Observed,
			LastResult: pipeline.LastResult{
				Ref: object("a"), Op: pipeline.OpPut, Position: at(5), Result: pipeline.ResultConfigured,
				Time: time.Now(), Observed: pipelinetest.Observed,
			},
			LastError: s.LastError, LastParked: s.LastParked,
		}
		if diff := cmp.Diff(want, s); diff != "" {
			t.Errorf("stats (-want +got):\n%s", diff)
		}
		if s.Bytes < 1 || s.LastError.Ref.Name == "" || s.LastError.Message == "" || s.LastParked.Ref != object("bad") {
			t.Errorf("stats: %+v", s)
		}
	})
}

func TestPumpConfig(t *testing.T) {
	if err := pipeline.DefaultPumpConfig().Validate(); err != nil {
		t.Errorf("the default settings: %v", err)
	}
	err := pipeline.PumpConfig{InitialDelay: time.Second}.Validate()
	for _, what := range []string{"workers", "pending records", "pending bytes", "attempts", "maximum delay", "attempt timeout", "extension interval", "above"} {
		if err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("Validate does not name %q: %v", what, err)
		}
	}
	synctest.Test(t, func(t *testing.T) { // what is not set is the default
		r := newRig(t, pipeline.PumpConfig{Owner: owner})
		r.start()
		r.submit(t.Context(), pipelinetest.Put(object("a"), 1))
		r.settle(t.Context())
		r.wantAllSettled()
		r.stop()
	})
}
