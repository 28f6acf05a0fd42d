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
func (r *rig) submit(ctx context.Context, e pipeline.Event) pipeline.Position {
	r.t.Helper()
	r.seq++
	if err := r.pump.Submit(ctx, r.fates.Deliver(e, at(r.seq))); err != nil {
		r.t.Fatalf("Submit: %v", err)
	}
	return at(r.seq)
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

func TestPumpRetriesInPlace(t *testing.T) {
	run(t, config(), func(ctx context.Context, r *rig) {
		start := time.Now()
		r.sink.Script(object("a"), times(4, errBusy)...)
		r.submit(ctx, pipelinetest.Put(object("a"), 1))
		r.submit(ctx, pipelinetest.Put(object("b"), 1))
		r.settle(ctx)
		if now := time.Now(); !now.Equal(start) {
			t.Errorf("a retry held up the others for %s", now.Sub(start))
		}
		if len(r.sink.Applied(object("b"))) != 1 || len(r.sink.Applied(object("a"))) != 0 {
			t.Errorf("applied: a %v, b %v", r.sink.Applied(object("a")), r.sink.Applied(object("b")))
		}
		if s := r.pump.Stats(); s.Retrying != 1 || s.Pending != 0 || s.Settled != at(1) || s.LastError.Message != errBusy.Error() {
			t.Errorf("while retrying: %+v", s)
		}
		time.Sleep(5 * time.Minute)
		attempts := r.sink.Attempts(object("a"))
		if len(attempts) != 5 || attempts[4].Err != nil {
			t.Fatalf("attempts: %v", attempts)
		}
		for i := 1; i < len(attempts); i++ {
			mean := time.Second << (i - 1)
			wait := attempts[i].Time.Sub(attempts[i-1].Time)
			if wait < mean/2 || wait > mean*3/2+time.Millisecond {
				t.Errorf("wait %d was %s, want %s and half of it to either side", i, wait, mean)
			}
		}
		r.wantAllSettled()
		r.wantLetters(map[string]string{})
	})
}

func TestPumpDelaysAreSpreadAndBounded(t *testing.T) {
	cfg := config()
	cfg.MaxDelay, cfg.Attempts, cfg.Workers = 10*time.Second, 20, 100
	run(t, cfg, func(ctx context.Context, r *rig) {
		seen := map[time.Duration]bool{}
		r.sink.Try = func(context.Context, pipeline.Record, int) error { return errBusy }
		for i := range 20 {
			r.submit(ctx, pipelinetest.Put(object(fmt.Sprint(i)), 1))
		}
		time.Sleep(time.Hour)
		for i := range 20 {
			attempts := r.sink.Attempts(object(fmt.Sprint(i)))
			if len(attempts) != cfg.Attempts {
				t.Fatalf("%d attempts", len(attempts))
			}
			for j := 1; j < len(attempts); j++ {
				wait := attempts[j].Time.Sub(attempts[j-1].Time)
				seen[wait] = true
				if wait > cfg.MaxDelay || j > 5 && wait < cfg.MaxDelay/4 {
					t.Errorf("wait %d was %s, the longest allowed is %s", j, wait, cfg.MaxDelay)
				}
			}
		}
		if len(seen) < 300 {
			t.Errorf("only %d different waits of 380: no jitter", len(seen))
		}
		r.wantAllSettled()
	})
}

func TestPumpParks(t *testing.T) {
	cases := map[string]struct {
		err    error
		letter string
		reason string
	}{
		"transient":   {err: errBusy, letter: "Transient after 5 at 1: server is busy", reason: "the budget is spent"},
		"dependency":  {err: pipeline.WithClass(pipeline.Dependency, errors.New("no namespace")), letter: "Dependency after 5 at 1: no namespace", reason: "the budget is spent"},
		"forbidden":   {err: pipeline.WithClass(pipeline.Forbidden, errors.New("no")), letter: "Forbidden after 1 at 1: no", reason: "permanent"},
		"invalid":     {err: pipeline.WithClass(pipeline.Invalid, errors.New("no")), letter: "Invalid after 1 at 1: no", reason: "permanent"},
		"immutable":   {err: pipeline.WithClass(pipeline.Immutable, errors.New("no")), letter: "Immutable after 1 at 1: no", reason: "permanent"},
		"foreign":     {err: pipeline.WithClass(pipeline.Foreign, errors.New("no")), letter: "Foreign after 1 at 1: no", reason: "permanent"},
		"malformed":   {err: pipeline.WithClass(pipeline.Malformed, errors.New("no")), letter: "Malformed after 1 at 1: no", reason: "permanent"},
		"its own end": {err: fmt.Errorf("sub-request: %w", context.Canceled), letter: "Transient after 5 at 1: sub-request: context canceled", reason: "only the pump's end abandons"},
		"long text":   {err: pipeline.WithClass(pipeline.Invalid, errors.New(strings.Repeat("é", 1000))), letter: "Invalid after 1 at 1: " + strings.Repeat("é", 510) + "...", reason: "a letter is bounded"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			run(t, config(), func(ctx context.Context, r *rig) {
				r.sink.Try = func(_ context.Context, rec pipeline.Record, _ int) error {
					if rec.Ref.Name == "poison" {
						return tc.err
					}
					return nil
				}
				r.submit(ctx, pipelinetest.Put(object("poison"), 1))
				r.submit(ctx, pipelinetest.Put(object("fine"), 1))
				time.Sleep(5 * time.Minute)
				r.wantLetters(map[string]string{"poison": tc.letter})
				r.wantAllSettled()
				if fate := r.fates.All()[0]; fate.Terms != 1 || fate.Reason == "" {
					t.Errorf("the poison was settled by %+v: %s", fate, tc.reason)
				}
				if s := r.pump.Stats(); s.Parked != 1 || s.ParkedTotal != 1 || s.Kinds[object("").GroupResource()].Parked != 1 || s.Results[pipeline.ResultCreated] != 1 {
					t.Errorf("stats: %+v", s)
				}
			})
		})
	}
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
		time.Sleep(5 * time.Minute)
		r.wantLetters(map[string]string{"object-500": "Transient after 5 at 501: server is busy"})
		r.wantAllSettled()
	})
}

