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
	"sync/atomic"
	"testing"
	"testing/synctest"
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
		_, was := g.objects[r.Ref]
		g.objects[r.Ref] = string(r.Body)
		if !was {
			return pipeline.ResultCreated, nil
		}
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

// lossy is a History whose log has lost records of the epoch.
type lossy struct{ pipeline.History }

func (h lossy) Current(ctx context.Context, q pipeline.Query) iter.Seq2[pipeline.Record, error] {
	return func(yield func(pipeline.Record, error) bool) {
		for r, err := range h.History.Current(ctx, q) {
			if !yield(r, err) {
				return
			}
		}
		yield(pipeline.Record{}, fmt.Errorf("current: %w", pipeline.ErrGap))
	}
}

// TestLostRecordsKeepNothingBack: what a damaged log still has is copied and followed, since the source may
// be gone.
func TestLostRecordsKeepNothingBack(t *testing.T) {
	b := newBench(t)
	g := newTarget(t)
	b.append(b.put("things", "a"), b.put("others", "b"))
	s := b.settings(g)
	s.History = lossy{s.History}
	r, _ := run(t, s)
	eventually(t, "it follows", func() bool { return r.Stats().Phase == replay.Replicating })
	b.append(b.put("things", "c"))
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

// TestParkedIsTriedAgain: what was parked is applied without a newer record or a
// restart, after a while, and at once when a namespace comes.
func TestParkedIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := memlog.New()
		b := &bench{t: t, log: log}
		b.open()
		g := newTarget(t)
		ref := pipeline.Ref{Site: "prod", Resource: "things", Name: "bad"}
		b.append(b.put("things", "bad"), b.put("things", "good"))
		refuse := func(class pipeline.Class) {
			g.set(func() { g.refuse[ref] = pipeline.WithClass(class, errors.New("refused")) })
		}
		here := func() bool { _, ok := g.state()[ref]; return ok }
		refuse(pipeline.Foreign)
		r, stop := run(t, b.settings(g))
		<-time.After(8 * time.Hour)
		if s := r.Stats(); s.Pump.Parked != 1 || s.Pump.ParkedTotal != 1 || s.Pump.ParkedAgain < 10 || s.Pump.ParkedAgain > 30 || s.LagEvents != 0 {
			t.Errorf("after 8 hours: %+v", s.Pump)
		}
		g.set(func() { clear(g.refuse) })
		<-time.After(40 * time.Minute)
		if !here() || r.Stats().Pump.Parked != 0 {
			t.Errorf("the obstacle is gone: here %v, %+v", here(), r.Stats().Pump)
		}

		refuse(pipeline.Dependency)
		b.append(b.put("things", "bad"))
		<-time.After(6 * time.Hour)
		if n := r.Stats().Pump.Parked; n != 1 {
			t.Fatalf("%d are parked", n)
		}
		g.set(func() { delete(g.objects, ref); clear(g.refuse) })
		b.append(b.put("namespaces", "shop"))
		<-time.After(2 * time.Second)
		if !here() || r.Stats().Pump.Parked != 0 {
			t.Errorf("its namespace has come: here %v, %+v", here(), r.Stats().Pump)
		}
		stop()
	})
}

// TestRedoingDoesNotLookBehind: nothing that was settled before makes the lag or the
// position older than they are.
func TestRedoingDoesNotLookBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bench{t: t, log: memlog.New()}
		b.open()
		g := newTarget(t)
		old := pipeline.Ref{Site: "prod", Resource: "things", Name: "old"}
		b.append(b.put("things", "old"))
		last := b.append(b.put("things", "new"))
		<-time.After(30 * 24 * time.Hour)
		g.refuse[old] = errors.New("busy")
		s := b.settings(g)
		s.Pump.Attempts = 1000
		r, stop := run(t, s)
		<-time.After(time.Second)
		check := func(when string, position pipeline.Position) {
			t.Helper()
			if s := r.Stats(); s.Position != position || s.Lag > time.Minute || s.LagEvents != 1 {
				t.Errorf("%s: at %s, lag %s of %d", when, s.Position, s.Lag, s.LagEvents)
			}
		}
		check("after the first copy", last)
		g.set(func() { clear(g.refuse) })
		<-time.After(time.Second)
		last = b.append(b.put("things", "newer"))
		<-time.After(time.Second)
		g.set(func() { g.refuse[old] = errors.New("busy") })
		g.drift(old)
		<-time.After(time.Second)
		check("while a copy is repaired", last)
		stop()
	})
}

// TestLettersOfWhatIsNotReadGo: what a first copy no longer reads leaves no dead letter.
func TestLettersOfWhatIsNotReadGo(t *testing.T) {
	b := newBench(t)
	g := newTarget(t)
	ref := func(resource string) pipeline.Ref {
		return pipeline.Ref{Site: "prod", Resource: resource, Name: "bad"}
	}
	for _, resource := range []string{"unwanted", "released", "kept"} {
		b.append(b.put(resource, "bad"))
		g.refuse[ref(resource)] = pipeline.WithClass(pipeline.Invalid, errors.New("refused"))
	}
	r, stop := run(t, b.settings(g))
	eventually(t, "all are parked", func() bool { return r.Stats().Pump.Parked == 3 })
	stop()
	b.append(pipelinetest.Release(ref("released"), 99))
	g.wants = func(k pipeline.GroupResource) bool { return k.Resource != "unwanted" }
	r, _ = run(t, b.settings(g))
	eventually(t, "it follows", func() bool { return r.Stats().Phase == replay.Replicating })
	var left []pipeline.Ref
	for d, err := range b.log.DeadLetters("dr").List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		left = append(left, d.Ref)
	}
	if diff := cmp.Diff([]pipeline.Ref{ref("kept")}, left); diff != "" {
		t.Errorf("dead letters (-want +got)\n%s", diff)
	}
	if n := r.Stats().Pump.Parked; n != 1 {
		t.Errorf("%d count as parked", n)
	}
}

// torn is a History whose subscriptions are lost after a while.
type torn struct {
	pipeline.History
	after   time.Duration
	follows *atomic.Int64
}

func (h torn) Follow(ctx context.Context, name string, after pipeline.Position) (pipeline.Subscription, error) {
	h.follows.Add(1)
	sub, err := h.History.Follow(ctx, name, after)
	if err == nil {
		time.AfterFunc(h.after, func() {
			if err := sub.Close(); err != nil {
				panic(err) //nolint:forbidigo // a test's
			}
		})
	}
	return sub, err
}

// TestKeepsFailing: a run that is interrupted again and again says so all the time,
// and slows down; one that is interrupted now and then does neither.
func TestKeepsFailing(t *testing.T) {
	cases := map[string]struct {
		after time.Duration
		fails bool
		most  int64
	}{
		"at once":      {time.Second, true, 80},
		"now and then": {2 * time.Minute, false, 6},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &bench{t: t, log: memlog.New()}
				b.open()
				b.append(b.put("things", "a"))
				s := b.settings(newTarget(t))
				var follows atomic.Int64
				s.History = torn{s.History, c.after, &follows}
				r, stop := run(t, s)
				<-time.After(30 * time.Second)
				for range 570 {
					if st := r.Stats(); (st.Err != nil) != c.fails && st.Phase != replay.Waiting {
						t.Errorf("%s, error %v", st.Phase, st.Err)
						break
					}
					<-time.After(time.Second)
				}
				if n := follows.Load(); n > c.most {
					t.Errorf("followed %d times in 10 minutes", n)
				}
				stop()
				<-time.After(c.after)
			})
		})
	}
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
