package replay_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/memlog"
	"github.com/dr-syncer/dr-syncer/replay"
)

// house is a log with a clock, and what looks after it.
type house struct {
	*journey
	log  *memlog.Log
	now  time.Time
	keep *replay.Retention
	said strings.Builder
}

func newHouse(t *testing.T, seed uint64, cfg replay.RetentionConfig) *house {
	h := &house{now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	clock := func() time.Time { return h.now }
	h.log = memlog.New(memlog.WithClock(clock))
	past := &replay.Past{Site: "prod", History: h.log.History("prod"), Archive: h.log.Archive("prod"), Snapshots: h.log.Snapshots("prod"), Now: clock}
	l := &journeyLog{past: past, tick: func() time.Time { h.now = h.now.Add(time.Second); return h.now }}
	w, err := h.log.Writer(t.Context(), "prod")
	if err != nil {
		t.Fatal(err)
	}
	h.journey = &journey{t: t, rng: rand.New(rand.NewPCG(seed, seed)), log: l, writer: w, state: map[pipeline.Ref]pipeline.Event{}}
	h.keep = &replay.Retention{
		Config: cfg, Sites: h.log.Sites, Past: func(string) *replay.Past { return past }, Now: clock,
		Log: slog.New(slog.NewTextHandler(&h.said, nil)),
	}
	return h
}

func (h *house) past() *replay.Past { return h.journey.log.past }

func (h *house) once() {
	h.t.Helper()
	if err := h.keep.Once(h.t.Context()); err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) reach() replay.Reach {
	h.t.Helper()
	r, err := h.past().Reach(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	return r
}

// promised checks every recorded moment of the window.
func (h *house) promised() {
	h.t.Helper()
	for _, m := range h.moments {
		if m.time.Before(h.now.Add(-h.keep.Config.Window)) {
			continue
		}
		found, err := h.past().Locate(h.t.Context(), m.time)
		if err != nil || found.Position != m.at {
			h.t.Fatalf("%s ago is at %s, want %s: %v", h.now.Sub(m.time), found, m.at, err)
		}
		h.compare("within the window", m, pipeline.Query{})
	}
}

// TestRetentionKeepsItsPromise lets a site live for two weeks.
func TestRetentionKeepsItsPromise(t *testing.T) {
	cfg := replay.DefaultRetention()
	cfg.Window, cfg.Every, cfg.Events, cfg.Count, cfg.MaxAge = 72*time.Hour, 24*time.Hour, 400, 8, 5*24*time.Hour
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	h := newHouse(t, seed, cfg)
	for hour := range 14 * 24 {
		h.now = time.Date(2026, 1, 1, hour, 0, 0, 0, time.UTC)
		h.travel(5+h.rng.IntN(15), 1)
		if h.rng.IntN(200) == 0 {
			h.newEpoch()
		}
		if h.rng.IntN(10) < 9 { // now and then it is not there
			h.once()
		}
		if hour%97 == 96 {
			h.promised()
		}
	}
	h.once()
	r := h.reach()
	if age := h.now.Sub(r.Oldest.Time); age < cfg.Window || age > cfg.Window+2*cfg.Every {
		t.Errorf("it can be read back for %s, the promise is %s", age, cfg.Window)
	}
	if n := len(r.Snapshots); n > cfg.Count || n < 3 {
		t.Errorf("there are %d snapshots, at most %d are allowed", n, cfg.Count)
	}
	held := uint64(0)
	for _, e := range r.Extent.Epochs {
		held += e.Last + 1 - e.First
	}
	if held > 6*24*20 {
		t.Errorf("%d records are held", held)
	}
	if strings.Contains(h.said.String(), "level=ERROR") {
		t.Errorf("it complains:\n%s", h.said.String())
	}
}

// TestRetentionNeedsAWholeSnapshot spoils and denies snapshots: no history goes.
func TestRetentionNeedsAWholeSnapshot(t *testing.T) {
	cfg := replay.DefaultRetention()
	cfg.Window, cfg.Every = 24*time.Hour, 12*time.Hour
	h := newHouse(t, 7, cfg)
	h.travel(100, 1)
	h.once()
	spoiled := h.reach().Snapshots[0]
	if err := h.past().Snapshots.Put(t.Context(), spoiled, strings.NewReader("spoiled")); err != nil {
		t.Fatal(err)
	}
	h.past().Snapshots = denied{h.past().Snapshots}
	h.now = h.now.Add(48 * time.Hour)
	h.travel(100, 1)
	if err := h.keep.Once(t.Context()); !errors.Is(err, errDenied) || !errors.Is(err, pipeline.ErrDamaged) {
		t.Errorf("look: %v", err)
	}
	r := h.reach()
	if r.Extent.Epochs[0].First != 1 || len(r.Snapshots) != 0 {
		t.Errorf("the history begins at %d, with %d snapshots", r.Extent.Epochs[0].First, len(r.Snapshots))
	}
	h.check("nothing has gone")
}

// TestRetentionSaysWhatIsLost drops history as a full disk does.
func TestRetentionSaysWhatIsLost(t *testing.T) {
	cfg := replay.DefaultRetention()
	cfg.Events = 100
	h := newHouse(t, 8, cfg)
	for range 6 {
		h.travel(100, 1)
		h.now = h.now.Add(time.Hour)
		h.once()
	}
	if strings.Contains(h.said.String(), "does not reach back") {
		t.Fatalf("it complains already:\n%s", h.said.String())
	}
	h.journey.log.past = h.past()
	h.log.Trim("prod", h.last.Seq-150)
	for range 3 {
		h.once()
	}
	if n := strings.Count(h.said.String(), "does not reach back as far as promised"); n != 1 {
		t.Errorf("it is said %d times:\n%s", n, h.said.String())
	}
	h.check("what is left")
}

func TestRetentionLeavesWhatIsKept(t *testing.T) {
	cfg := replay.DefaultRetention()
	cfg.Window, cfg.Every, cfg.MaxAge, cfg.Count = time.Hour, time.Hour, 2*time.Hour, 2
	h := newHouse(t, 9, cfg)
	h.travel(10, 1)
	h.once()
	first := h.reach().Snapshots[0]
	if m, err := h.past().Keep(t.Context(), first.Name); err != nil || !m.Kept || m.Digest != first.Digest {
		t.Fatalf("keep: %+v, %v", m, err)
	}
	for range 10 {
		h.now = h.now.Add(time.Hour)
		h.travel(10, 1)
		h.once()
	}
	list := h.reach().Snapshots
	if len(list) > 4 || list[0].Name != first.Name || !list[0].Kept {
		t.Errorf("left are %v", list)
	}
	h.compare("a snapshot that is kept", moment{at: first.Position, state: h.stateOf(first.Position)}, pipeline.Query{})
}

// TestRetentionThinsOut has far more snapshots made than may be kept: what is left
// stands about evenly, so that no moment is far from one.
func TestRetentionThinsOut(t *testing.T) {
	cfg := replay.DefaultRetention()
	cfg.Every, cfg.Count = time.Second, 8
	for name, window := range map[string]time.Duration{"FromTheBeginning": 1000 * time.Hour, "FromAnAnchor": 60 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			cfg.Window = window
			h := newHouse(t, 10, cfg)
			for range 100 {
				h.now = h.now.Add(time.Hour)
				h.travel(1+h.rng.IntN(20), 1)
				h.once()
			}
			r := h.reach()
			// The first one looked at is the promise's, or the first there ever was.
			first := r.Extent.Epochs[0].First
			if len(r.Snapshots) != cfg.Count || r.Snapshots[len(r.Snapshots)-1].Position != h.last {
				t.Fatalf("left are %d snapshots, the last at %s", len(r.Snapshots), r.Snapshots[len(r.Snapshots)-1].Position)
			}
			even := (h.last.Seq - first) / uint64(cfg.Count)
			for i := range len(r.Snapshots) - 1 {
				if stretch := r.Snapshots[i+1].Position.Seq - r.Snapshots[i].Position.Seq; stretch > 3*even {
					t.Errorf("%d records stand between snapshots %d and %d, %d would be even", stretch, i, i+1, even)
				}
			}
			h.promised()
		})
	}
}

