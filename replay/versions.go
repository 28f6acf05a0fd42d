package replay

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// Versions yields every record there is of one object, the oldest first. Where the
// history no longer begins at its beginning, the first one is what the oldest snapshot
// that it goes on from holds, and is stored when it was observed.
func (p *Past) Versions(ctx context.Context, ref pipeline.Ref) iter.Seq2[pipeline.Record, error] {
	return func(yield func(pipeline.Record, error) bool) {
		if err := p.versions(ctx, ref, yield); err != nil && !errors.Is(err, errStopped) {
			yield(pipeline.Record{}, fmt.Errorf("read the history of %s: %w", ref, err))
		}
	}
}

func (p *Past) versions(ctx context.Context, ref pipeline.Ref, yield func(pipeline.Record, error) bool) error {
	r, err := p.Reach(ctx)
	if err != nil {
		return err
	}
	base, err := r.root()
	if err != nil {
		return err
	}
	if base.Name != "" {
		err = p.read(ctx, base.Name, func(rec pipeline.Record) error {
			if rec.Ref == ref && !yield(rec, nil) {
				return errStopped
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if r.Newest.Position.Compare(base.Position) <= 0 {
		return nil
	}
	for rec, err := range p.Archive.Between(ctx, base.Position, r.Newest.Position, pipeline.Range{Ref: &ref}) {
		switch {
		case err != nil && !errors.Is(err, pipeline.ErrForeign):
			return err
		case !yield(rec, err):
			return errStopped
		}
	}
	return nil
}

// root is the oldest state from which the history leads to the present, or the zero
// manifest for the beginning of the site.
func (r Reach) root() (pipeline.Manifest, error) {
	if len(r.Extent.Epochs) > 0 && r.Extent.Holds(pipeline.Position{}, r.Newest.Position) {
		return pipeline.Manifest{}, nil
	}
	for _, m := range r.Snapshots {
		if r.Extent.Holds(m.Position, r.Newest.Position) {
			return m, nil
		}
	}
	return pipeline.Manifest{}, &pipeline.TooOldError{Oldest: r.Oldest}
}

// Difference is one object that is not the same at two positions.
type Difference struct {
	Ref pipeline.Ref
	// Before and After are the object's last records at the two; nil where it did not
	// exist. One that was let go of (pipeline.OpRelease) does not exist either.
	Before, After *pipeline.Record
}

// Differences yields the objects that differ between two positions, by where they
// stand at the second, then those that are only at the first. It holds in memory what
// changed between the two.
func (p *Past) Differences(ctx context.Context, from, to pipeline.Position) iter.Seq2[Difference, error] {
	return func(yield func(Difference, error) bool) {
		if err := p.differences(ctx, from, to, yield); err != nil && !errors.Is(err, errStopped) {
			yield(Difference{}, fmt.Errorf("compare site %q as of %s and %s: %w", p.Site, from, to, err))
		}
	}
}

func (p *Past) differences(ctx context.Context, from, to pipeline.Position, yield func(Difference, error) bool) error {
	// Of the earlier state, only what stands at another position later is of interest.
	positions := map[pipeline.Ref]pipeline.Position{}
	for rec, err := range p.State(ctx, to, pipeline.Query{HeadersOnly: true}) {
		if err != nil && !errors.Is(err, pipeline.ErrForeign) {
			return err
		}
		positions[rec.Ref] = rec.Position
	}
	before := map[pipeline.Ref]*pipeline.Record{}
	var order []pipeline.Ref
	for rec, err := range p.State(ctx, from, pipeline.Query{}) {
		switch {
		case errors.Is(err, pipeline.ErrForeign):
		case err != nil:
			return err
		case positions[rec.Ref] == rec.Position:
			delete(positions, rec.Ref) // the same record: nothing has happened
		case rec.Op == pipeline.OpPut:
			before[rec.Ref] = &rec
			order = append(order, rec.Ref)
		}
	}
	for rec, err := range p.State(ctx, to, pipeline.Query{}) {
		switch {
		case errors.Is(err, pipeline.ErrForeign):
			continue
		case err != nil:
			return err
		}
		if _, changed := positions[rec.Ref]; !changed || rec.Op != pipeline.OpPut {
			continue
		}
		d := Difference{Ref: rec.Ref, Before: before[rec.Ref], After: &rec}
		delete(before, rec.Ref)
		if (d.Before == nil || d.Before.Digest != rec.Digest) && !yield(d, nil) {
			return errStopped
		}
	}
	for _, ref := range order {
		if rec := before[ref]; rec != nil && !yield(Difference{Ref: ref, Before: rec}, nil) {
			return errStopped
		}
	}
	return nil
}
