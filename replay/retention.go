package replay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/telemetry"
)

// RetentionConfig says how far back a site can be read, and at what cost.
type RetentionConfig struct {
	// Window is the promise: every moment up to so long ago can be read.
	Window time.Duration
	// Every is how often a snapshot is made at least, Events after how many records at
	// the latest: going back reads at most so many beyond one. It is made after fewer, but 10,000 at
	// least, if the one before holds fewer.
	Every  time.Duration
	Events uint64
	// Count is how many snapshots are kept of a site at most, MaxAge how old one gets
	// that the promise does not need. Those that are kept by hand do not count. What is too many
	// goes where they stand closest.
	Count  int
	MaxAge time.Duration
	// Look is how often all this is looked at.
	Look time.Duration
}

// DefaultRetention promises a week.
func DefaultRetention() RetentionConfig {
	return RetentionConfig{
		Window: 7 * 24 * time.Hour, Every: 24 * time.Hour, Events: 50_000,
		Count: 60, MaxAge: 30 * 24 * time.Hour, Look: time.Minute,
	}
}

// Validate names everything that is wrong.
func (c RetentionConfig) Validate() error {
	var errs []error
	for _, d := range []struct {
		name  string
		value time.Duration
	}{
		{"history window", c.Window},
		{"time between snapshots", c.Every},
		{"age limit of snapshots", c.MaxAge},
		{"time between looks", c.Look},
	} {
		if d.value < time.Second {
			errs = append(errs, fmt.Errorf("%s is %s: give at least a second", d.name, d.value))
		}
	}
	if c.Events < 1 {
		errs = append(errs, errors.New("events between snapshots must be positive"))
	}
	if c.Count < 2 {
		errs = append(errs, fmt.Errorf("%d snapshots are too few: two are needed to let go of history", c.Count))
	}
	return errors.Join(errs...)
}

// upkeep is what is to be done for one site.
type upkeep struct {
	// snapshot is set if one is due.
	snapshot bool
	// anchor is the snapshot from which every promised moment can be read; what is
	// before it may go. Without one nothing may.
	anchor pipeline.Manifest
	// expired are snapshots that nothing needs.
	expired []pipeline.Manifest
	// broken is set if the promise cannot be kept: more has gone than should have.
	broken bool
}

// plan decides what is to be done, from what can be read.
func (c RetentionConfig) plan(r Reach, now time.Time) upkeep {
	var u upkeep
	u.snapshot = c.due(r, now)
	promised := now.Add(-c.Window)
	for _, m := range r.Snapshots {
		if !m.Time.After(promised) && r.Extent.Holds(m.Position, r.Newest.Position) {
			u.anchor = m
		}
	}
	u.broken = r.Oldest.Time.After(promised) && !r.Extent.Holds(pipeline.Position{}, r.Newest.Position)
	u.expired = c.expired(r, u, now)
	return u
}

// due reports whether a snapshot is to be made: after a time, after so many records,
// or when the history is about to lose its beginning and would have none to go on from.
func (c RetentionConfig) due(r Reach, now time.Time) bool {
	last := slices.IndexFunc(r.Snapshots, func(m pipeline.Manifest) bool { return m.Position.Compare(r.Newest.Position) >= 0 })
	if last >= 0 || r.Newest.Position.Seq == 0 {
		return false // nothing has happened since
	}
	if len(r.Snapshots) == 0 {
		return true
	}
	before := r.Snapshots[len(r.Snapshots)-1]
	newest := r.Extent.Epochs[len(r.Extent.Epochs)-1]
	since := records(r.Extent, before.Position)
	full := newest.Limit > 0 && newest.Bytes > newest.Limit/4*3 && since > (newest.Last-newest.First)/2
	return now.Sub(before.Created) >= c.Every || since >= c.stretch(before) || full
}

// leastStretch is how many records are too few for another snapshot.
const leastStretch = 10_000

// stretch is how many records after a snapshot the next is due: as many as it holds itself,
// in a site that is not too large for that. Then going back reads at most about twice what
// there was, and making snapshots costs the same per event, however many objects there are.
func (c RetentionConfig) stretch(before pipeline.Manifest) uint64 {
	return min(c.Events, max(leastStretch, uint64(max(0, before.Records))))
}

// records counts those after a position.
func records(x pipeline.Extent, after pipeline.Position) uint64 {
	var n uint64
	for _, e := range x.Epochs {
		switch {
		case e.Epoch == after.Epoch && e.Last > after.Seq:
			n += e.Last - after.Seq
		case e.Epoch > after.Epoch:
			n += e.Last + 1 - min(e.First, e.Last+1)
		}
	}
	return n
}