func TestRetentionConfigIsChecked(t *testing.T) {
	if err := replay.DefaultRetention().Validate(); err != nil {
		t.Error(err)
	}
	bad := replay.RetentionConfig{Count: 1}
	err := bad.Validate()
	for _, want := range []string{"history window", "time between snapshots", "events between", "too few"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not name %q", err, want)
		}
	}
}

// roomy tells another room of the current state.
type roomy struct {
	pipeline.Archive
	room *pipeline.Room
}

func (r roomy) Extent(ctx context.Context) (pipeline.Extent, error) {
	x, err := r.Archive.Extent(ctx)
	x.Current = *r.room
	return x, err
}

// TestRetentionWarnsBeforeCurrentIsFull fills the current state and empties it again.
func TestRetentionWarnsBeforeCurrentIsFull(t *testing.T) {
	h := newHouse(t, 11, replay.DefaultRetention())
	h.travel(10, 1)
	room := &pipeline.Room{}
	h.past().Archive = roomy{h.past().Archive, room}
	for _, step := range []struct {
		bytes, limit uint64
		warned, over int // so often until then
		reason       string
	}{
		{1 << 40, 0, 0, 0, "there is no limit"},
		{799, 1000, 0, 0, "there is room"},
		{800, 1000, 1, 0, "the rest is for raising the limit"},
		{1000, 1000, 1, 0, "once is enough"},
		{790, 1000, 1, 0, "it is not said again and again near the line"},
		{820, 1000, 1, 0, "still"},
		{800, 4000, 1, 1, "the limit was raised"},
		{3900, 4000, 2, 1, "and reached again"},
	} {
		*room = pipeline.Room{Bytes: step.bytes, Limit: step.limit}
		h.once()
		warned, over := strings.Count(h.said.String(), "nearly at its size limit"), strings.Count(h.said.String(), "has room again")
		if warned != step.warned || over != step.over {
			t.Errorf("%d of %d (%s): %d warnings, %d times over, want %d, %d:\n%s",
				step.bytes, step.limit, step.reason, warned, over, step.warned, step.over, h.said.String())
		}
	}
	if !strings.Contains(h.said.String(), "level=WARN") || !strings.Contains(h.said.String(), "used_bytes=800 limit_bytes=1000") {
		t.Errorf("said:\n%s", h.said.String())
	}
}

var errDenied = errors.New("denied")

// denied stores nothing.
type denied struct{ pipeline.Snapshots }

func (denied) Put(context.Context, pipeline.Manifest, io.Reader) error {
	return fmt.Errorf("put: %w", errDenied)
}
