package replay_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/memlog"
	"github.com/dr-syncer/dr-syncer/pipeline/pipelinetest"
	"github.com/dr-syncer/dr-syncer/replay"
)

var travelSeed = flag.Uint64("travel-seed", 0, "seed of the time travel; 0 draws one")

// log is a log that a journey goes through.
type journeyLog struct {
	past *replay.Past
	// open opens the site for writing.
	open func(t *testing.T) pipeline.Writer
	// tick lets time pass, and returns the time.
	tick func() time.Time
	// restart closes the log and opens it again; past is another one then.
	restart func(t *testing.T) *replay.Past
}

// memoryLog is a log in memory with a clock of its own.
func memoryLog(*testing.T) *journeyLog {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	l := memlog.New(memlog.WithClock(func() time.Time { return now }))
	past := &replay.Past{
		Site: "prod", History: l.History("prod"), Archive: l.Archive("prod"), Snapshots: l.Snapshots("prod"),
		Now: func() time.Time { return now },
	}
	return &journeyLog{
		past: past,
		open: func(t *testing.T) pipeline.Writer {
			w, err := l.Writer(t.Context(), "prod")
			if err != nil {
				t.Fatal(err)
			}
			return w
		},
		tick:    func() time.Time { now = now.Add(time.Second); return now },
		restart: func(*testing.T) *replay.Past { return past },
	}
}

// moment is the true state at a moment.
type moment struct {
	at    pipeline.Position
	time  time.Time
	state map[pipeline.Ref]pipeline.Event
}

// world is what a random source is, and what was said of it.
type journey struct {
	t       *testing.T
	rng     *rand.Rand
	log     *journeyLog
	writer  pipeline.Writer
	state   map[pipeline.Ref]pipeline.Event
	version int
	last    pipeline.Position
	moments []moment
}

func (j *journey) event() pipeline.Event {
	j.version++
	name := fmt.Sprintf("object-%d", j.rng.IntN(200))
	ref := pipelinetest.ConfigMap("prod", name)
	if j.rng.IntN(3) == 0 {
		ref = pipeline.Ref{Site: "prod", Group: "apps", Resource: "deployments", Namespace: "shop", Name: name}
	}
	before, exists := j.state[ref]
	switch n := j.rng.IntN(20); {
	case n == 0:
		return pipelinetest.Heartbeat("prod", j.version)
	case n < 4 && exists && before.Op == pipeline.OpPut:
		return pipelinetest.Delete(ref, j.version)
	case n == 4 && exists && before.Op == pipeline.OpPut:
		return pipelinetest.Release(ref, j.version)
	}
	return pipelinetest.PutBody(ref, j.version, fmt.Appendf(nil, `{"kind":"Test","data":{"version":"%d","noise":"<%x>"}}`, j.version, j.rng.Uint64()))
}

// travel makes changes, n in all, and remembers the state of some moments.
func (j *journey) travel(changes, moments int) {
	j.t.Helper()
	remember := map[int]bool{changes - 1: true}
	for len(remember) < moments {
		remember[j.rng.IntN(changes)] = true
	}
	for done := 0; done < changes; {
		batch := []pipeline.Event{}
		for size := 1 + j.rng.IntN(8); len(batch) < size && done < changes; done++ {
			e := j.event()
			j.state[e.Ref] = e
			batch = append(batch, e)
			if remember[done] {
				done++
				break
			}
		}
		var err error
		if j.last, err = j.writer.Append(j.t.Context(), batch); err != nil {
			j.t.Fatal(err)
		}
		now := j.log.tick()
		if remember[done-1] {
			j.moments = append(j.moments, moment{at: j.last, time: now, state: maps.Clone(j.state)})
		}
		j.log.tick()
	}
}

