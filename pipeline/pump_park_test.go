package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/pipelinetest"
)

func TestPumpParks(t *testing.T) {
	cases := map[string]struct {
		err    error
		letter string
		reason string
	}{
		"transient":   {err: errBusy, letter: "Transient after 5 at 1: server is busy", reason: "the budget is spent"},
		"dependency":  {err: pipeline.WithClass(pipeline.Dependency, errors.New("no namespace")), letter: "Dependency after 5 at 1: no namespace", reason: "the budget is spent"},
		"forbidden":   {err: pipeline.WithClass(pipeline.Forbidden, errors.New("no")), letter: "Forbidden after 5 at 1: no", reason: "permissions come late too"},
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
				pass(5 * time.Minute)
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
		pass(time.Hour)
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
		pass(time.Minute)
		r.wantLetters(map[string]string{"a": "Invalid after 1 at 1: no"})
		r.wantAllSettled()

		r.parker.Fail(errors.New("log unreachable"))
		r.submit(ctx, pipelinetest.Put(object("a"), 2))
		r.settle(ctx)
		pass(time.Hour)
		if n := len(r.sink.Attempts(object("a"))); n != 2 {
			t.Errorf("%d attempts though the second was a success", n)
		}
		if fate := r.fates.All()[1]; fate.Acks != 0 {
			t.Errorf("it was settled though its dead letter is still there: %+v", fate)
		}
		r.parker.Fail(nil)
		pass(time.Minute)
		r.wantLetters(map[string]string{})
		r.wantAllSettled()
	})
}

func TestPumpSurvivesPanics(t *testing.T) {
	cases := map[string]struct {
		panic  func(body []byte)
		letter string
	}{
		"data":    {func(body []byte) { panic(string(body)) }, "Malformed after 1 at 1: panic while applying: a value of type string"}, //nolint:forbidigo // bad on purpose
		"runtime": {func([]byte) { _ = []int{}[len(t.Name())] }, "Malformed after 1 at 1: panic while applying: runtime error: index out of range [22] with length 0"},
		"error":   {func(body []byte) { panic(errors.New(string(body))) }, "Malformed after 1 at 1: panic while applying: a value of type *errors.errorString"}, //nolint:forbidigo // bad on purpose
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
				if log := r.logs.String(); strings.Contains(log, "top secret") || !strings.Contains(log, "TestPumpSurvivesPanics.func") {
					t.Errorf("the log must tell where, not what: %s", log)
				}
			})
		})
	}
}
