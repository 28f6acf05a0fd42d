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
		pass(5 * time.Minute)
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
		pass(time.Hour)
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

func TestPumpNewerVersionReplacesRetryingOne(t *testing.T) {
	run(t, config(), func(ctx context.Context, r *rig) {
		r.sink.Script(object("a"), append(times(4, errBusy), append(times(4, errBusy), nil)...)...)
		r.submit(ctx, pipelinetest.Put(object("a"), 1))
		for len(r.sink.Attempts(object("a"))) < 4 {
			pass(100 * time.Millisecond)
		}
		arrived := time.Now()
		r.submit(ctx, pipelinetest.Put(object("a"), 2))
		r.settle(ctx)
		attempts := r.sink.Attempts(object("a"))
		if len(attempts) != 5 || attempts[4].Position != at(2) || !attempts[4].Time.Equal(arrived) {
			t.Fatalf("the newer version was not tried at once: %v", attempts)
		}
		pass(5 * time.Minute)
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
		pass(time.Minute)
		if len(r.sink.Applied(object("a"))) != 1 {
			t.Error("it was not applied by the second attempt")
		}
		r.wantAllSettled()
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
		pass(time.Minute)
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

// An item that is retried at once is another worker's while the former one still reports: the race detector looks.
func TestPumpWakesHandOver(t *testing.T) {
	run(t, config(), func(ctx context.Context, r *rig) {
		const tries = 500
		r.sink.Try = func(_ context.Context, _ pipeline.Record, attempt int) error {
			if attempt == tries {
				return nil
			}
			r.pump.Wake() // what it lacks may have come
			return pipeline.WithClass(pipeline.Dependency, errors.New("no namespace"))
		}
		r.submit(ctx, pipelinetest.Put(object("a"), 1))
		r.submit(ctx, pipelinetest.Put(object("b"), 2))
		synctest.Wait()
		for _, name := range []string{"a", "b"} {
			if n := len(r.sink.Attempts(object(name))); n != tries || len(r.sink.Applied(object(name))) != 1 {
				t.Errorf("%s was tried %d times", name, n)
			}
		}
		r.wantAllSettled()
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
		pass(5 * time.Second) // retries are due, and hang
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
		pass(10 * time.Minute)
		fates := r.fates.All()
		if fates[0].Extends == 0 || fates[0].Acks != 1 || fates[1].Extends != 0 || fates[1].Acks != 1 {
			t.Errorf("fates: %+v", fates)
		}
	})
}