// check compares every moment since the oldest that can be read with what was.
func (j *journey) check(when string) {
	t := j.t
	t.Helper()
	reach, err := j.log.past.Reach(t.Context())
	if err != nil {
		t.Fatalf("%s: %v", when, err)
	}
	checked := 0
	for _, m := range j.moments {
		found, err := j.log.past.Locate(t.Context(), m.time)
		if m.at.Compare(reach.Oldest.Position) < 0 {
			tooOld, ok := errors.AsType[*pipeline.TooOldError](err)
			if !ok || tooOld.Oldest != reach.Oldest || !errors.Is(err, pipeline.ErrGap) {
				t.Errorf("%s: locate %s before %s: %v", when, m.at, reach.Oldest, err)
			}
			continue
		}
		if err != nil || found.Position != m.at {
			t.Errorf("%s: %s is at %s, want %s: %v", when, m.time, found, m.at, err)
			continue
		}
		checked++
		j.compare(when, m, pipeline.Query{})
	}
	m := j.moments[j.rng.IntN(len(j.moments))]
	if m.at.Compare(reach.Oldest.Position) >= 0 {
		kind := pipeline.GroupResource{Group: "apps", Resource: "deployments"}
		j.compare(when, m, pipeline.Query{Kind: &kind})
		j.compare(when, m, pipeline.Query{HeadersOnly: true})
		j.compare(when, m, pipeline.Query{Heartbeat: true})
	}
	t.Logf("%s: %d of %d moments are right, the oldest that can be read is %s", when, checked, len(j.moments), reach.Oldest)
	if checked == 0 {
		t.Errorf("%s: no moment could be checked", when)
	}
}

func (j *journey) compare(when string, m moment, q pipeline.Query) {
	t := j.t
	t.Helper()
	want := map[pipeline.Ref]pipeline.Event{}
	for ref, e := range m.state {
		isHeartbeat := e.Op == pipeline.OpHeartbeat
		if q.Heartbeat && !isHeartbeat || q.Kind != nil && (isHeartbeat || ref.GroupResource() != *q.Kind) {
			continue
		}
		if q.HeadersOnly {
			e.Body = nil
		}
		want[ref] = e
	}
	if diff := cmp.Diff(want, stateAt(t, j.log.past, m.at, q)); diff != "" {
		t.Errorf("%s: the state as of %s differs (-was +rebuilt):\n%s", when, m.at, diff)
	}
}

// stateAt collects the state as of a position.
func stateAt(t *testing.T, past *replay.Past, at pipeline.Position, q pipeline.Query) map[pipeline.Ref]pipeline.Event {
	t.Helper()
	got := map[pipeline.Ref]pipeline.Event{}
	var last pipeline.Position
	for rec, err := range past.State(t.Context(), at, q) {
		if err != nil {
			t.Fatal(err)
		}
		if _, twice := got[rec.Ref]; twice || rec.Position.Compare(last) <= 0 {
			t.Fatalf("%s comes at %s, after %s", rec.Ref, rec.Position, last)
		}
		got[rec.Ref], last = rec.Event, rec.Position
	}
	return got
}

func (j *journey) newEpoch() {
	j.t.Helper()
	var err error
	if j.last, err = j.writer.NewEpoch(j.t.Context()); err != nil {
		j.t.Fatal(err)
	}
	j.log.tick()
}

func (j *journey) snapshot() pipeline.Manifest {
	j.t.Helper()
	m, err := j.log.past.Snapshot(j.t.Context())
	if err != nil {
		j.t.Fatal(err)
	}
	return m
}