// expired picks the snapshots that may go: never the newest, one that is kept by hand, or the
// one that the promise needs. Those before that go by age, then by number; of those after
// it, where they stand closest, so that no stretch between two gets long.
func (c RetentionConfig) expired(r Reach, u upkeep, now time.Time) []pipeline.Manifest {
	if len(r.Snapshots) == 0 {
		return nil
	}
	anchor, left, needed := u.anchor, slices.Clone(r.Snapshots), u.anchor.Name
	if needed == "" {
		needed = left[0].Name // the first to go on from, should the size limit take the beginning
	}
	free := func(i int) bool { return !left[i].Kept && i < len(left)-1 && left[i].Name != needed }
	before := func(m pipeline.Manifest) bool { return m.Position.Compare(anchor.Position) < 0 }
	var expired []pipeline.Manifest
	drop := func(i int) {
		expired = append(expired, left[i])
		left = slices.Delete(left, i, i+1)
	}
	for i := range slices.Backward(left) {
		if free(i) && before(left[i]) && now.Sub(left[i].Created) > c.MaxAge {
			drop(i)
		}
	}
	counted := 0
	if u.snapshot {
		counted++ // the one that is about to be made
	}
	for _, m := range left {
		if !m.Kept {
			counted++
		}
	}
	for ; counted > c.Count; counted-- {
		spare, shortest := -1, uint64(math.MaxUint64)
		for i := range left {
			if !free(i) {
				continue
			}
			if before(left[i]) {
				spare = i
				break
			}
			if stretch := records(r.Extent, left[i-1].Position) - records(r.Extent, left[i+1].Position); stretch < shortest {
				spare, shortest = i, stretch
			}
		}
		if spare < 0 {
			break
		}
		drop(spare)
	}
	return expired
}

// Retention makes the snapshots of all sites of a log, lets old ones go, and lets go
// of history that no promised moment needs any more: only after a snapshot that
// every promised moment can be read from was read back whole.
type Retention struct {
	// Config may not change while it runs.
	Config RetentionConfig
	// Sites lists the sites that have a history.
	Sites func(context.Context) ([]string, error)
	// Past opens a site's past.
	Past func(site string) *Past
	Log  *slog.Logger
	// Now tells the time; nil is time.Now.
	Now func() time.Time

	mu sync.Mutex
	// reach is the oldest moment of each site, as it was last seen.
	reach map[string]time.Time
	// trimmed is the anchor before which a site was trimmed last.
	trimmed map[string]string
	broken  map[string]bool
	// share is the used part of the limit of each site's current state, crowded whether that was said.
	share   map[string]float64
	crowded map[string]bool
}

// The parts of its limit at which the current state of a site is said to be nearly full, and no longer.
const (
	nearlyFull = 0.8
	roomAgain  = 0.75
)

// Run looks after all sites until ctx ends. What fails is said and tried again at the
// next look. One Retention runs per log; several do no harm, but each other's work.
func (r *Retention) Run(ctx context.Context) error {
	defer telemetry.Gauge(telemetry.MetricHistoryReachSeconds, r.samples)()
	defer telemetry.Gauge(telemetry.MetricCurrentFullRatio, r.shares)()
	for {
		if err := r.Once(ctx); err != nil && ctx.Err() == nil {
			r.Log.ErrorContext(ctx, "cannot look after the history", telemetry.KeyError, err)
		}
		wait := time.NewTimer(pipeline.Jittered(r.Config.Look))
		select {
		case <-ctx.Done():
			wait.Stop()
			return ctx.Err()
		case <-wait.C:
		}
	}
}

// Once looks after all sites once. It may be repeated.
func (r *Retention) Once(ctx context.Context) error {
	sites, err := r.Sites(ctx)
	if err != nil {
		return fmt.Errorf("list the sites of the log: %w", err)
	}
	var errs []error
	for _, site := range sites {
		if err := r.tend(ctx, site); err != nil {
			errs = append(errs, fmt.Errorf("site %q: %w", site, err))
		}
	}
	return errors.Join(errs...)
}

