package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/pipelinetest"
)

func TestPumpSettle(t *testing.T) {
	run(t, config(), func(ctx context.Context, r *rig) {
		r.settle(ctx) // nothing to wait for
		r.sink.Try = func(_ context.Context, rec pipeline.Record, _ int) error {
			switch rec.Ref.Name {
			case "slow":
				pass(3 * time.Second)
			case "failing":
				return errBusy
			case "later":
				pass(9 * time.Second)
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
			pass(time.Second)
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
