package natslog

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// Archive looks back into a site's history; see pipeline.Archive. It is safe for
// concurrent use.
type Archive struct {
	conn *Conn
	site site
}

var _ pipeline.Archive = (*Archive)(nil)

// Archive looks back into the history of a site, whether it exists yet or not.
func (c *Conn) Archive(siteName string) *Archive {
	return &Archive{conn: c, site: siteOf(siteName)}
}

// Extent implements pipeline.Archive.
func (a *Archive) Extent(ctx context.Context) (pipeline.Extent, error) {
	st, err := a.state(ctx)
	if err != nil {
		return pipeline.Extent{}, fmt.Errorf("look back at site %q: %w", a.site.name, err)
	}
	return st.extent(), nil
}

func (a *Archive) state(ctx context.Context) (siteState, error) {
	st, err := a.conn.admin.state(ctx, a.site)
	if err == nil && len(st.Histories) == 0 {
		err = pipeline.ErrNoHistory
	}
	return st, err
}

func (s siteState) extent() pipeline.Extent {
	x := pipeline.Extent{Current: pipeline.Room{Bytes: s.CurrentBytes, Limit: s.CurrentLimit}}
	for _, h := range s.Histories {
		e := pipeline.EpochExtent{Epoch: h.Epoch, After: h.After, First: h.Last + 1, Last: h.Last, Bytes: h.Bytes, Limit: h.Limit}
		if h.Messages > 0 {
			e.First, e.FirstTime, e.LastTime = h.First, h.FirstTime, h.LastTime
		}
		x.Epochs = append(x.Epochs, e)
	}
	return x
}

// Locate implements pipeline.Archive.
func (a *Archive) Locate(ctx context.Context, t time.Time) (pipeline.Moment, error) {
	m, err := a.locate(ctx, t)
	if err != nil {
		return m, fmt.Errorf("find %s in the history of site %q: %w", t.UTC().Format(time.RFC3339Nano), a.site.name, err)
	}
	return m, nil
}

func (a *Archive) locate(ctx context.Context, t time.Time) (pipeline.Moment, error) {
	st, err := a.state(ctx)
	if err != nil {
		return pipeline.Moment{}, err
	}
	var earliest *historyState
	for _, h := range slices.Backward(st.Histories) {
		if h.Messages == 0 {
			continue
		}
		earliest = &h
		at := pipeline.Position{Epoch: h.Epoch}
		switch {
		case h.FirstTime.After(t):
			continue
		case !h.LastTime.After(t):
			at.Seq = h.Last
			return pipeline.Moment{Position: at, Time: h.LastTime}, nil
		}
		next, err := a.first(ctx, readRequest{Epoch: h.Epoch, Since: t.Add(1), HeadersOnly: true}, h.Last)
		if err != nil {
			return pipeline.Moment{}, err
		}
		if at.Seq = next.at.Seq - 1; at.Seq < h.First {
			return pipeline.Moment{Position: at, Time: t}, nil // the clock was set back
		}
		found, err := a.first(ctx, readRequest{Epoch: h.Epoch, Start: at.Seq, HeadersOnly: true}, at.Seq)
		return pipeline.Moment{Position: at, Time: found.stored}, err
	}
	newest, _ := st.newest()
	at := pipeline.Position{Epoch: newest.Epoch, Seq: newest.Last}
	if earliest != nil {
		at = pipeline.Position{Epoch: earliest.Epoch, Seq: earliest.First - 1}
	}
	return pipeline.Moment{Position: at, Time: t}, nil
}

// first reads the first record of a request.
func (a *Archive) first(ctx context.Context, r readRequest, until uint64) (message, error) {
	var found *message
	open := func(uint64) opener {
		return func(ctx context.Context) (jetstream.Consumer, func(), error) {
			return a.conn.admin.reader(ctx, a.site, r)
		}
	}
	err := scan(ctx, a.conn, open, 1, 1, until, func(m jetstream.Msg, meta *jetstream.MsgMetadata) error {
		first := historyMessage(r.Epoch, m, meta)
		found = &first
		return errStopped
	})
	switch {
	case err != nil && !errors.Is(err, errStopped):
		return message{}, err
	case found == nil:
		return message{}, fmt.Errorf("record %d of epoch %s: %w", r.Start, r.Epoch, pipeline.ErrGap)
	}
	return *found, nil
}

// Between implements pipeline.Archive.
func (a *Archive) Between(ctx context.Context, after, through pipeline.Position, q pipeline.Range) iter.Seq2[pipeline.Record, error] {
	return func(yield func(pipeline.Record, error) bool) {
		emit := func(m message) error {
			rec, err := m.record(ctx, a.conn, a.site, q.HeadersOnly)
			switch {
			case err != nil && !errors.Is(err, pipeline.ErrForeign):
				return err
			case !yield(rec, err):
				return errStopped
			}
			return nil
		}
		read := a.between
		if q.Newest {
			read = a.newest
		}
		if err := read(ctx, after, through, q, emit); err != nil && !errors.Is(err, errStopped) {
			yield(pipeline.Record{}, fmt.Errorf("read site %q from %s to %s: %w", a.site.name, after, through, err))
		}
	}
}

// newest keeps the last message of every subject and hands those over by position;
// the others are never decoded.
func (a *Archive) newest(ctx context.Context, after, through pipeline.Position, q pipeline.Range, emit func(message) error) error {
	last := map[string]message{}
	err := a.between(ctx, after, through, q, func(m message) error {
		last[m.subject] = m
		return nil
	})
	if err != nil {
		return err
	}
	for _, m := range slices.SortedFunc(maps.Values(last), func(a, b message) int { return a.at.Compare(b.at) }) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := emit(m); err != nil {
			return err
		}
	}
	return nil
}

func (a *Archive) between(ctx context.Context, after, through pipeline.Position, q pipeline.Range, f func(message) error) error {
	st, err := a.state(ctx)
	if err != nil {
		return err
	}
	if !st.extent().Holds(after, through) {
		return pipeline.ErrGap
	}
	for _, h := range st.Histories {
		if h.Epoch < after.Epoch || h.Epoch > through.Epoch {
			continue
		}
		start, until := uint64(1), h.Last
		if h.Epoch == after.Epoch {
			start = after.Seq + 1
		}
		if h.Epoch == through.Epoch {
			until = through.Seq
		}
		r := readRequest{Epoch: h.Epoch, Start: start, Kind: q.Kind, HeadersOnly: q.HeadersOnly}
		switch {
		case q.Ref != nil && q.Ref.Name == "":
			r.Heartbeat = true
		case q.Ref != nil:
			r.Ref = q.Ref
		}
		next := start
		err := (&History{conn: a.conn, site: a.site}).scan(ctx, r, until, func(m jetstream.Msg, meta *jetstream.MsgMetadata) error {
			at := meta.Sequence.Stream
			if whole := q.Ref == nil && q.Kind == nil; whole && at != next {
				return fmt.Errorf("record %d of epoch %s is followed by %d: %w", next-1, h.Epoch, at, pipeline.ErrGap)
			}
			next = at + 1
			return f(historyMessage(h.Epoch, m, meta))
		})
		if err != nil {
			return err
		}
	}
	return nil
}
