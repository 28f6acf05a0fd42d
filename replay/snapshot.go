package replay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"time"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// Snapshot freezes the present state in the log's store and reads the file back
// before it says that there is one. A snapshot of the same position is returned as
// it is. Changes meanwhile do no harm: it is the state at one position. It holds the
// compressed file in memory, and eighty bytes or so per object.
func (p *Past) Snapshot(ctx context.Context) (pipeline.Manifest, error) {
	m, err := p.snapshot(ctx, p.History.Current(ctx, pipeline.Query{}), nil)
	if err != nil {
		return m, fmt.Errorf("make a snapshot of site %q: %w", p.Site, err)
	}
	return m, nil
}

// SnapshotAt is Snapshot for the state at a position of the past.
func (p *Past) SnapshotAt(ctx context.Context, at pipeline.Moment) (pipeline.Manifest, error) {
	m, err := p.snapshot(ctx, p.State(ctx, at.Position, pipeline.Query{}), &at)
	if err != nil {
		return m, fmt.Errorf("make a snapshot of site %q as of %s: %w", p.Site, at, err)
	}
	return m, nil
}

func (p *Past) snapshot(ctx context.Context, state iter.Seq2[pipeline.Record, error], at *pipeline.Moment) (pipeline.Manifest, error) {
	file, last, m, err := p.freeze(ctx, state, at)
	if err != nil {
		return m, err
	}
	if stale := len(last) != m.Records; stale {
		if file, m, err = p.rewrite(ctx, file, last, m); err != nil {
			return m, err
		}
	}
	if existing, err := p.Find(ctx, m.Name); err == nil && existing.Digest == m.Digest {
		return existing, nil
	}
	if err := p.Snapshots.Put(ctx, m, bytes.NewReader(file)); err != nil {
		return m, err
	}
	return p.Verify(ctx, m.Name)
}

// freeze writes a state into a file, and says what the last position of each Ref in
// it is: what changed while it was read stands there more than once.
func (p *Past) freeze(ctx context.Context, state iter.Seq2[pipeline.Record, error], at *pipeline.Moment) ([]byte, map[pipeline.Ref]pipeline.Position, pipeline.Manifest, error) {
	var file bytes.Buffer
	var m pipeline.Manifest
	last := map[pipeline.Ref]pipeline.Position{}
	out, err := pipeline.NewSnapshotWriter(&file, p.Site)
	if err != nil {
		return nil, nil, m, err
	}
	var end pipeline.Moment
	for rec, readErr := range state {
		switch {
		case errors.Is(readErr, pipeline.ErrForeign): // it stands in the place of what was there
			delete(last, rec.Ref)
		case readErr != nil:
			err = errors.Join(err, readErr)
		default:
			err = errors.Join(err, out.Add(rec))
			last[rec.Ref] = rec.Position
		}
		if rec.Position.Compare(end.Position) > 0 {
			end = pipeline.Moment{Position: rec.Position, Time: rec.Stored}
		}
		if err != nil {
			break
		}
	}
	if at != nil {
		end = *at
	}
	switch {
	case err != nil:
	case end.Position.IsZero():
		err = errors.New("there is nothing yet")
	case at == nil:
		end, err = p.moment(ctx, end)
	}
	m, closeErr := out.Close(end, p.now())
	return file.Bytes(), last, m, errors.Join(err, closeErr)
}

// moment corrects the time of a position: only the history itself says when the log
// took a record.
func (p *Past) moment(ctx context.Context, m pipeline.Moment) (pipeline.Moment, error) {
	before := m.Position
	before.Seq--
	for rec, err := range p.Archive.Between(ctx, before, m.Position, pipeline.Range{HeadersOnly: true}) {
		switch {
		case errors.Is(err, pipeline.ErrGap): // retention is that near; the time is about right
		case err != nil && !errors.Is(err, pipeline.ErrForeign):
			return m, err
		default:
			m.Time = rec.Stored
		}
	}
	return m, nil
}