// tend does for one site what is to be done.
func (r *Retention) tend(ctx context.Context, site string) error {
	past := r.Past(site)
	reach, err := past.Reach(ctx)
	if errors.Is(err, pipeline.ErrNoHistory) {
		return nil // not yet
	}
	if err != nil || len(reach.Extent.Epochs) == 0 {
		return err
	}
	now := time.Now()
	if r.Now != nil {
		now = r.Now()
	}
	u := r.Config.plan(reach, now)
	r.note(ctx, site, reach, u)
	var errs []error
	if u.snapshot {
		m, err := past.Snapshot(ctx)
		errs = append(errs, err)
		if err == nil {
			r.Log.InfoContext(ctx, "made a snapshot", telemetry.KeySite, site, telemetry.KeyName, m.Name, telemetry.KeyCount, m.Records)
		}
	}
	errs = append(errs, r.trim(ctx, past, u.anchor))
	for _, m := range u.expired {
		err := past.Snapshots.Delete(ctx, m.Name)
		errs = append(errs, err)
		if err == nil {
			r.Log.InfoContext(ctx, "let go of a snapshot", telemetry.KeySite, site, telemetry.KeyName, m.Name)
		}
	}
	return errors.Join(errs...)
}

// note keeps what is said of a site, and says loudly what breaks the promise.
func (r *Retention) note(ctx context.Context, site string, reach Reach, u upkeep) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.reach == nil {
		r.reach, r.trimmed, r.broken = map[string]time.Time{}, map[string]string{}, map[string]bool{}
		r.share, r.crowded = map[string]float64{}, map[string]bool{}
	}
	r.reach[site] = reach.Oldest.Time
	if u.broken && !r.broken[site] {
		r.Log.ErrorContext(ctx, "the history does not reach back as far as promised: its size limit, or the disk, has had it drop more. "+
			"Give the log more room or promise less", telemetry.KeySite, site,
			telemetry.KeyOldest, reach.Oldest.Time, telemetry.KeyDuration, r.Config.Window)
	}
	r.broken[site] = u.broken
	current := reach.Extent.Current
	r.share[site] = current.Share()
	switch {
	case current.Share() >= nearlyFull && !r.crowded[site]:
		r.crowded[site] = true
		r.Log.WarnContext(ctx, "the current state of a site is nearly at its size limit, where it takes up nothing more: raise --current-max-bytes of its collector",
			telemetry.KeySite, site, telemetry.KeyUsedBytes, current.Bytes, telemetry.KeyLimitBytes, current.Limit)
	case current.Share() < roomAgain && r.crowded[site]:
		r.crowded[site] = false
		r.Log.InfoContext(ctx, "the current state of a site has room again",
			telemetry.KeySite, site, telemetry.KeyUsedBytes, current.Bytes, telemetry.KeyLimitBytes, current.Limit)
	}
}

// trim lets go of what is before the anchor, once it is known to be whole.
func (r *Retention) trim(ctx context.Context, past *Past, anchor pipeline.Manifest) error {
	r.mu.Lock()
	done := anchor.Name == "" || r.trimmed[past.Site] == anchor.Name
	r.mu.Unlock()
	if done {
		return nil
	}
	if _, err := past.Verify(ctx, anchor.Name); err != nil {
		if errors.Is(err, pipeline.ErrDamaged) {
			// It must not be relied on; an older one or the next is the anchor then.
			err = errors.Join(err, past.Snapshots.Delete(ctx, anchor.Name))
		}
		return err
	}
	before := anchor.Position
	before.Seq++
	if err := past.Archive.Trim(ctx, before); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.trimmed[past.Site] = anchor.Name
	return nil
}

// Oldest is the first of the moments of which each can be read, as of the last look at
// the site; zero before.
func (r *Retention) Oldest(site string) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.reach[site]
}

// samples tells how far back each site can be read.
func (r *Retention) samples() []telemetry.Sample {
	r.mu.Lock()
	defer r.mu.Unlock()
	var samples []telemetry.Sample
	for site, oldest := range r.reach {
		if !oldest.IsZero() {
			samples = append(samples, telemetry.Sample{Value: time.Since(oldest).Seconds(), Attrs: []telemetry.Attr{telemetry.String(telemetry.KeySite, site)}})
		}
	}
	return samples
}

// shares tells how full the current state of each site is.
func (r *Retention) shares() []telemetry.Sample {
	r.mu.Lock()
	defer r.mu.Unlock()
	var samples []telemetry.Sample
	for site, share := range r.share {
		samples = append(samples, telemetry.Sample{Value: share, Attrs: []telemetry.Attr{telemetry.String(telemetry.KeySite, site)}})
	}
	return samples
}