func timeTravel(t *testing.T, changes, moments int, open func(*testing.T) *journeyLog) {
	seed := *travelSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("seed %d (repeat with -travel-seed)", seed)
	l := open(t)
	j := &journey{t: t, rng: rand.New(rand.NewPCG(seed, seed)), log: l, writer: l.open(t), state: map[pipeline.Ref]pipeline.Event{}}

	j.travel(changes/3, moments/3)
	j.check("history alone")
	first := j.snapshot()
	j.travel(changes/6, moments/6)
	j.newEpoch()
	j.travel(changes/6, moments/6)
	second := j.snapshot()
	j.check("two epochs and two snapshots")

	past, err := l.past.SnapshotAt(t.Context(), pipeline.Moment{Position: j.moments[moments/2].at, Time: j.moments[moments/2].time})
	if err != nil {
		t.Fatal(err)
	}
	j.check("a snapshot of the past")
	if err := l.past.Snapshots.Delete(t.Context(), past.Name); err != nil {
		t.Fatal(err)
	}
	if again, err := l.past.SnapshotAt(t.Context(), second.Moment); err != nil || again.Digest != second.Digest {
		t.Errorf("one state has two digests: %s and %s, %v", second.Digest, again.Digest, err)
	}

	if err := l.past.Archive.Trim(t.Context(), pipeline.Position{Epoch: first.Position.Epoch, Seq: first.Position.Seq + 1}); err != nil {
		t.Fatal(err)
	}
	j.check("retention has passed over the early part")
	j.compare("the position of a snapshot", moment{at: first.Position, state: j.stateOf(first.Position)}, pipeline.Query{})

	j.log.past = l.restart(t)
	j.writer = l.open(t)
	j.check("after a restart")

	if err := j.log.past.Archive.Trim(t.Context(), pipeline.Position{Epoch: second.Position.Epoch, Seq: second.Position.Seq + 1}); err != nil {
		t.Fatal(err)
	}
	j.travel(changes/3, moments/3)
	j.check("retention has passed over an epoch")
}

// stateOf is the true state at the position of a snapshot, which was made at a moment.
func (j *journey) stateOf(at pipeline.Position) map[pipeline.Ref]pipeline.Event {
	i := slices.IndexFunc(j.moments, func(m moment) bool { return m.at == at })
	if i < 0 {
		j.t.Fatalf("no moment at %s", at)
	}
	return j.moments[i].state
}

func TestTimeTravel(t *testing.T) { timeTravel(t, 3000, 50, memoryLog) }

func TestImportedSnapshotIsReadable(t *testing.T) {
	source := memoryLog(t)
	j := &journey{t: t, rng: rand.New(rand.NewPCG(1, 1)), log: source, writer: source.open(t), state: map[pipeline.Ref]pipeline.Event{}}
	j.travel(300, 3)
	exportAndImport(t, j, memoryLog(t).past)
}

// exportAndImport takes a snapshot of the journey to a log that knows nothing of the site.
func exportAndImport(t *testing.T, j *journey, to *replay.Past) {
	t.Helper()
	m := j.snapshot()
	file := exported(t, j.log.past, m.Name)
	if _, err := to.Reach(t.Context()); !errors.Is(err, pipeline.ErrNoHistory) {
		t.Errorf("reach of nothing: %v", err)
	}
	got, err := to.Import(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	m.Kept = true
	if diff := cmp.Diff(m, got); diff != "" {
		t.Errorf("the manifest differs (-exported +imported):\n%s", diff)
	}
	if diff := cmp.Diff(j.state, stateAt(t, to, m.Position, pipeline.Query{})); diff != "" {
		t.Errorf("the state differs (-source +imported):\n%s", diff)
	}
	if found, err := to.Locate(t.Context(), m.Time.Add(time.Hour)); err != nil || found != m.Moment {
		t.Errorf("an hour later is %s, %v", found, err)
	}
	if _, err := to.Locate(t.Context(), m.Time.Add(-time.Hour)); !errors.Is(err, pipeline.ErrGap) {
		t.Errorf("an hour before: %v", err)
	}
	other := *to
	other.Site = "other"
	if _, err := file.Seek(0, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Import(t.Context(), file); err == nil {
		t.Error("a snapshot of another site was imported")
	}
}

func TestCancelledReadingEnds(t *testing.T) {
	l := memoryLog(t)
	j := &journey{t: t, rng: rand.New(rand.NewPCG(2, 2)), log: l, writer: l.open(t), state: map[pipeline.Ref]pipeline.Event{}}
	j.travel(50, 2)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, err := range l.past.State(ctx, j.last, pipeline.Query{}) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("state: %v", err)
		}
	}
}
