package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/pipelinetest"
)

// scene is a random run of a pump: what is submitted when, and how the sink and
// the dead letters behave. It is drawn outside the bubble and played inside.
type scene struct {
	cfg   pipeline.PumpConfig
	steps []sceneStep
	seed  uint64
	// chances of an attempt, in percent
	transient, dependency, permanent, slow, panics int
	parkerDown                                     bool
}

type sceneStep struct {
	object int
	op     pipeline.Op
	pause  time.Duration
	wake   bool
	again  bool // an older record comes once more
}

func drawScene(t *rapid.T) scene {
	s := scene{
		cfg: pipeline.PumpConfig{
			Owner:   owner,
			Workers: rapid.IntRange(1, 8).Draw(t, "workers"), MaxPending: rapid.IntRange(1, 30).Draw(t, "pending"),
			MaxPendingBytes: rapid.Int64Range(1, 1<<20).Draw(t, "bytes"), Attempts: rapid.IntRange(1, 5).Draw(t, "attempts"),
			InitialDelay: 100 * time.Millisecond, MaxDelay: 2 * time.Second, AttemptTimeout: 5 * time.Second, ExtendEvery: time.Second,
			Pace: rapid.SampledFrom([]time.Duration{0, 0, 50 * time.Millisecond, time.Second}).Draw(t, "pace"),
		},
		seed:      rapid.Uint64().Draw(t, "seed"),
		transient: rapid.IntRange(0, 50).Draw(t, "transient"), dependency: rapid.IntRange(0, 20).Draw(t, "dependency"),
		permanent: rapid.IntRange(0, 20).Draw(t, "permanent"), slow: rapid.IntRange(0, 50).Draw(t, "slow"),
		panics: rapid.IntRange(0, 5).Draw(t, "panics"), parkerDown: rapid.Bool().Draw(t, "parkerDown"),
	}
	s.steps = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) sceneStep {
		return sceneStep{
			object: rapid.IntRange(0, 9).Draw(t, "object"),
			op:     rapid.SampledFrom([]pipeline.Op{pipeline.OpPut, pipeline.OpPut, pipeline.OpDelete, pipeline.OpRelease}).Draw(t, "op"),
			pause:  rapid.SampledFrom([]time.Duration{0, 0, 0, time.Millisecond, 500 * time.Millisecond}).Draw(t, "pause"),
			wake:   rapid.IntRange(0, 9).Draw(t, "wake") == 0,
			again:  rapid.IntRange(0, 9).Draw(t, "again") == 0,
		}
	}), 0, 120).Draw(t, "steps")
	return s
}

// play runs the scene and returns every promise that was broken.
func (s scene) play(t *testing.T) []string {
	var broken []string
	complain := func(format string, args ...any) { broken = append(broken, fmt.Sprintf(format, args...)) }
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		r := newRig(t, s.cfg)
		r.sink.Try = s.try()
		r.start()
		var outage sync.WaitGroup
		if s.parkerDown {
			r.parker.Fail(errors.New("log unreachable"))
			outage.Go(func() {
				pass(20 * time.Second)
				r.parker.Fail(nil)
			})
		}
		submitted, last, twice := 0, map[pipeline.Ref]pipeline.Position{}, map[pipeline.Position]bool{}
		for _, step := range s.steps {
			ref := object(fmt.Sprint(step.object))
			event := pipelinetest.Put(ref, submitted+1)
			switch step.op {
			case pipeline.OpDelete:
				event = pipelinetest.Delete(ref, submitted+1)
			case pipeline.OpRelease:
				event = pipelinetest.Release(ref, submitted+1)
			case pipeline.OpPut, pipeline.OpHeartbeat:
			}
			r.submit(ctx, event)
			submitted++
			last[ref] = at(r.seq)
			if step.again { // a reading of Current overlaps what is followed
				if err := r.pump.Submit(ctx, r.fates.Deliver(event, at(r.seq))); err != nil {
					complain("Submit again: %v", err)
				}
				submitted++
				twice[at(r.seq)] = true // both may have been tried, with different outcomes
			}
			if st := r.pump.Stats(); st.Pending+st.Retrying > s.cfg.MaxPending {
				complain("%d records are held", st.Pending+st.Retrying)
			}
			if step.wake {
				r.pump.Wake()
			}
			pass(step.pause)
		}
		r.settle(ctx)
		if s := r.pump.Stats(); s.Pending != 0 {
			complain("%d records were not tried when all were settled", s.Pending)
		}
		outage.Wait()
		pass(time.Hour)
		broken = append(broken, r.sink.Broken()...)
		broken = append(broken, r.fates.Unsettled()...)
		letters := r.parker.Letters()
		for ref, p := range last {
			applied := r.sink.Applied(ref)
			d, parked := letters[ref]
			healed := len(applied) > 0 && applied[len(applied)-1].Position == p
			if !twice[p] && healed == (parked && d.Position == p) {
				complain("%s: last submitted %s, applied %v, parked at %s", ref, p, healed, d.Position)
			}
			if twice[p] && !healed && (!parked || d.Position != p) {
				complain("%s: last submitted %s, neither applied nor parked", ref, p)
			}
			if !twice[p] && healed && parked {
				complain("%s is healed and still parked at %s", ref, d.Position)
			}
		}
		st := r.pump.Stats()
		var results uint64
		for n := range maps.Values(st.Results) {
			results += n
		}
		if total := results + st.Superseded + st.ParkedTotal + st.ParkedAgain; total != uint64(submitted) {
			complain("%d submitted, %d applied, %d superseded, %d parked", submitted, results, st.Superseded, st.ParkedTotal)
		}
		if st.Parked != len(letters) || st.Pending+st.Retrying != 0 || st.Bytes != 0 || st.Settled != st.Seen {
			complain("at the end: %+v", st)
		}
		for gr, k := range st.Kinds {
			if k.Pending != 0 || k.Retrying != 0 || k.Parked != len(letters) {
				complain("at the end of %s: %+v", gr, k)
			}
		}
		r.stop()
	})
	return broken
}

