package memlog

import (
	"context"
	"fmt"
	"slices"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// Writer appends to one site's history. See pipeline.Writer.
type Writer struct {
	log  *Log
	site string
	// last is where the history stood when this writer last knew it.
	last pipeline.Position
	// unsure names the events of an Append whose outcome the caller does not know.
	unsure []string
}

var _ pipeline.Writer = (*Writer)(nil)

// Writer opens the site for writing and begins its first epoch if it has none.
func (l *Log) Writer(ctx context.Context, siteName string) (*Writer, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("open history of site %q: %w", siteName, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s, err := l.site(siteName)
	if err != nil {
		return nil, fmt.Errorf("open history of site %q: %w", siteName, err)
	}
	return &Writer{log: l, site: siteName, last: s.last()}, nil
}

// Append implements pipeline.Writer.
func (w *Writer) Append(ctx context.Context, events []pipeline.Event) (pipeline.Position, error) {
	messages, err := encode(w.site, events)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return pipeline.Position{}, fmt.Errorf("append to site %q: %w", w.site, err)
	}
	w.log.mu.Lock()
	defer w.log.mu.Unlock()
	s := w.log.sites[w.site]
	ids := idsOf(messages)
	if w.unsure != nil && slices.Equal(w.unsure, ids) && s.holds(w.last, ids) {
		w.last.Seq += uint64(len(ids))
		w.unsure = nil
		return w.last, nil
	}
	if s.last() != w.last {
		return pipeline.Position{}, fmt.Errorf("append to site %q: %w", w.site, pipeline.ErrFenced)
	}
	var fault Fault
	if w.log.fault != nil {
		fault = w.log.fault(w.site, events)
	}
	if fault.Err == nil || fault.Stored {
		for _, m := range messages {
			s.append(m, w.log.now())
		}
		s.wake()
	}
	if fault.Err != nil {
		w.unsure = ids
		return pipeline.Position{}, fmt.Errorf("append to site %q: %w", w.site, fault.Err)
	}
	w.last, w.unsure = s.last(), nil
	return w.last, nil
}

// NewEpoch implements pipeline.Writer.
func (w *Writer) NewEpoch(ctx context.Context) (pipeline.Position, error) {
	if err := ctx.Err(); err != nil {
		return pipeline.Position{}, fmt.Errorf("begin epoch of site %q: %w", w.site, err)
	}
	w.log.mu.Lock()
	defer w.log.mu.Unlock()
	s := w.log.sites[w.site]
	if s.last() != w.last {
		return pipeline.Position{}, fmt.Errorf("begin epoch of site %q: %w", w.site, pipeline.ErrFenced)
	}
	epoch, err := pipeline.NextEpoch(s.epoch, w.log.now())
	if err != nil {
		return pipeline.Position{}, fmt.Errorf("begin epoch of site %q: %w", w.site, err)
	}
	s.past = append(s.past, ended{last: s.last(), after: s.after, entries: s.entries})
	s.after = s.last()
	s.epoch, s.seq, s.entries = epoch, 0, nil
	s.wake()
	w.last, w.unsure = s.last(), nil
	return w.last, nil
}

// holds reports whether the records after p are exactly those with the ids.
func (s *site) holds(p pipeline.Position, ids []string) bool {
	if s.epoch != p.Epoch || s.seq != p.Seq+uint64(len(ids)) || len(s.entries) < len(ids) {
		return false
	}
	tail := s.entries[len(s.entries)-len(ids):]
	return slices.EqualFunc(tail, ids, func(e entry, id string) bool { return idOf(e.message) == id })
}

func encode(siteName string, events []pipeline.Event) ([]pipeline.Message, error) {
	if len(events) > pipeline.MaxBatch {
		return nil, fmt.Errorf("%d events in one batch, at most %d are allowed", len(events), pipeline.MaxBatch)
	}
	messages := make([]pipeline.Message, len(events))
	for i, e := range events {
		if e.Ref.Site != siteName {
			return nil, fmt.Errorf("event of %s is of another site", e.Ref)
		}
		m, err := pipeline.Encode(e)
		if err != nil {
			return nil, err
		}
		messages[i] = m
	}
	return messages, nil
}

func idsOf(messages []pipeline.Message) []string {
	ids := make([]string, len(messages))
	for i, m := range messages {
		ids[i] = idOf(m)
	}
	return ids
}

// idOf tells messages apart: an id alone does not name its object.
func idOf(m pipeline.Message) string {
	id := ""
	if v := m.Header[pipeline.HeaderID]; len(v) > 0 {
		id = v[0]
	}
	return m.Subject + " " + id
}