func TestPumpNewerVersionReplacesRetryingOne(t *testing.T) {
	run(t, config(), func(ctx context.Context, r *rig) {
		r.sink.Script(object("a"), append(times(4, errBusy), append(times(4, errBusy), nil)...)...)
		r.submit(ctx, pipelinetest.Put(object("a"), 1))
		for len(r.sink.Attempts(object("a"))) < 4 {
			time.Sleep(100 * time.Millisecond)
		}
		arrived := time.Now()
		r.submit(ctx, pipelinetest.Put(object("a"), 2))
		r.settle(ctx)
		attempts := r.sink.Attempts(object("a"))
		if len(attempts) != 5 || attempts[4].Position != at(2) || !attempts[4].Time.Equal(arrived) {
			t.Fatalf("the newer version was not tried at once: %v", attempts)
		}
		time.Sleep(5 * time.Minute)
		applied := r.sink.Applied(object("a"))
		if len(applied) != 1 || applied[0].Position != at(2) {
			t.Errorf("applied: %v (five attempts are granted to each version)", applied)
		}
		r.wantLetters(map[string]string{})
		r.wantAllSettled()
		if s := r.pump.Stats(); s.Superseded != 1 {
			t.Errorf("%d superseded", s.Superseded)
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

func TestPumpNewerVersionMakesParkingNeedless(t *testing.T) {
	run(t, config(), func(ctx context.Context, r *rig) {
		release := make(chan struct{})
		r.sink.Try = func(_ context.Context, rec pipeline.Record, _ int) error {
			if rec.Version == "1" {
				<-release
				return pipeline.WithClass(pipeline.Invalid, errors.New("no"))
			}
			return nil
		}
		r.submit(ctx, pipelinetest.Put(object("a"), 1))
		synctest.Wait()
		r.submit(ctx, pipelinetest.Put(object("a"), 2))
		close(release)
		r.settle(ctx)
		if parks, removals := r.parker.Calls(); parks+removals != 0 {
			t.Errorf("%d parks and %d removals", parks, removals)
		}
		if applied := r.sink.Applied(object("a")); len(applied) != 1 || applied[0].Version != "2" {
			t.Errorf("applied %v", applied)
		}
		r.wantAllSettled()
	})
}

func TestPumpHeals(t *testing.T) {
	run(t, config(), func(ctx context.Context, r *rig) {
		r.sink.Script(object("a"), pipeline.WithClass(pipeline.Invalid, errors.New("no")))
		r.submit(ctx, pipelinetest.Put(object("a"), 1))
		r.settle(ctx)
		r.wantLetters(map[string]string{"a": "Invalid after 1 at 1: no"})
		r.submit(ctx, pipelinetest.Put(object("a"), 2))
		r.submit(ctx, pipelinetest.Put(object("b"), 2))
		r.settle(ctx)
		r.wantLetters(map[string]string{})
		if parks, removals := r.parker.Calls(); parks != 1 || removals != 1 {
			t.Errorf("%d parks and %d removals, want one each", parks, removals)
		}
		if s := r.pump.Stats(); s.Parked != 0 || s.Kinds[object("").GroupResource()].Parked != 0 {
			t.Errorf("stats: %+v", s)
		}
		r.wantAllSettled()
	})
}

func TestPumpKnowsFormerLetters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		r := newRig(t, config())
		first := time.Now().Add(-time.Hour)
		former := func(name string, seq uint64, message string) pipeline.DeadLetter {
			return pipeline.DeadLetter{
				Ref: object(name), Position: at(seq), Owner: owner, Class: pipeline.Invalid, Message: message,
				Attempts: 1, First: first, Last: first,
			}
		}
		list := []pipeline.DeadLetter{
			former("healed", 1, "no"), former("same", 2, "no"), former("other message", 3, "never"), former("newer", 1, "no"),
		}
		foreign := former("of another owner", 5, "no")
		foreign.Owner = "team/other"
		for _, d := range append(list, foreign) {
			if err := r.parker.Park(ctx, d); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.pump.Parked(func(yield func(pipeline.DeadLetter, error) bool) {
			for _, d := range append(list, foreign) {
				if !yield(d, nil) {
					return
				}
			}
		}); err != nil {
			t.Fatal(err)
		}
		r.sink.Try = func(_ context.Context, rec pipeline.Record, _ int) error {
			if rec.Ref.Name == "healed" || rec.Ref.Name == "of another owner" {
				return nil
			}
			return pipeline.WithClass(pipeline.Invalid, errors.New("no"))
		}
		r.start()
		for _, name := range []string{"healed", "same", "other message", "newer", "of another owner"} {
			r.submit(ctx, pipelinetest.Put(object(name), 1))
		}
		r.settle(ctx)
		r.wantLetters(map[string]string{
			"same": "Invalid after 1 at 2: no", "other message": "Invalid after 1 at 3: no", "newer": "Invalid after 1 at 4: no",
			"of another owner": "Invalid after 1 at 5: no",
		})
		if parks, removals := r.parker.Calls(); parks != 5+2 || removals != 1 {
			t.Errorf("%d parks after the 5 before, and %d removals", parks-5, removals)
		}
		letters := r.parker.Letters()
		if !letters[object("other message")].First.Equal(first) {
			t.Errorf("the same record failed first at %s, now it says %s", first, letters[object("other message")].First)
		}
		if letters[object("newer")].First.Equal(first) {
			t.Errorf("a newer record cannot have failed first at %s", first)
		}
		r.wantAllSettled()
		r.stop()
	})
}

func TestPumpParkedReportsErrors(t *testing.T) {
	p := newRig(t, config()).pump
	err := p.Parked(func(yield func(pipeline.DeadLetter, error) bool) { yield(pipeline.DeadLetter{}, errBusy) })
	if !errors.Is(err, errBusy) {
		t.Errorf("Parked: %v", err)
	}
}

func TestPumpLosesNothingWhenParkingFails(t *testing.T) {
	run(t, config(), func(ctx context.Context, r *rig) {
		r.parker.Fail(errors.New("log unreachable"))
		r.sink.Script(object("a"), times(1, pipeline.WithClass(pipeline.Invalid, errors.New("no")))...)
		r.submit(ctx, pipelinetest.Put(object("a"), 1))
		r.settle(ctx)
		time.Sleep(time.Hour)
		if fate := r.fates.All()[0]; fate.Acks+fate.Terms != 0 || fate.Extends == 0 {
			t.Errorf("the record that could not be parked: %+v", fate)
		}
		if n := len(r.sink.Attempts(object("a"))); n != 1 {
			t.Errorf("%d attempts at what cannot be applied", n)
		}
		if parks, _ := r.parker.Calls(); parks < 100 || parks > 1000 {
			t.Errorf("%d attempts to park it within an hour", parks)
		}
		if s := r.pump.Stats(); s.Retrying != 1 || s.Settled != at(1) {
			t.Errorf("stats: %+v", s)
		}
		if n := strings.Count(r.logs.String(), "log unreachable"); n == 0 || n > 361 {
			t.Errorf("it was logged %d times", n)
		}
		r.parker.Fail(nil)
		time.Sleep(time.Minute)
		r.wantLetters(map[string]string{"a": "Invalid after 1 at 1: no"})
		r.wantAllSettled()

		r.parker.Fail(errors.New("log unreachable"))
		r.submit(ctx, pipelinetest.Put(object("a"), 2))
		r.settle(ctx)
		time.Sleep(time.Hour)
		if n := len(r.sink.Attempts(object("a"))); n != 2 {
			t.Errorf("%d attempts though the second was a success", n)
		}
		if fate := r.fates.All()[1]; fate.Acks != 0 {
			t.Errorf("it was settled though its dead letter is still there: %+v", fate)
		}
		r.parker.Fail(nil)
		time.Sleep(time.Minute)
		r.wantLetters(map[string]string{})
		r.wantAllSettled()
	})
}

func TestPumpSurvivesPanics(t *testing.T) {
	cases := map[string]struct {
		panic  func(body []byte)
		letter string
	}{
		"data":    {func(body []byte) { panic(string(body)) }, "Malformed after 1 at 1: panic while applying: a value of type string"},
		"runtime": {func([]byte) { _ = []int{}[len(t.Name())] }, "Malformed after 1 at 1: panic while applying: runtime error: index out of range [22] with length 0"},
		"error":   {func(body []byte) { panic(errors.New(string(body))) }, "Malformed after 1 at 1: panic while applying: a value of type *errors.errorString"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			run(t, config(), func(ctx context.Context, r *rig) {
				r.sink.Try = func(_ context.Context, rec pipeline.Record, _ int) error {
					if rec.Ref.Name == "bad" {
						tc.panic(rec.Body)
					}
					return nil
				}
				r.submit(ctx, pipelinetest.PutBody(object("bad"), 1, []byte("top secret")))
				r.submit(ctx, pipelinetest.Put(object("good"), 1))
				r.settle(ctx)
				r.wantLetters(map[string]string{"bad": tc.letter})
				r.wantAllSettled()
				if len(r.sink.Applied(object("good"))) != 1 {
					t.Error("the good object did not arrive")
				}
				if log := r.logs.String(); strings.Contains(log, "top secret") || !strings.Contains(log, "pump_test.go") {
					t.Errorf("the log must tell where, not what: %s", log)
				}
			})
		})
	}
}

func TestPumpAttemptTimeout(t *testing.T) {
	run(t, config(), func(ctx context.Context, r *rig) {
		r.sink.Try = func(ctx context.Context, _ pipeline.Record, attempt int) error {
			if attempt == 1 {
				<-ctx.Done()
				return fmt.Errorf("request: %w", ctx.Err())
			}
			return nil
		}
		start := time.Now()
		r.submit(ctx, pipelinetest.Put(object("a"), 1))
		r.settle(ctx)
		if took := time.Since(start); took != 10*time.Second {
			t.Errorf("the first attempt took %s", took)
		}
		time.Sleep(time.Minute)
		if len(r.sink.Applied(object("a"))) != 1 {
			t.Error("it was not applied by the second attempt")
		}
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

func TestPumpWake(t *testing.T) {
	run(t, config(), func(ctx context.Context, r *rig) {
		var ready bool
		r.sink.Try = func(_ context.Context, rec pipeline.Record, _ int) error {
			switch {
			case ready:
				return nil
			case rec.Ref.Name == "dependent":
				return pipeline.WithClass(pipeline.Dependency, errors.New("no namespace"))
			}
			return errBusy
		}
		r.submit(ctx, pipelinetest.Put(object("dependent"), 1))
		r.submit(ctx, pipelinetest.Put(object("transient"), 1))
		r.settle(ctx)
		for range 50 { // does not spend the budget
			r.pump.Wake()
			synctest.Wait()
		}
		if n := len(r.sink.Attempts(object("dependent"))); n != 51 {
			t.Errorf("%d attempts after 50 wakes", n)
		}
		if n := len(r.sink.Attempts(object("transient"))); n != 1 {
			t.Errorf("%d attempts at what waits for nothing", n)
		}
		ready = true
		start := time.Now()
		r.pump.Wake()
		synctest.Wait()
		if len(r.sink.Applied(object("dependent"))) != 1 || !time.Now().Equal(start) {
			t.Error("the dependent object did not arrive at once")
		}
		time.Sleep(time.Minute)
		r.wantAllSettled()
		r.wantLetters(map[string]string{})
	})
}

func TestPumpWakeDuringAttempt(t *testing.T) {
	run(t, config(), func(ctx context.Context, r *rig) {
		looked, arrived := make(chan struct{}), make(chan struct{})
		r.sink.Try = func(_ context.Context, _ pipeline.Record, attempt int) error {
			if attempt > 1 {
				return nil
			}
			close(looked)
			<-arrived
			return pipeline.WithClass(pipeline.Dependency, errors.New("no namespace"))
		}
		start := time.Now()
		r.submit(ctx, pipelinetest.Put(object("a"), 1))
		<-looked
		r.pump.Wake()
		close(arrived)
		synctest.Wait()
		if len(r.sink.Applied(object("a"))) != 1 || !time.Now().Equal(start) {
			t.Error("what arrived during the attempt was overlooked")
		}
		r.wantAllSettled()
	})
}

func TestPumpSettle(t *testing.T) {
	run(t, config(), func(ctx context.Context, r *rig) {
		r.settle(ctx) // nothing to wait for
		r.sink.Try = func(_ context.Context, rec pipeline.Record, _ int) error {
			switch rec.Ref.Name {
			case "slow":
				time.Sleep(3 * time.Second)
			case "failing":
				return errBusy
			case "later":
				time.Sleep(9 * time.Second)
			}
			return nil
		}
		start := time.Now()
		r.submit(ctx, pipelinetest.Put(object("failing"), 1))
		r.submit(ctx, pipelinetest.Put(object("slow"), 1))
		settled := make(chan time.Duration)
		go func() {
			r.settle(ctx)
			settled <- time.Since(start)
		}()
		synctest.Wait()
		r.submit(ctx, pipelinetest.Put(object("later"), 1))
		if took := <-settled; took != 3*time.Second {
			t.Errorf("settled after %s", took)
		}
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if err := r.pump.Settle(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Settle within a second: %v", err)
		}
		r.settle(ctx)
		if took := time.Since(start); took != 9*time.Second {
			t.Errorf("the later one settled after %s", took)
		}
	})
}

func TestPumpSettleWaitsForReplacement(t *testing.T) {
	cfg := config()
	cfg.Workers = 1
	run(t, cfg, func(ctx context.Context, r *rig) {
		r.sink.Try = func(context.Context, pipeline.Record, int) error {
			time.Sleep(time.Second)
			return nil
		}
		start := time.Now()
		r.submit(ctx, pipelinetest.Put(object("first"), 1))
		r.submit(ctx, pipelinetest.Put(object("namespace"), 1))
		settled := make(chan time.Duration)
		go func() {
			r.settle(ctx)
			settled <- time.Since(start)
		}()
		synctest.Wait()
		r.submit(ctx, pipelinetest.Put(object("namespace"), 2))
		if took := <-settled; took != 2*time.Second {
			t.Errorf("settled after %s: the newer version stands for the older one", took)
		}
		r.wantAllSettled()
	})
}

func TestPumpBlocksWhenFull(t *testing.T) {
	cases := map[string]struct {
		change func(*pipeline.PumpConfig)
		body   int
		fits   int
		reason string
	}{
		"records":   {change: func(c *pipeline.PumpConfig) { c.MaxPending = 10 }, body: 10, fits: 10},
		"bytes":     {change: func(c *pipeline.PumpConfig) { c.MaxPendingBytes = 100 << 10 }, body: 30 << 10, fits: 4, reason: "one too many is let in"},
		"oversized": {change: func(c *pipeline.PumpConfig) { c.MaxPendingBytes = 100 << 10 }, body: 1 << 20, fits: 1, reason: "any single record passes"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			cfg := config()
			tc.change(&cfg)
			run(t, cfg, func(ctx context.Context, r *rig) {
				release := make(chan struct{})
				r.sink.Try = func(context.Context, pipeline.Record, int) error {
					<-release
					return nil
				}
				put := func(i int) pipeline.Event {
					return pipelinetest.PutBody(object(fmt.Sprint(i)), i+1, make([]byte, tc.body))
				}
				for i := range tc.fits {
					r.submit(ctx, put(i))
				}
				short, cancel := context.WithTimeout(ctx, time.Minute)
				defer cancel()
				over := r.fates.Deliver(put(99), at(99))
				if err := r.pump.Submit(short, over); !errors.Is(err, context.DeadlineExceeded) {
					t.Fatalf("Submit of one more: %v (%s)", err, tc.reason)
				}
				r.submit(ctx, pipelinetest.Heartbeat(site, 1))
				var blocked sync.WaitGroup
				blocked.Go(func() {
					if err := r.pump.Submit(ctx, over); err != nil {
						t.Errorf("Submit after there was room: %v", err)
					}
				})
				synctest.Wait()
				close(release)
				blocked.Wait()
				r.settle(ctx)
				r.wantAllSettled()
			})
		})
	}
}

func TestPumpReplacesWhenFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := config()
		cfg.MaxPending = 2
		r := newRig(t, cfg)
		ctx := t.Context()
		r.submit(ctx, pipelinetest.Put(object("a"), 1))
		r.submit(ctx, pipelinetest.Put(object("b"), 2))
		r.submit(ctx, pipelinetest.Put(object("a"), 3)) // takes no room
		r.start()
		r.settle(ctx)
		r.wantAllSettled()
		r.stop()
	})
}

