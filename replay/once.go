package replay

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/telemetry"
)

// Frozen is what a site had at one position: it does not change while it is read.
type Frozen interface {
	// State yields the last record of every Ref as of the position, as History.Current does for
	// the present. It is read several times.
	State(ctx context.Context, at pipeline.Position, q pipeline.Query) iter.Seq2[pipeline.Record, error]
}

// Once is one run up to a position. See Upto.
type Once struct {
	run *Run
	s   Settings
}

// Upto returns a run that brings a destination to what a site had at a position and ends, doing
// nothing until Run. Of the settings History, Consumer and DeadLetters play no part: what cannot be applied is told to the
// pump's Observer, with its error, and not kept.
func Upto(at pipeline.Moment, from Frozen, s Settings) (*Once, error) {
	if err := s.Pump.Validate(); err != nil {
		return nil, fmt.Errorf("configure replay %s: %w", s.Pump.Owner, err)
	}
	s.History, s.DeadLetters = frozen{from, at}, nothing{}
	run, err := Continuous(s)
	if err != nil {
		return nil, err
	}
	return &Once{run: run, s: s}, nil
}

// Run applies everything, in waves, and returns nil when each object is applied or was given up. An
// error says that it could not be read, or that ctx ended; then it may be run anew, by another Once:
// what was done costs nothing the second time.
func (o *Once) Run(ctx context.Context) error {
	pumping, stop := context.WithCancel(ctx)
	var pump sync.WaitGroup
	defer pump.Wait()
	defer stop()
	failed := make(chan error, 1)
	pump.Go(func() {
		failed <- o.run.pump.Run(pumping)
		stop()
	})
	_, err := o.run.copy(pumping)
	if err == nil {
		err = o.run.pump.Drain(pumping)
	}
	stop()
	if broken := <-failed; broken != nil {
		return broken
	}
	if err != nil {
		return fmt.Errorf("replay %s: %w", o.s.Pump.Owner, err)
	}
	o.s.Log.InfoContext(ctx, "replay has gone through everything", telemetry.KeyReplication, o.s.Pump.Owner)
	return ctx.Err()
}

// Stats returns how the run stands. Its cost depends on the number of kinds only.
func (o *Once) Stats() Stats { return o.run.Stats() }

// frozen is a History of one position.
type frozen struct {
	from Frozen
	at   pipeline.Moment
}

var errFrozen = errors.New("a state of the past does not go on")

// State implements pipeline.History.
func (f frozen) State(context.Context) (pipeline.State, error) {
	return pipeline.State{First: f.at.Position, Last: f.at.Position, LastTime: f.at.Time}, nil
}

// Current implements pipeline.History.
func (f frozen) Current(ctx context.Context, q pipeline.Query) iter.Seq2[pipeline.Record, error] {
	return f.from.State(ctx, f.at.Position, q)
}

// Follow implements pipeline.History.
func (f frozen) Follow(context.Context, string, pipeline.Position) (pipeline.Subscription, error) {
	return nil, errFrozen
}

// nothing is DeadLetters that keep nothing.
type nothing struct{}

func (nothing) Park(context.Context, pipeline.DeadLetter) error    { return nil }
func (nothing) Remove(context.Context, string, pipeline.Ref) error { return nil }
func (nothing) List(context.Context, string) iter.Seq2[pipeline.DeadLetter, error] {
	return func(func(pipeline.DeadLetter, error) bool) {}
}
