package replay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"time"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// Past reads one site as it was at any moment that the log still reaches, and makes
// the snapshots that keep that cheap and possible. All methods are safe for
// concurrent use.
type Past struct {
	Site      string
	History   pipeline.History
	Archive   pipeline.Archive
	Snapshots pipeline.Snapshots
	// Now tells the time; nil is time.Now.
	Now func() time.Time
}

// Reach is what can be read of a site.
type Reach struct {
	// Oldest is the first moment of those, up to Newest, of which each can be read.
	// Before it only the positions of snapshots can.
	Oldest, Newest pipeline.Moment
	// Snapshots are all there are, by position.
	Snapshots []pipeline.Manifest
	// Extent is what is left of the history; it is empty if there is none.
	Extent pipeline.Extent
}

// Reach says what can be read. A site of which there is nothing is ErrNoHistory.
func (p *Past) Reach(ctx context.Context) (Reach, error) {
	var r Reach
	var err error
	if r.Snapshots, err = p.Snapshots.List(ctx); err != nil {
		return r, err
	}
	if r.Extent, err = p.Archive.Extent(ctx); err != nil && !errors.Is(err, pipeline.ErrNoHistory) {
		return r, err
	}
	if len(r.Extent.Epochs) == 0 {
		if len(r.Snapshots) == 0 {
			return r, fmt.Errorf("read the past of site %q: %w", p.Site, pipeline.ErrNoHistory)
		}
		last := r.Snapshots[len(r.Snapshots)-1].Moment
		r.Oldest, r.Newest = last, last
		return r, nil
	}
	r.Newest = endOf(r.Extent)
	r.Oldest = r.oldest()
	return r, nil
}

// endOf is the moment of the last record there is.
func endOf(x pipeline.Extent) pipeline.Moment {
	end := pipeline.Moment{Position: x.Last()}
	for _, e := range slices.Backward(x.Epochs) {
		if !e.LastTime.IsZero() {
			end.Time = e.LastTime
			break
		}
	}
	return end
}

// oldest finds the oldest base from which the history goes on without a hole. The
// present can always be read.
func (r Reach) oldest() pipeline.Moment {
	first := r.Extent.Epochs[0]
	if r.Extent.Holds(pipeline.Position{}, r.Newest.Position) {
		return pipeline.Moment{Position: pipeline.Position{Epoch: first.Epoch, Seq: first.First}, Time: first.FirstTime}
	}
	for _, m := range r.Snapshots {
		if r.Extent.Holds(m.Position, r.Newest.Position) {
			return m.Moment
		}
	}
	return r.Newest
}

// base is a state from which the history leads to a position without a hole: the
// newest snapshot there is, or the zero manifest for the beginning of the site.
func (r Reach) base(at pipeline.Position) (pipeline.Manifest, error) {
	for _, m := range slices.Backward(r.Snapshots) {
		if m.Position.Compare(at) <= 0 && r.Extent.Holds(m.Position, at) {
			return m, nil
		}
	}
	switch {
	case r.Extent.Holds(pipeline.Position{}, at):
		return pipeline.Manifest{}, nil
	case at.Compare(r.Oldest.Position) < 0:
		return pipeline.Manifest{}, &pipeline.TooOldError{Oldest: r.Oldest}
	}
	return pipeline.Manifest{}, pipeline.ErrGap
}

// Locate resolves a time to the last record that was stored by then. Do it once and
// keep the position: the log's clock may have been set back. A time before the oldest
// moment that can be read is a *pipeline.TooOldError; one after the newest is that.
func (p *Past) Locate(ctx context.Context, t time.Time) (pipeline.Moment, error) {
	r, err := p.Reach(ctx)
	if err != nil {
		return pipeline.Moment{}, err
	}
	m := r.Newest
	if len(r.Extent.Epochs) == 0 {
		if t.Before(m.Time) {
			err = &pipeline.TooOldError{Oldest: m}
		}
	} else if m, err = p.Archive.Locate(ctx, t); err == nil && r.precedes(m, t) {
		err = &pipeline.TooOldError{Oldest: r.Oldest}
	}
	if err != nil {
		return pipeline.Moment{}, fmt.Errorf("find %s in the history of site %q: %w", t.UTC().Format(time.RFC3339), p.Site, err)
	}
	return m, nil
}

// precedes reports whether what was found for a time is before the oldest moment.
// Where the history begins right after it, all times before are found there.
func (r Reach) precedes(m pipeline.Moment, t time.Time) bool {
	c := m.Position.Compare(r.Oldest.Position)
	return c < 0 || c == 0 && t.Before(r.Oldest.Time)
}

