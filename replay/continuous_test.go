package replay_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/memlog"
	"github.com/dr-syncer/dr-syncer/pipeline/pipelinetest"
	"github.com/dr-syncer/dr-syncer/replay"
)

// target is a destination in memory. It fails the test when a record comes after a
// newer one of its Ref.
type target struct {
	t *testing.T

	mu      sync.Mutex
	objects map[pipeline.Ref]string
	last    map[pipeline.Ref]pipeline.Position
	order   []pipeline.Ref // of application
	refuse  map[pipeline.Ref]error
	drift   func(pipeline.Ref)
	grow    bool
	wants   func(pipeline.GroupResource) bool
}

func newTarget(t *testing.T) *target {
	return &target{t: t, objects: map[pipeline.Ref]string{}, last: map[pipeline.Ref]pipeline.Position{}, refuse: map[pipeline.Ref]error{}}
}

func (g *target) Apply(_ context.Context, r pipeline.Record) (pipeline.Result, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if r.Position.Compare(g.last[r.Ref]) < 0 {
		g.t.Errorf("%s: %s was applied after %s", r.Ref, r.Position, g.last[r.Ref])
	}
	if err := g.refuse[r.Ref]; err != nil {
		return "", err
	}
	g.last[r.Ref] = r.Position
	g.order = append(g.order, r.Ref)
	switch r.Op {
	case pipeline.OpPut:
		g.objects[r.Ref] = string(r.Body)
		return pipeline.ResultConfigured, nil
	case pipeline.OpDelete:
		delete(g.objects, r.Ref)
		return pipeline.ResultDeleted, nil
	case pipeline.OpRelease, pipeline.OpHeartbeat:
	}
	return pipeline.ResultSkipped, nil
}

func (g *target) Wants(k pipeline.GroupResource) bool { return g.wants == nil || g.wants(k) }

func (g *target) Expect(context.Context, []pipeline.GroupResource) {}

func (g *target) Observe(pipeline.Record) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	grow := g.grow
	g.grow = false
	return grow
}

func (g *target) OnDrift(fn func(pipeline.Ref)) func() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.drift = fn
	return func() {}
}

func (g *target) state() map[pipeline.Ref]string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return maps.Clone(g.objects)
}

func (g *target) applied() []pipeline.Ref {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.order)
}

// set changes the target under its lock.
func (g *target) set(change func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	change()
}

// bench is a log with one site, and a run from it.
type bench struct {
	t   *testing.T
	log *memlog.Log
	w   *memlog.Writer
	n   int
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, log: memlog.New()}
	b.open()
	return b
}

func (b *bench) open() {
	b.t.Helper()
	w, err := b.log.Writer(b.t.Context(), "prod")
	if err != nil {
		b.t.Fatal(err)
	}
	b.w = w
}

func (b *bench) append(events ...pipeline.Event) pipeline.Position {
	b.t.Helper()
	p, err := b.w.Append(b.t.Context(), events)
	if err != nil {
		b.t.Fatal(err)
	}
	return p
}

func (b *bench) put(resource, name string) pipeline.Event {
	b.n++
	return pipelinetest.PutBody(pipeline.Ref{Site: "prod", Resource: resource, Name: name}, b.n, fmt.Appendf(nil, `{"metadata":{"name":%q},"n":%d}`, name, b.n))
}

func (b *bench) gone(resource, name string) pipeline.Event {
	b.n++
	return pipelinetest.Delete(pipeline.Ref{Site: "prod", Resource: resource, Name: name}, b.n)
}

// waves puts kinds in the order of their names.
func waves(k pipeline.GroupResource) int { return int(k.Resource[0]) }

func (b *bench) settings(g replay.Sink) replay.Settings {
	cfg := pipeline.DefaultPumpConfig()
	cfg.Owner, cfg.Workers, cfg.Attempts = "dr/all", 4, 3
	cfg.InitialDelay, cfg.MaxDelay = time.Millisecond, 20*time.Millisecond
	return replay.Settings{
		History: b.log.History("prod"), DeadLetters: b.log.DeadLetters("dr"), Sink: g, Waves: waves,
		Pump: cfg, Consumer: "dr-all", Log: slog.New(slog.DiscardHandler),
	}
}

