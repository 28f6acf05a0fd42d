package pipelinetest

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// Sink is a destination in memory that fails by script and watches what it is
// promised: never two records of one Ref at once, never an older one after a
// newer one. The zero value takes everything. It is safe for concurrent use.
type Sink struct {
	// Try, if not nil, is called for every attempt (the first is 1) on a record;
	// its error is the attempt's. It may take its time.
	Try func(ctx context.Context, r pipeline.Record, attempt int) error

	mu       sync.Mutex
	script   map[pipeline.Ref][]error
	busy     map[pipeline.Ref]bool
	attempts map[pipeline.Ref][]Attempt
	applied  map[pipeline.Ref][]pipeline.Record
	broken   []string
}

var _ pipeline.Sink = (*Sink)(nil)

// Attempt is one call of Apply.
type Attempt struct {
	Position pipeline.Position
	Time     time.Time
	Err      error
}

// Script makes the next attempts at ref end with these errors, one after the
// other; nil is a success.
func (s *Sink) Script(ref pipeline.Ref, errs ...error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.script == nil {
		s.script = map[pipeline.Ref][]error{}
	}
	s.script[ref] = append(s.script[ref], errs...)
}

// Apply implements pipeline.Sink.
func (s *Sink) Apply(ctx context.Context, r pipeline.Record) (pipeline.Result, error) {
	attempt, scripted := s.begin(r)
	defer s.end(r.Ref)
	err := scripted
	if err == nil && s.Try != nil {
		err = s.Try(ctx, r, attempt)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.attempts[r.Ref] = append(s.attempts[r.Ref], Attempt{Position: r.Position, Time: time.Now(), Err: err})
	if err != nil {
		return "", err
	}
	s.applied[r.Ref] = append(s.applied[r.Ref], r)
	switch {
	case r.Op == pipeline.OpDelete:
		return pipeline.ResultDeleted, nil
	case len(s.applied[r.Ref]) == 1:
		return pipeline.ResultCreated, nil
	default:
		return pipeline.ResultConfigured, nil
	}
}

func (s *Sink) begin(r pipeline.Record) (attempt int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy == nil {
		s.busy = map[pipeline.Ref]bool{}
		s.attempts = map[pipeline.Ref][]Attempt{}
		s.applied = map[pipeline.Ref][]pipeline.Record{}
	}
	if s.busy[r.Ref] {
		s.broken = append(s.broken, fmt.Sprintf("%s is applied twice at once", r.Ref))
	}
	s.busy[r.Ref] = true
	former := s.attempts[r.Ref]
	attempt = 1
	for i := len(former) - 1; i >= 0 && former[i].Position == r.Position; i-- {
		attempt++
	}
	if n := len(former); n > 0 && former[n-1].Position.Compare(r.Position) > 0 {
		s.broken = append(s.broken, fmt.Sprintf("%s is applied at %s after %s", r.Ref, r.Position, former[n-1].Position))
	}
	if list := s.script[r.Ref]; len(list) > 0 {
		err, s.script[r.Ref] = list[0], list[1:]
	}
	return attempt, err
}

func (s *Sink) end(ref pipeline.Ref) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy[ref] = false
}

// Broken lists the promises that were not kept.
func (s *Sink) Broken() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.broken...)
}

// Attempts are all attempts at ref that have ended, in order.
func (s *Sink) Attempts(ref pipeline.Ref) []Attempt {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Attempt(nil), s.attempts[ref]...)
}

// Applied are the records of ref that were applied, in order.
func (s *Sink) Applied(ref pipeline.Ref) []pipeline.Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]pipeline.Record(nil), s.applied[ref]...)
}

// World is what stands at the destination: the last record applied to every
// Ref that was put and not deleted since.
func (s *Sink) World() map[pipeline.Ref]pipeline.Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	world := map[pipeline.Ref]pipeline.Record{}
	for ref, list := range s.applied {
		for _, r := range list {
			switch r.Op {
			case pipeline.OpPut:
				world[ref] = r
			case pipeline.OpDelete:
				delete(world, ref)
			case pipeline.OpRelease, pipeline.OpHeartbeat:
			}
		}
	}
	return world
}