// State yields the last record of every Ref as of a position, as History.Current does
// for the present: in the order of their positions, each Ref once, tombstones and
// releases included. A position before the oldest that can be read is a
// *pipeline.TooOldError, another that cannot is ErrGap. It holds in memory what
// changed since the last snapshot before the position, and up to 64 MiB of that snapshot.
func (p *Past) State(ctx context.Context, at pipeline.Position, q pipeline.Query) iter.Seq2[pipeline.Record, error] {
	return func(yield func(pipeline.Record, error) bool) {
		if err := p.state(ctx, at, q, yield); err != nil && !errors.Is(err, errStopped) {
			yield(pipeline.Record{}, fmt.Errorf("read site %q as of %s: %w", p.Site, at, err))
		}
	}
}

// errStopped ends a reading of which no more is wanted.
var errStopped = errors.New("stopped")

func (p *Past) state(ctx context.Context, at pipeline.Position, q pipeline.Query, yield func(pipeline.Record, error) bool) error {
	r, err := p.Reach(ctx)
	if err != nil {
		return err
	}
	base, err := r.base(at)
	if err != nil {
		return err
	}
	before, stop := p.ahead(ctx, base, q)
	defer stop()
	since, err := p.fold(ctx, base.Position, at, rangeOf(p.Site, q))
	if err != nil {
		return err
	}
	for rec := range before.all() {
		if _, changed := since.last[rec.Ref]; !changed && !yield(rec, nil) {
			return errStopped
		}
	}
	if before.err != nil {
		return before.err
	}
	for _, f := range since.records {
		if !yield(f.record, f.foreign) {
			return errStopped
		}
	}
	return nil
}

func rangeOf(site string, q pipeline.Query) pipeline.Range {
	r := pipeline.Range{Kind: q.Kind, Newest: true, HeadersOnly: q.HeadersOnly}
	if q.Heartbeat {
		r.Ref = &pipeline.Ref{Site: site}
	}
	return r
}

func matches(q pipeline.Query, r pipeline.Record) bool {
	switch {
	case q.Heartbeat:
		return r.Op == pipeline.OpHeartbeat
	case q.Kind != nil:
		return r.Op != pipeline.OpHeartbeat && r.Ref.GroupResource() == *q.Kind
	}
	return true
}

// folded is the newest of every Ref in a part of the history, by position.
type folded struct {
	records []found
	last    map[pipeline.Ref]struct{}
}

// found is a record, or what stands in its place and is not one of ours.
type found struct {
	record  pipeline.Record
	foreign error
}

func (p *Past) fold(ctx context.Context, after, through pipeline.Position, q pipeline.Range) (folded, error) {
	f := folded{last: map[pipeline.Ref]struct{}{}}
	if through.Compare(after) <= 0 {
		return f, nil
	}
	for rec, err := range p.Archive.Between(ctx, after, through, q) {
		if err != nil && !errors.Is(err, pipeline.ErrForeign) {
			return f, err
		}
		f.records = append(f.records, found{rec, err})
		if rec.Ref != (pipeline.Ref{}) {
			f.last[rec.Ref] = struct{}{}
		}
	}
	return f, nil
}

// read calls f with every record of a snapshot. A damaged one is an error at the end
// at the latest.
func (p *Past) read(ctx context.Context, name string, f func(pipeline.Record) error) error {
	_, err := p.readSnapshot(ctx, name, f)
	return err
}

func (p *Past) readSnapshot(ctx context.Context, name string, f func(pipeline.Record) error) (_ pipeline.Manifest, err error) {
	file, err := p.Snapshots.Open(ctx, name)
	if err != nil {
		return pipeline.Manifest{}, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	return scanSnapshot(ctx, p.Site, file, f)
}

// scanSnapshot reads a whole file, which must be of the site, and returns what it found.
func scanSnapshot(ctx context.Context, site string, file io.Reader, f func(pipeline.Record) error) (pipeline.Manifest, error) {
	in, err := pipeline.ReadSnapshot(file)
	if err != nil {
		return pipeline.Manifest{}, err
	}
	defer in.Close()
	if in.Site() != site {
		return pipeline.Manifest{}, fmt.Errorf("the snapshot is of site %q, not of %q", in.Site(), site)
	}
	for {
		if err := ctx.Err(); err != nil {
			return pipeline.Manifest{}, err
		}
		rec, err := in.Next()
		if errors.Is(err, io.EOF) {
			return in.Manifest(), nil
		}
		if err == nil {
			err = f(rec)
		}
		if err != nil {
			return pipeline.Manifest{}, err
		}
	}
}