func TestPumpRetriesDoNotStarveOthers(t *testing.T) {
	cfg := config()
	cfg.MaxPending, cfg.Attempts, cfg.Workers = 20, 1000, 1
	run(t, cfg, func(ctx context.Context, r *rig) {
		r.sink.Try = func(_ context.Context, rec pipeline.Record, _ int) error {
			if strings.HasPrefix(rec.Ref.Name, "bad") {
				return errBusy
			}
			return nil
		}
		for i := range 50 {
			r.submit(ctx, pipelinetest.Put(object(fmt.Sprintf("bad-%02d", i)), 1))
			r.submit(ctx, pipelinetest.Put(object(fmt.Sprintf("good-%02d", i)), 1))
		}
		r.settle(ctx)
		synctest.Wait()
		if n := len(r.sink.World()); n != 50 {
			t.Errorf("%d of 50 good objects arrived", n)
		}
		s := r.pump.Stats()
		if s.Retrying != 10 || s.Parked != 40 {
			t.Errorf("%d retrying and %d parked, want 10 and 40", s.Retrying, s.Parked)
		}
		for ref, d := range r.parker.Letters() {
			if ref.Name >= "bad-40" {
				t.Errorf("%s was parked though others have been retrying for longer", ref.Name)
			}
			if d.Class != pipeline.Transient || !strings.Contains(d.Message, "parked early") {
				t.Errorf("dead letter of %s: %s: %s", ref.Name, d.Class, d.Message)
			}
		}
	})
}

