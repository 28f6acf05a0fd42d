package replay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
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
	// the latest: going back reads at most so many beyond one.
	Every  time.Duration
	Events uint64
	// Count is how many snapshots are kept of a site at most, MaxAge how old one gets
	// that the promise does not need. Those that are kept by hand do not count.
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
	u.expired = c.expired(r, u.anchor, now)
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
	return now.Sub(before.Created) >= c.Every || since >= c.Events || full
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

// expired picks the snapshots that may go: never the anchor, the newest, or one that
// is kept by hand; those before the anchor by age, and the oldest by number.
func (c RetentionConfig) expired(r Reach, anchor pipeline.Manifest, now time.Time) []pipeline.Manifest {
	var free, expired []pipeline.Manifest
	counted := 0
	for i, m := range r.Snapshots {
		if m.Kept {
			continue
		}
		counted++
		if m.Name != anchor.Name && i < len(r.Snapshots)-1 && anchor.Name != "" {
			free = append(free, m)
		}
	}
	for _, m := range free {
		old := now.Sub(m.Created) > c.MaxAge && m.Position.Compare(anchor.Position) < 0
		if old || counted-len(expired) > c.Count {
			expired = append(expired, m)
		}
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
}

// Run looks after all sites until ctx ends. What fails is said and tried again at the
// next look. One Retention runs per log; several do no harm, but each other's work.
func (r *Retention) Run(ctx context.Context) error {
	defer telemetry.Gauge(telemetry.MetricHistoryReachSeconds, r.samples)()
	for {
		if err := r.Once(ctx); err != nil && ctx.Err() == nil {
			r.Log.ErrorContext(ctx, "cannot look after the history", telemetry.KeyError, err)
		}
		wait := time.NewTimer(r.Config.Look/2 + rand.N(r.Config.Look)) //nolint:gosec // G404: jitter, not a secret
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
	}
	r.reach[site] = reach.Oldest.Time
	if u.broken && !r.broken[site] {
		r.Log.ErrorContext(ctx, "the history does not reach back as far as promised: its size limit, or the disk, has had it drop more. "+
			"Give the log more room or promise less", telemetry.KeySite, site,
			telemetry.KeyOldest, reach.Oldest.Time, telemetry.KeyDuration, r.Config.Window)
	}
	r.broken[site] = u.broken
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
