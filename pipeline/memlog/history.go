package memlog

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

type history struct {
	log  *Log
	site string
}

// History reads one site. The site need not exist yet.
func (l *Log) History(siteName string) pipeline.History { return history{log: l, site: siteName} }

// State implements pipeline.History.
func (h history) State(ctx context.Context) (pipeline.State, error) {
	if err := ctx.Err(); err != nil {
		return pipeline.State{}, fmt.Errorf("state of site %q: %w", h.site, err)
	}
	h.log.mu.Lock()
	defer h.log.mu.Unlock()
	s := h.log.sites[h.site]
	if s == nil {
		return pipeline.State{}, fmt.Errorf("state of site %q: %w", h.site, pipeline.ErrNoHistory)
	}
	st := pipeline.State{First: s.last(), Last: s.last(), LastTime: s.stored}
	if len(s.entries) > 0 {
		st.First = s.entries[0].position
	}
	for _, e := range s.entries {
		st.Bytes += uint64(len(e.message.Data))
	}
	return st, nil
}

// Current implements pipeline.History: it yields the state at the call.
func (h history) Current(ctx context.Context, q pipeline.Query) iter.Seq2[pipeline.Record, error] {
	return func(yield func(pipeline.Record, error) bool) {
		entries, err := h.entries(q)
		if err != nil {
			yield(pipeline.Record{}, err)
			return
		}
		for _, e := range entries {
			if err := ctx.Err(); err != nil {
				yield(pipeline.Record{}, fmt.Errorf("read site %q: %w", h.site, err))
				return
			}
			if !yield(e.record(q.HeadersOnly)) {
				return
			}
		}
	}
}

func (h history) entries(q pipeline.Query) ([]entry, error) {
	h.log.mu.Lock()
	defer h.log.mu.Unlock()
	s := h.log.sites[h.site]
	if s == nil {
		return nil, fmt.Errorf("read site %q: %w", h.site, pipeline.ErrNoHistory)
	}
	prefix := ""
	switch {
	case q.Heartbeat:
		prefix = pipeline.HeartbeatSubject(h.site)
	case q.Kind != nil:
		prefix = strings.TrimSuffix(pipeline.ObjectSubjects(h.site, q.Kind), "*.*")
	}
	entries := make([]entry, 0, len(s.current))
	for subject, e := range s.current {
		if strings.HasPrefix(subject, prefix) {
			entries = append(entries, e)
		}
	}
	slices.SortFunc(entries, func(a, b entry) int { return a.position.Compare(b.position) })
	return entries, nil
}

// Follow implements pipeline.History.
func (h history) Follow(ctx context.Context, name string, after pipeline.Position) (pipeline.Subscription, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("follow site %q: %w", h.site, err)
	}
	h.log.mu.Lock()
	defer h.log.mu.Unlock()
	s := h.log.sites[h.site]
	if s == nil {
		return nil, fmt.Errorf("follow site %q: %w", h.site, pipeline.ErrNoHistory)
	}
	if after.IsZero() {
		after.Epoch = s.epoch
	}
	if err := s.reaches(after); err != nil {
		return nil, fmt.Errorf("follow site %q after %s: %w", h.site, after, err)
	}
	if former := s.subs[name]; former != nil {
		former.close(errTakenOver)
	}
	sub := &subscription{log: h.log, site: s, name: name, after: after, closed: make(chan struct{})}
	s.subs[name] = sub
	return sub, nil
}

// reaches tells whether the record after p can be had, now or later.
func (s *site) reaches(p pipeline.Position) error {
	switch {
	case p.Epoch < s.epoch:
		return pipeline.ErrEpochEnded
	case p.Epoch > s.epoch || p.Seq > s.seq:
		return pipeline.ErrGap
	case p.Seq+uint64(len(s.entries)) < s.seq:
		return pipeline.ErrGap
	}
	return nil
}

var (
	errTakenOver = errors.New("another subscription has taken the name")
	errClosed    = errors.New("the subscription is closed")
)

// subscription is a cursor in a site's entries. after, ended and closed are
// guarded by Log.mu.
type subscription struct {
	log    *Log
	site   *site
	name   string
	after  pipeline.Position
	ended  error
	closed chan struct{}
}

// Next implements pipeline.Subscription.
func (s *subscription) Next(ctx context.Context) (pipeline.Delivery, error) {
	for {
		e, changed, err := s.step()
		if err != nil {
			return pipeline.Delivery{}, fmt.Errorf("follow: %w", err)
		}
		if changed == nil {
			record, err := e.record(false)
			return pipeline.Delivery{Record: record, Invalid: err, Settler: settler{}}, nil
		}
		select {
		case <-ctx.Done():
			return pipeline.Delivery{}, ctx.Err()
		case <-s.closed:
		case <-changed:
		}
	}
}

// step takes the next entry, or returns what to wait for.
func (s *subscription) step() (entry, <-chan struct{}, error) {
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	if s.ended != nil {
		return entry{}, nil, s.ended
	}
	if err := s.site.reaches(s.after); err != nil {
		return entry{}, nil, err
	}
	missing := s.site.seq - s.after.Seq
	if missing == 0 {
		return entry{}, s.site.changed, nil
	}
	e := s.site.entries[uint64(len(s.site.entries))-missing]
	s.after = e.position
	return e, nil, nil
}

// Close implements pipeline.Subscription.
func (s *subscription) Close() error {
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	s.close(errClosed)
	if s.site.subs[s.name] == s {
		delete(s.site.subs, s.name)
	}
	return nil
}

func (s *subscription) close(why error) {
	if s.ended == nil {
		s.ended = why
		close(s.closed)
	}
}

// settler has nothing to do: the log never delivers again by itself.
type settler struct{}

func (settler) Ack() error        { return nil }
func (settler) Extend() error     { return nil }
func (settler) Term(string) error { return nil }
