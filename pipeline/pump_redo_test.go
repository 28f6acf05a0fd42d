package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/pipelinetest"
)

// outcome is what a sink says until it is told otherwise.
type outcome struct {
	mu  sync.Mutex
	err error
}

func (o *outcome) set(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.err = err
}

func (o *outcome) get() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}

// TestPumpRedoesParked: a parked record that is tried again and fails as before
// leaves no trace; one that succeeds is healed.
func TestPumpRedoesParked(t *testing.T) {
	run(t, config(), func(ctx context.Context, r *rig) {
		var failure outcome
		failure.set(pipeline.WithClass(pipeline.Dependency, errors.New("no namespace")))
		r.sink.Try = func(context.Context, pipeline.Record, int) error {
			pass(time.Second)
			return failure.get()
		}
		event := pipelinetest.Put(object("a"), 1)
		r.submit(ctx, event)
		pass(5 * time.Minute)
		r.wantLetters(map[string]string{"a": "Dependency after 5 at 1: no namespace"})
		if diff := cmp.Diff(map[pipeline.Ref]pipeline.Class{object("a"): pipeline.Dependency}, r.pump.ParkedRefs()); diff != "" {
			t.Errorf("parked (-want +got)\n%s", diff)
		}
		before := r.pump.Stats()
		again := func() {
			t.Helper()
			if err := r.pump.Submit(ctx, r.fates.Deliver(event, at(1))); err != nil {
				t.Fatal(err)
			}
			if s := r.pump.Stats(); s.Pending+s.Retrying != 0 || s.Parked != 1 {
				t.Errorf("while it is tried again: %d pending, %d retrying, %d parked", s.Pending, s.Retrying, s.Parked)
			}
			r.settle(ctx)
		}
		again()
		failure.set(pipeline.WithClass(pipeline.Transient, fmt.Errorf("%w: connection refused", pipeline.ErrUnreachable)))
		again() // says nothing of the record
		after := r.pump.Stats()
		if parks, _ := r.parker.Calls(); parks != 1 || after.ParkedAgain != 2 {
			t.Errorf("%d dead letters were written, %d tried again", parks, after.ParkedAgain)
		}
		after.ParkedAgain = 0
		if diff := cmp.Diff(before, after); diff != "" {
			t.Errorf("stats (-before +after)\n%s", diff)
		}
		if n := len(r.sink.Attempts(object("a"))); n != 5+2 {
			t.Errorf("%d attempts", n)
		}
		failure.set(pipeline.WithClass(pipeline.Forbidden, errors.New("no")))
		again()
		r.wantLetters(map[string]string{"a": "Forbidden after 1 at 1: no"})
		failure.set(nil)
		again()
		r.wantLetters(map[string]string{})
		r.wantAllSettled()
	})
}

// TestPumpWaitsForTheDestination: what does not reach it is never parked.
func TestPumpWaitsForTheDestination(t *testing.T) {
	run(t, config(), func(ctx context.Context, r *rig) {
		var failure outcome
		failure.set(fmt.Errorf("%w: connection refused", pipeline.ErrUnreachable))
		r.sink.Try = func(context.Context, pipeline.Record, int) error { return failure.get() }
		r.submit(ctx, pipelinetest.Put(object("a"), 1))
		pass(24 * time.Hour)
		if s := r.pump.Stats(); s.Retrying != 1 || s.Parked != 0 {
			t.Errorf("after a day: %d retrying, %d parked", s.Retrying, s.Parked)
		}
		failure.set(nil)
		pass(time.Minute)
		if s := r.pump.Stats(); s.Retrying != 0 || len(r.sink.Applied(object("a"))) != 1 {
			t.Errorf("it is back: %+v", s)
		}
	})
}

// TestPumpSettledDoesNotGoBack: what was settled before and comes again is work,
// but makes nothing older.
func TestPumpSettledDoesNotGoBack(t *testing.T) {
	run(t, config(), func(ctx context.Context, r *rig) {
		r.sink.Try = func(_ context.Context, rec pipeline.Record, _ int) error {
			if rec.Ref.Name == "stuck" {
				return errBusy
			}
			pass(time.Second)
			return nil
		}
		r.submit(ctx, pipelinetest.Put(object("stuck"), 1))
		r.submit(ctx, pipelinetest.Put(object("b"), 2))
		r.settle(ctx)
		if s := r.pump.Stats(); s.Settled != at(1) || s.OldestStored.IsZero() {
			t.Errorf("before: settled %s, oldest %s", s.Settled, s.OldestStored)
		}
		r.pump.Settled(at(2))
		r.submit(ctx, pipelinetest.Put(object("c"), 3))
		r.settle(ctx)
		for name, seq := range map[string]uint64{"b": 2, "c": 3} {
			if err := r.pump.Submit(ctx, r.fates.Deliver(pipelinetest.Put(object(name), int(seq)), at(seq))); err != nil {
				t.Fatal(err)
			}
		}
		if s := r.pump.Stats(); s.Settled != at(3) || !s.OldestStored.IsZero() || s.Pending != 2 || s.Retrying != 1 {
			t.Errorf("again: settled %s, oldest %s, %d pending, %d retrying", s.Settled, s.OldestStored, s.Pending, s.Retrying)
		}
		r.submit(ctx, pipelinetest.Put(object("d"), 4))
		if s := r.pump.Stats(); s.Settled != at(4) || s.OldestStored.IsZero() {
			t.Errorf("a new one: settled %s, oldest %s", s.Settled, s.OldestStored)
		}
		r.settle(ctx)
	})
}

func TestPumpDropsLetters(t *testing.T) {
	run(t, config(), func(ctx context.Context, r *rig) {
		r.sink.Script(object("a"), pipeline.WithClass(pipeline.Invalid, errors.New("no")))
		r.submit(ctx, pipelinetest.Put(object("a"), 1))
		r.settle(ctx)
		for range 2 {
			if err := r.pump.Drop(ctx, object("a")); err != nil {
				t.Fatal(err)
			}
		}
		r.wantLetters(map[string]string{})
		if _, removals := r.parker.Calls(); removals != 1 || r.pump.Stats().Parked != 0 {
			t.Errorf("%d removals, %d parked", removals, r.pump.Stats().Parked)
		}
	})
}
