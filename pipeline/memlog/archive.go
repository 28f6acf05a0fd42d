package memlog

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

type archive struct {
	log  *Log
	site string
}

// Archive looks back into one site's history. The site need not exist yet.
func (l *Log) Archive(siteName string) pipeline.Archive { return archive{log: l, site: siteName} }

// epochs returns all epochs of the site, the oldest first.
func (s *site) epochs() []ended {
	return append(slices.Clone(s.past), ended{last: s.last(), after: s.after, entries: s.entries})
}

// look returns the epochs as they are now. Their entries are never changed.
func (a archive) look(ctx context.Context) ([]ended, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("look back at site %q: %w", a.site, err)
	}
	a.log.mu.Lock()
	defer a.log.mu.Unlock()
	s := a.log.sites[a.site]
	if s == nil {
		return nil, fmt.Errorf("look back at site %q: %w", a.site, pipeline.ErrNoHistory)
	}
	return s.epochs(), nil
}

// Extent implements pipeline.Archive.
func (a archive) Extent(ctx context.Context) (pipeline.Extent, error) {
	epochs, err := a.look(ctx)
	if err != nil {
		return pipeline.Extent{}, err
	}
	return extentOf(epochs), nil
}

func extentOf(epochs []ended) pipeline.Extent {
	var x pipeline.Extent
	for _, e := range epochs {
		of := pipeline.EpochExtent{Epoch: e.last.Epoch, After: e.after, First: e.last.Seq + 1, Last: e.last.Seq}
		if n := len(e.entries); n > 0 {
			of.First, of.FirstTime, of.LastTime = e.entries[0].position.Seq, e.entries[0].stored, e.entries[n-1].stored
		}
		for _, entry := range e.entries {
			of.Bytes += uint64(len(entry.message.Data))
		}
		x.Epochs = append(x.Epochs, of)
	}
	return x
}

// Locate implements pipeline.Archive.
func (a archive) Locate(ctx context.Context, t time.Time) (pipeline.Moment, error) {
	epochs, err := a.look(ctx)
	if err != nil {
		return pipeline.Moment{}, err
	}
	for _, e := range slices.Backward(epochs) {
		for _, entry := range slices.Backward(e.entries) {
			if !entry.stored.After(t) {
				return pipeline.Moment{Position: entry.position, Time: entry.stored}, nil
			}
		}
	}
	for _, e := range epochs {
		if len(e.entries) > 0 {
			at := e.entries[0].position
			at.Seq--
			return pipeline.Moment{Position: at, Time: t}, nil
		}
	}
	return pipeline.Moment{Position: epochs[len(epochs)-1].last, Time: t}, nil
}

// Between implements pipeline.Archive.
func (a archive) Between(ctx context.Context, after, through pipeline.Position, q pipeline.Range) iter.Seq2[pipeline.Record, error] {
	return func(yield func(pipeline.Record, error) bool) {
		epochs, err := a.look(ctx)
		if err == nil && !extentOf(epochs).Holds(after, through) {
			err = fmt.Errorf("read site %q from %s to %s: %w", a.site, after, through, pipeline.ErrGap)
		}
		if err != nil {
			yield(pipeline.Record{}, err)
			return
		}
		for _, e := range selected(epochs, after, through, q) {
			if err := ctx.Err(); err != nil {
				yield(pipeline.Record{}, fmt.Errorf("read site %q: %w", a.site, err))
				return
			}
			if !yield(e.record(q.HeadersOnly)) {
				return
			}
		}
	}
}

// selected returns the entries of a range, in order.
func selected(epochs []ended, after, through pipeline.Position, q pipeline.Range) []entry {
	var list []entry
	newest := map[string]int{}
	for _, epoch := range epochs {
		for _, e := range epoch.entries {
			if e.position.Compare(after) <= 0 || e.position.Compare(through) > 0 || !wanted(e.message.Subject, q) {
				continue
			}
			newest[e.message.Subject] = len(list)
			list = append(list, e)
		}
	}
	if !q.Newest {
		return list
	}
	var last []entry
	for i, e := range list {
		if newest[e.message.Subject] == i {
			last = append(last, e)
		}
	}
	return last
}

func wanted(subject string, q pipeline.Range) bool {
	switch {
	case q.Ref != nil && q.Ref.Name == "":
		return subject == pipeline.HeartbeatSubject(q.Ref.Site)
	case q.Ref != nil:
		return subject == q.Ref.Subject()
	case q.Kind != nil:
		ref, err := pipeline.ParseRef(subject)
		return err == nil && ref.GroupResource() == *q.Kind
	}
	return true
}

// Trim implements pipeline.Archive.
func (a archive) Trim(ctx context.Context, before pipeline.Position) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("trim site %q: %w", a.site, err)
	}
	a.log.mu.Lock()
	defer a.log.mu.Unlock()
	s := a.log.sites[a.site]
	if s == nil {
		return nil
	}
	old := func(e entry) bool { return e.position.Compare(before) < 0 }
	for i := range s.past {
		s.past[i].entries = slices.DeleteFunc(slices.Clone(s.past[i].entries), old)
	}
	s.past = slices.DeleteFunc(s.past, func(e ended) bool { return len(e.entries) == 0 && e.last.Epoch < before.Epoch })
	s.entries = slices.DeleteFunc(slices.Clone(s.entries), old)
	s.wake()
	return nil
}

// Sites lists the sites that have a history, by name.
func (l *Log) Sites(ctx context.Context) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("list the sites: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Sorted(maps.Keys(l.sites)), nil
}