func TestPumpRetryingBytesAreBounded(t *testing.T) {
	cfg := config()
	cfg.MaxPendingBytes, cfg.Attempts = 1<<20, 1000
	run(t, cfg, func(ctx context.Context, r *rig) {
		r.sink.Try = func(context.Context, pipeline.Record, int) error { return errBusy }
		for i := range 50 {
			r.submit(ctx, pipelinetest.PutBody(object(fmt.Sprint(i)), 1, make([]byte, 99<<10)))
		}
		r.settle(ctx)
		synctest.Wait()
		if s := r.pump.Stats(); s.Retrying != 5 || s.Bytes > 512<<10 || s.Parked != 45 {
			t.Errorf("stats: %+v", s)
		}
	})
}

func TestPumpRetriesLeaveWorkersFree(t *testing.T) {
	cfg := config()
	cfg.Attempts = 100
	run(t, cfg, func(ctx context.Context, r *rig) {
		r.sink.Try = func(ctx context.Context, rec pipeline.Record, attempt int) error {
			if strings.HasPrefix(rec.Ref.Name, "bad") && attempt > 1 {
				<-ctx.Done() // a webhook that times out
				return ctx.Err()
			}
			if strings.HasPrefix(rec.Ref.Name, "bad") {
				return errBusy
			}
			return nil
		}
		for i := range 20 {
			r.submit(ctx, pipelinetest.Put(object(fmt.Sprintf("bad-%d", i)), 1))
		}
		r.settle(ctx)
		time.Sleep(5 * time.Second) // retries are due, and hang
		start := time.Now()
		for i := range 20 {
			r.submit(ctx, pipelinetest.Put(object(fmt.Sprintf("good-%d", i)), 1))
		}
		r.settle(ctx)
		if took := time.Since(start); took != 0 {
			t.Errorf("hanging retries held up the others for %s", took)
		}
	})
}