// run starts a run and returns a function that ends it.
func run(t *testing.T, s replay.Settings) (r *replay.Run, stop func()) {
	t.Helper()
	r, err := replay.Continuous(s)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := r.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	stop = func() {
		cancel()
		wg.Wait()
	}
	t.Cleanup(stop)
	return r, stop
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for deadline := time.Now().Add(30 * time.Second); !ok(); <-poll.C {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// same waits until the target is as the log says.
func (b *bench) same(g *target) {
	b.t.Helper()
	want := map[pipeline.Ref]string{}
	for r, err := range b.log.History("prod").Current(b.t.Context(), pipeline.Query{}) {
		if err == nil && r.Op == pipeline.OpPut {
			want[r.Ref] = string(r.Body)
		}
	}
	eventually(b.t, "the destination is as the log says", func() bool { return maps.Equal(want, g.state()) })
}

func TestFirstCopyGoesInWaves(t *testing.T) {
	b := newBench(t)
	g := newTarget(t)
	for i := range 20 {
		b.append(b.put("c-third", fmt.Sprint(i)), b.put("a-first", fmt.Sprint(i)), b.put("b-second", fmt.Sprint(i)), b.put("x-unwanted", fmt.Sprint(i)))
	}
	b.append(b.put("a-first", "gone"), b.put("c-third", "gone"), b.put("b-second", "freed"))
	b.append(b.gone("a-first", "gone"), b.gone("c-third", "gone"), pipelinetest.Release(pipeline.Ref{Site: "prod", Resource: "b-second", Name: "freed"}, 999))
	for _, name := range []string{"a-first", "c-third"} {
		g.objects[pipeline.Ref{Site: "prod", Resource: name, Name: "gone"}] = "left from before"
	}
	g.wants = func(k pipeline.GroupResource) bool { return k.Resource != "x-unwanted" }
	r, _ := run(t, b.settings(g))
	eventually(t, "the first copy is made", func() bool { return r.Stats().Phase == replay.Replicating })

	var got []string
	for _, ref := range g.applied() {
		step := ref.Resource
		if ref.Name == "gone" {
			step += " deleted"
		}
		if len(got) == 0 || got[len(got)-1] != step {
			got = append(got, step)
		}
	}
	want := []string{"a-first", "b-second", "c-third", "c-third deleted", "a-first deleted"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
}

func TestFollows(t *testing.T) {
	b := newBench(t)
	g := newTarget(t)
	b.append(b.put("things", "a"), b.put("things", "b"))
	r, stop := run(t, b.settings(g))
	b.same(g)
	b.append(b.put("things", "c"), b.gone("things", "a"))
	last := b.append(b.put("things", "b"))
	b.same(g)
	eventually(t, "everything is settled", func() bool {
		s := r.Stats()
		return s.Position == last && s.LagEvents == 0 && s.Phase == replay.Replicating && s.Err == nil
	})

	stop()
	b.append(b.put("things", "d"), b.gone("things", "c"))
	run(t, b.settings(g))
	b.same(g)
}

// during is a History in which things happen while Current is read.
type during struct {
	pipeline.History
	happen func()
}

func (d during) Current(ctx context.Context, q pipeline.Query) iter.Seq2[pipeline.Record, error] {
	return func(yield func(pipeline.Record, error) bool) {
		d.happen()
		for r, err := range d.History.Current(ctx, q) {
			if !yield(r, err) {
				return
			}
			d.happen()
		}
	}
}

// TestNeverGoesBack changes objects all the time while they are copied, followed and
// repaired. The target complains when an older state comes after a newer one.
func TestNeverGoesBack(t *testing.T) {
	b := newBench(t)
	g := newTarget(t)
	random := rand.New(rand.NewPCG(1, 2))
	change := func() {
		kind, name := []string{"a", "b", "c"}[random.IntN(3)], fmt.Sprint(random.IntN(5))
		if random.IntN(3) == 0 {
			b.append(b.gone(kind, name))
		} else {
			b.append(b.put(kind, name))
		}
	}
	for range 30 {
		change()
	}
	var mu sync.Mutex
	left := 400
	s := b.settings(g)
	s.History = during{s.History, func() {
		mu.Lock()
		defer mu.Unlock()
		if left > 0 {
			left--
			change()
		}
	}}
	run(t, s)
	pace := time.NewTicker(2 * time.Millisecond) // long enough for some repairs
	defer pace.Stop()
	for range 400 {
		<-pace.C
		mu.Lock()
		change()
		ref := pipeline.Ref{Site: "prod", Resource: "a", Name: fmt.Sprint(random.IntN(5))}
		mu.Unlock()
		g.set(func() {
			if g.drift != nil {
				g.drift(ref)
			}
		})
	}
	mu.Lock()
	left = 0
	mu.Unlock()
	b.same(g)
}

func TestWaitsForTheSource(t *testing.T) {
	b := &bench{t: t, log: memlog.New()}
	g := newTarget(t)
	r, _ := run(t, b.settings(g))
	eventually(t, "it says what it waits for", func() bool {
		s := r.Stats()
		return s.Phase == replay.Waiting && !s.SourceKnown && errors.Is(s.Err, pipeline.ErrNoHistory)
	})
	b.open()
	b.append(b.put("things", "a"))
	b.same(g)
	eventually(t, "it says that all is well", func() bool {
		s := r.Stats()
		return s.Phase == replay.Replicating && s.SourceKnown && s.Err == nil
	})
}

func TestBeginsAnew(t *testing.T) {
	cases := map[string]func(b *bench, g *target, s replay.Settings){
		"after a new epoch": func(b *bench, _ *target, _ replay.Settings) {
			if _, err := b.w.NewEpoch(b.t.Context()); err != nil {
				b.t.Fatal(err)
			}
		},
		"after the subscription was taken over": func(b *bench, _ *target, s replay.Settings) {
			sub, err := s.History.Follow(b.t.Context(), s.Consumer, pipeline.Position{})
			if err != nil {
				b.t.Fatal(err)
			}
			if err := sub.Close(); err != nil {
				b.t.Fatal(err)
			}
		},
		"when more is selected": func(b *bench, g *target, _ replay.Settings) {
			g.set(func() { g.grow = true })
			b.append(b.put("things", "grew"))
		},
	}
	for name, disturb := range cases {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			g := newTarget(t)
			b.append(b.put("things", "a"), b.put("things", "b"))
			s := b.settings(g)
			r, _ := run(t, s)
			eventually(t, "it follows", func() bool { return r.Stats().Phase == replay.Replicating })
			a := pipeline.Ref{Site: "prod", Resource: "things", Name: "a"}
			g.set(func() { delete(g.objects, a) }) // only reading everything again brings it back
			disturb(b, g, s)
			b.append(b.put("things", "c"))
			b.same(g)
		})
	}
}

// behind is a History whose retention has passed over the place to follow from.
type behind struct {
	pipeline.History
	mu   *sync.Mutex
	gaps *int
}

func (h behind) Follow(ctx context.Context, name string, after pipeline.Position) (pipeline.Subscription, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if *h.gaps > 0 {
		*h.gaps--
		return nil, fmt.Errorf("follow: %w", pipeline.ErrGap)
	}
	return h.History.Follow(ctx, name, after)
}

func TestGap(t *testing.T) {
	b := newBench(t)
	g := newTarget(t)
	b.append(b.put("things", "a"))
	s := b.settings(g)
	gaps := 2
	s.History = behind{s.History, &sync.Mutex{}, &gaps}
	r, _ := run(t, s)
	eventually(t, "it follows in the end", func() bool { return r.Stats().Phase == replay.Replicating })
	b.append(b.put("things", "b"))
	b.same(g)
}

func TestForeignMessagesHoldNothingUp(t *testing.T) {
	b := newBench(t)
	g := newTarget(t)
	junk := func(n int) {
		b.t.Helper()
		for _, m := range []pipeline.Message{
			{Subject: "something.else", Data: []byte("hello")},
			{Subject: pipeline.Ref{Site: "prod", Resource: "things", Name: fmt.Sprintf("junk%d", n)}.Subject(), Data: []byte("hello")},
		} {
			if _, err := b.log.Publish("prod", m); err != nil {
				t.Fatal(err)
			}
		}
		b.open()
	}
	b.append(b.put("things", "a"))
	junk(1)
	r, _ := run(t, b.settings(g))
	b.same(g)
	junk(2)
	last := b.append(b.put("things", "b"))
	b.same(g)
	eventually(t, "the position is past them", func() bool { return r.Stats().Position == last })
	if s := r.Stats(); s.Pump.Foreign == 0 && s.Pump.Parked == 0 {
		t.Error("foreign messages are neither counted nor parked")
	}
}

func TestRepairsDrift(t *testing.T) {
	b := newBench(t)
	g := newTarget(t)
	b.append(b.put("things", "a"), b.put("things", "b"), b.put("others", "c"))
	r, _ := run(t, b.settings(g))
	eventually(t, "it follows", func() bool { return r.Stats().Phase == replay.Replicating })
	before := len(g.applied())
	a := pipeline.Ref{Site: "prod", Resource: "things", Name: "a"}
	g.set(func() { delete(g.objects, a) })
	g.drift(a)
	b.same(g)
	if got := g.applied()[before:]; len(got) != 1 || got[0] != a {
		t.Errorf("applied again are %v, want only %v", got, a)
	}
	t.Run("of very many", func(*testing.T) {
		g.set(func() { clear(g.objects) })
		for i := range 20_000 {
			g.drift(pipeline.Ref{Site: "prod", Resource: "things", Name: fmt.Sprint(i)})
		}
		b.same(g)
	})
}

func TestDeadLettersHeal(t *testing.T) {
	b := newBench(t)
	g := newTarget(t)
	bad := pipeline.Ref{Site: "prod", Resource: "things", Name: "bad"}
	b.append(b.put("things", "bad"), b.put("things", "good"))
	g.refuse[bad] = pipeline.WithClass(pipeline.Invalid, errors.New("refused"))
	letters := func() (names []string) {
		for d, err := range b.log.DeadLetters("dr").List(t.Context(), "dr/all") {
			if err != nil {
				t.Fatal(err)
			}
			names = append(names, d.Ref.Name)
		}
		return names
	}
	r, stop := run(t, b.settings(g))
	eventually(t, "the bad one is parked", func() bool { return slices.Equal(letters(), []string{"bad"}) && r.Stats().Pump.Parked == 1 })
	stop()
	g.set(func() { clear(g.refuse) })
	r, _ = run(t, b.settings(g))
	eventually(t, "it is healed by the next run", func() bool { return len(letters()) == 0 && r.Stats().Pump.Parked == 0 })
	b.same(g)
}

func TestDependencyIsWokenByItsNamespace(t *testing.T) {
	b := newBench(t)
	g := newTarget(t)
	thing := pipeline.Ref{Site: "prod", Resource: "things", Name: "early"}
	g.refuse[thing] = pipeline.WithClass(pipeline.Dependency, errors.New("no namespace"))
	s := b.settings(g)
	s.Pump.InitialDelay, s.Pump.MaxDelay = time.Hour, time.Hour
	r, _ := run(t, s)
	eventually(t, "it follows", func() bool { return r.Stats().Phase == replay.Replicating })
	b.append(b.put("things", "early"))
	eventually(t, "it waits", func() bool { return r.Stats().Pump.Retrying == 1 })
	if s := r.Stats(); s.LagEvents != 1 {
		t.Errorf("lag is %d events, want 1", s.LagEvents)
	}
	g.set(func() { clear(g.refuse) })
	b.append(b.put("namespaces", "shop"))
	b.same(g)
}

func TestRefusesSenselessSettings(t *testing.T) {
	b := newBench(t)
	s := b.settings(newTarget(t))
	s.Pump.Workers = 0
	if _, err := replay.Continuous(s); err == nil {
		t.Error("a pump without workers is accepted")
	}
}