// rewrite leaves out what is not the last of its Ref.
func (p *Past) rewrite(ctx context.Context, from []byte, last map[pipeline.Ref]pipeline.Position, m pipeline.Manifest) ([]byte, pipeline.Manifest, error) {
	var file bytes.Buffer
	out, err := pipeline.NewSnapshotWriter(&file, p.Site)
	if err != nil {
		return nil, m, err
	}
	_, err = scanSnapshot(ctx, p.Site, bytes.NewReader(from), func(rec pipeline.Record) error {
		if last[rec.Ref] != rec.Position {
			return nil
		}
		return out.Add(rec)
	})
	m, closeErr := out.Close(m.Moment, m.Created)
	return file.Bytes(), m, errors.Join(err, closeErr)
}

func (p *Past) now() time.Time {
	if p.Now != nil {
		return p.Now()
	}
	return time.Now()
}

// Find returns the snapshot of a name, or ErrNoSnapshot.
func (p *Past) Find(ctx context.Context, name string) (pipeline.Manifest, error) {
	list, err := p.Snapshots.List(ctx)
	if err != nil {
		return pipeline.Manifest{}, err
	}
	i := slices.IndexFunc(list, func(m pipeline.Manifest) bool { return m.Name == name })
	if i < 0 {
		return pipeline.Manifest{}, fmt.Errorf("snapshot %q of site %q: %w", name, p.Site, pipeline.ErrNoSnapshot)
	}
	return list[i], nil
}

// Verify reads a snapshot whole and compares it with its manifest. One that is not
// what was written is ErrDamaged.
func (p *Past) Verify(ctx context.Context, name string) (pipeline.Manifest, error) {
	said, err := p.Find(ctx, name)
	if err != nil {
		return said, err
	}
	found, err := p.readSnapshot(ctx, name, func(pipeline.Record) error { return nil })
	if err == nil && (found.Digest != said.Digest || found.Position != said.Position) {
		err = fmt.Errorf("%w: it is not the one that its manifest describes", pipeline.ErrDamaged)
	}
	if err != nil {
		return said, fmt.Errorf("verify snapshot %q of site %q: %w", name, p.Site, err)
	}
	return said, nil
}

// Keep has a snapshot stay until it is deleted by hand: no retention takes it.
func (p *Past) Keep(ctx context.Context, name string) (_ pipeline.Manifest, err error) {
	m, err := p.Find(ctx, name)
	if err != nil || m.Kept {
		return m, err
	}
	file, err := p.Snapshots.Open(ctx, name)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	m.Kept = true
	if err := p.Snapshots.Put(ctx, m, file); err != nil {
		return m, err
	}
	return p.Verify(ctx, name)
}

// Export writes the file of a snapshot to w, and checks on the way that it is
// what was written. After an error what w has is of no use.
func (p *Past) Export(ctx context.Context, name string, w io.Writer) (_ pipeline.Manifest, err error) {
	file, err := p.Snapshots.Open(ctx, name)
	if err != nil {
		return pipeline.Manifest{}, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	m, err := scanSnapshot(ctx, p.Site, io.TeeReader(file, w), func(pipeline.Record) error { return nil })
	if err != nil {
		return m, fmt.Errorf("export snapshot %q of site %q: %w", name, p.Site, err)
	}
	return m, nil
}

// Import stores a file that Export wrote, of a source that may be long gone: its
// state can be read at once. A damaged file, or one of another site, is stored
// nowhere. It is kept until it is deleted by hand. file is read twice.
func (p *Past) Import(ctx context.Context, file io.ReadSeeker) (pipeline.Manifest, error) {
	m, err := scanSnapshot(ctx, p.Site, file, func(pipeline.Record) error { return nil })
	if err == nil {
		_, err = file.Seek(0, io.SeekStart)
	}
	if err == nil {
		m.Kept = true // nothing could make it again
		err = p.Snapshots.Put(ctx, m, file)
	}
	if err == nil {
		m, err = p.Verify(ctx, m.Name)
	}
	if err != nil {
		return m, fmt.Errorf("import a snapshot of site %q: %w", p.Site, err)
	}
	return m, nil
}