func TestPumpExtends(t *testing.T) {
	cfg := config()
	cfg.Attempts = 10
	run(t, cfg, func(ctx context.Context, r *rig) {
		r.fates.Fail(errors.New("log unreachable")) // must do no harm
		r.sink.Script(object("a"), times(6, pipeline.WithClass(pipeline.Dependency, errors.New("no namespace")))...)
		r.sink.Try = func(context.Context, pipeline.Record, int) error { return nil }
		r.submit(ctx, pipelinetest.Put(object("a"), 1))
		r.submit(ctx, pipelinetest.Put(object("b"), 1))
		bare := r.fates.Deliver(pipelinetest.Put(object("c"), 1), at(9))
		bare.Settler = nil
		if err := r.pump.Submit(ctx, bare); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		fates := r.fates.All()
		if fates[0].Extends == 0 || fates[0].Acks != 1 || fates[1].Extends != 0 || fates[1].Acks != 1 {
			t.Errorf("fates: %+v", fates)
		}
	})
}

func TestPumpShutdownLeavesUnsettled(t *testing.T) {
	cfg := config()
	cfg.MaxPending, cfg.Workers = 4, 2
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		r := newRig(t, cfg)
		r.start()
		r.sink.Try = func(ctx context.Context, rec pipeline.Record, _ int) error {
			if strings.HasPrefix(rec.Ref.Name, "hanging") {
				<-ctx.Done()
				return fmt.Errorf("request: %w", ctx.Err())
			}
			return errBusy
		}
		r.submit(ctx, pipelinetest.Put(object("retrying"), 1))
		r.settle(ctx)
		r.submit(ctx, pipelinetest.Put(object("hanging-1"), 1))
		r.submit(ctx, pipelinetest.Put(object("hanging-2"), 1))
		r.submit(ctx, pipelinetest.Put(object("queued"), 1))
		var blocked sync.WaitGroup
		blocked.Go(func() {
			if err := r.pump.Submit(ctx, r.fates.Deliver(pipelinetest.Put(object("outside"), 1), at(9))); err == nil {
				t.Error("Submit to a stopped pump that was full returned no error")
			}
		})
		blocked.Go(func() {
			if err := r.pump.Settle(ctx); err == nil {
				t.Error("Settle of a pump that stopped returned no error")
			}
		})
		synctest.Wait()
		r.stop()
		blocked.Wait()
		for _, fate := range r.fates.All() {
			if fate.Acks+fate.Terms != 0 {
				t.Errorf("settled at the end: %+v", fate)
			}
		}
		r.wantLetters(map[string]string{})
		if err := r.pump.Submit(ctx, r.fates.Deliver(pipelinetest.Put(object("late"), 1), at(10))); err == nil {
			t.Error("Submit to a stopped pump returned no error")
		}
		if err := r.pump.Run(ctx); err == nil {
			t.Error("a second Run returned no error")
		}
		canceled, cancel := context.WithCancel(ctx)
		cancel()
		if err := r.pump.Submit(canceled, r.fates.Deliver(pipelinetest.Heartbeat(site, 1), at(11))); !errors.Is(err, context.Canceled) {
			t.Errorf("Submit with a canceled context: %v", err)
		}
	})
}

func TestPumpShutdownSettlesWhatWasApplied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		r := newRig(t, config())
		r.start()
		r.sink.Try = func(ctx context.Context, _ pipeline.Record, _ int) error {
			<-ctx.Done() // the request got through all the same
			return nil
		}
		r.submit(ctx, pipelinetest.Put(object("a"), 1))
		synctest.Wait()
		r.stop()
		r.wantAllSettled()
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
			LastError: s.LastError,
		}
		if diff := cmp.Diff(want, s); diff != "" {
			t.Errorf("stats (-want +got):\n%s", diff)
		}
		if s.Bytes < 1 || s.LastError.Ref.Name == "" || s.LastError.Message == "" {
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
