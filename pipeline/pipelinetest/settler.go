package pipelinetest

import (
	"fmt"
	"sync"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// Settlements hands out deliveries and remembers how they were settled. It is
// safe for concurrent use.
type Settlements struct {
	mu   sync.Mutex
	list []*Settlement
	err  error
}

// Settlement is the fate of one delivery.
type Settlement struct {
	Position pipeline.Position
	// Acks, Terms and Extends count the calls.
	Acks, Terms, Extends int
	// Reason is that of the last Term.
	Reason string
}

// Fail makes every call of a settler return err from now on; it is counted all the same.
func (s *Settlements) Fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

// Deliver makes a delivery of an event at a position.
func (s *Settlements) Deliver(e pipeline.Event, p pipeline.Position) pipeline.Delivery {
	s.mu.Lock()
	defer s.mu.Unlock()
	one := &Settlement{Position: p}
	s.list = append(s.list, one)
	return pipeline.Delivery{
		Record:  pipeline.Record{Event: e, Position: p, Stored: e.Observed},
		Settler: &settler{all: s, one: one},
	}
}

// All returns the fates of all deliveries so far, in the order of Deliver.
func (s *Settlements) All() []Settlement {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]Settlement, len(s.list))
	for i, one := range s.list {
		list[i] = *one
	}
	return list
}

// Unsettled names the deliveries that were not settled, or more than once.
func (s *Settlements) Unsettled() []string {
	var list []string
	for _, one := range s.All() {
		if n := one.Acks + one.Terms; n != 1 {
			list = append(list, fmt.Sprintf("%s was settled %d times", one.Position, n))
		}
	}
	return list
}

type settler struct {
	all *Settlements
	one *Settlement
}

func (s *settler) note(f func(*Settlement)) error {
	s.all.mu.Lock()
	defer s.all.mu.Unlock()
	f(s.one)
	return s.all.err
}

func (s *settler) Ack() error    { return s.note(func(one *Settlement) { one.Acks++ }) }
func (s *settler) Extend() error { return s.note(func(one *Settlement) { one.Extends++ }) }
func (s *settler) Term(reason string) error {
	return s.note(func(one *Settlement) { one.Terms++; one.Reason = reason })
}
