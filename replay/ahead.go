package replay

import (
	"context"
	"iter"

	"golang.org/x/sync/semaphore"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

const (
	// aheadBytes and aheadRecords bound what is read of a snapshot before it is wanted.
	aheadBytes   = 64 << 20
	aheadRecords = 32 << 10
	// aheadEach is about what a record takes beside its body.
	aheadEach = 512
)

// reading is a snapshot that is read while something else is done.
type reading struct {
	records chan pipeline.Record
	room    *semaphore.Weighted
	// err is why reading ended early; it is set before records is closed.
	err error
}

// ahead begins to read what a query wants of a snapshot; of the zero manifest that is nothing. stop
// ends reading and waits for that.
func (p *Past) ahead(ctx context.Context, m pipeline.Manifest, q pipeline.Query) (r *reading, stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	r = &reading{records: make(chan pipeline.Record, min(max(0, m.Records), aheadRecords)), room: semaphore.NewWeighted(aheadBytes)}
	go func() {
		defer close(r.records)
		if m.Name == "" {
			return
		}
		r.err = p.read(ctx, m.Name, func(rec pipeline.Record) error {
			if !matches(q, rec) {
				return nil
			}
			if q.HeadersOnly {
				rec.Body = nil
			}
			if err := r.room.Acquire(ctx, weight(rec)); err != nil {
				return err
			}
			select {
			case r.records <- rec:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	return r, func() {
		cancel()
		for range r.records { // it is closed when reading has ended
			continue
		}
	}
}

// all yields the records, in their order. After the last one err says whether they are all.
func (r *reading) all() iter.Seq[pipeline.Record] {
	return func(yield func(pipeline.Record) bool) {
		for rec := range r.records {
			r.room.Release(weight(rec))
			if !yield(rec) {
				return
			}
		}
	}
}

func weight(r pipeline.Record) int64 { return int64(min(aheadBytes, len(r.Body)+aheadEach)) }