// try is a sink that behaves at random, the same way for the same seed as far
// as the order of attempts allows.
func (s scene) try() func(ctx context.Context, r pipeline.Record, attempt int) error {
	var mu sync.Mutex
	random := rand.New(rand.NewPCG(s.seed, 1))
	return func(ctx context.Context, _ pipeline.Record, _ int) error {
		mu.Lock()
		dice, slow := random.IntN(100), random.IntN(100)
		mu.Unlock()
		if slow < s.slow {
			select {
			case <-time.After(time.Duration(slow) * 200 * time.Millisecond): // may exceed the attempt's time
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		for _, outcome := range []struct {
			chance int
			err    error
		}{
			{s.transient, errBusy},
			{s.dependency, pipeline.WithClass(pipeline.Dependency, errors.New("no namespace"))},
			{s.permanent, pipeline.WithClass(pipeline.Invalid, errors.New("no"))},
			{s.panics, nil},
		} {
			if dice -= outcome.chance; dice < 0 {
				if outcome.err == nil {
					panic("bad data") //nolint:forbidigo // bad on purpose
				}
				return outcome.err
			}
		}
		return nil
	}
}

// TestPumpKeepsItsPromises plays random scenes: whatever happens, the applied
// positions of a Ref only grow, no Ref is applied twice at once, the last record
// of each is applied or parked, and every delivery is settled exactly once.
func TestPumpKeepsItsPromises(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		if broken := drawScene(rt).play(t); len(broken) > 0 {
			rt.Fatalf("broken promises:\n%s", strings.Join(broken, "\n"))
		}
	})
}

// TestPumpCountsExactly: a sink answers at random; what it said must be what the
// pump counted, and what stands in the dead letters.
func TestPumpCountsExactly(t *testing.T) {
	cfg := config()
	cfg.Attempts = 3
	run(t, cfg, func(ctx context.Context, r *rig) {
		s := scene{seed: 7, transient: 30, permanent: 20}
		r.sink.Try = s.try()
		const n = 1000
		for i := range n {
			r.submit(ctx, pipelinetest.Put(object(fmt.Sprint(i)), 1))
		}
		pass(time.Hour)
		var applied, parked uint64
		for i := range n {
			attempts := r.sink.Attempts(object(fmt.Sprint(i)))
			switch last := attempts[len(attempts)-1].Err; {
			case last == nil:
				applied++
			case pipeline.ClassOf(last) == pipeline.Invalid || len(attempts) == cfg.Attempts:
				parked++
			default:
				t.Errorf("object %d was given up after %d attempts: %v", i, len(attempts), last)
			}
		}
		st := r.pump.Stats()
		if st.Results[pipeline.ResultCreated] != applied || st.ParkedTotal != parked || applied+parked != n || parked < 100 {
			t.Errorf("%d applied and %d parked, counted %+v", applied, parked, st)
		}
		if len(r.parker.Letters()) != int(parked) {
			t.Errorf("%d dead letters of %d", len(r.parker.Letters()), parked)
		}
		r.wantAllSettled()
	})
}
