package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/dr-syncer/dr-syncer/telemetry"
)

// DefaultStopTimeout is how long a unit may take to stop if it does not say.
const DefaultStopTimeout = 15 * time.Second

// Unit is a part of a program that starts and stops.
type Unit struct {
	// Name is for people: "nats server".
	Name string
	// Run works until ctx ends, cleans up and returns nil or ctx's error. It calls
	// ready (again does nothing) when the units behind it may start. Returning
	// before ctx ended, with or without an error, ends the program.
	Run func(ctx context.Context, ready func()) error
	// StopTimeout bounds the time from the end of ctx to Run's return;
	// DefaultStopTimeout if 0.
	StopTimeout time.Duration
	// Standby is set if waiting for this unit is a healthy state to be in, as it is
	// for one that waits to lead.
	Standby bool
}

// Simple makes a unit that is ready as soon as it runs.
func Simple(name string, run func(ctx context.Context) error) Unit {
	return Unit{Name: name, Run: func(ctx context.Context, ready func()) error {
		ready()
		return run(ctx)
	}}
}

// ErrLeadLost ends a program that no longer leads: another does its work now.
var ErrLeadLost = errors.New("another replica leads now")

// Leading makes the unit that waits to lead. elect takes part in the election
// until ctx ends, calls elected when this process leads, and returns when it no
// longer does; when ctx ends it gives the lead up.
func Leading(elect func(ctx context.Context, elected func()) error) Unit {
	return Unit{Name: "leader election", Standby: true, Run: func(ctx context.Context, ready func()) error {
		var leads atomic.Bool
		defer telemetry.Gauge(telemetry.MetricLeader, func() []telemetry.Sample {
			if leads.Load() {
				return []telemetry.Sample{{Value: 1}}
			}
			return []telemetry.Sample{{Value: 0}}
		})()
		err := elect(ctx, func() {
			leads.Store(true)
			ready()
		})
		if err == nil && ctx.Err() == nil {
			return ErrLeadLost
		}
		return err
	}}
}

// running is a started unit.
type running struct {
	Unit
	cancel context.CancelFunc
	ready  chan struct{}
	done   chan struct{}
	err    error // valid once done is closed
}

// start runs the unit in a goroutine that supervise waits for, and tells ended
// when it has returned.
func start(ctx context.Context, u Unit, ended chan<- *running) *running {
	// A unit ends when it is its turn, not when the program's context does.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	r := &running{Unit: u, cancel: cancel, ready: make(chan struct{}), done: make(chan struct{})}
	var once atomic.Bool
	go func() {
		err := u.Run(ctx, func() {
			if once.CompareAndSwap(false, true) {
				close(r.ready)
			}
		})
		if ctx.Err() == nil || !errors.Is(err, context.Canceled) {
			r.err = err
		}
		close(r.done)
		ended <- r
	}()
	return r
}

// supervise starts the units in order, waits for the end of ctx or of any unit,
// and stops those started in reverse order. It returns what went wrong, first
// failure first. waiting is told which unit is being waited for, nil once all
// are ready.
func supervise(ctx context.Context, log *slog.Logger, waiting func(*Unit), units []Unit) error {
	ended := make(chan *running, len(units)) // room for all: nobody blocks on it
	var started []*running
	var cause error
	for i := 0; i < len(units) && cause == nil && ctx.Err() == nil; i++ {
		waiting(&units[i])
		log.DebugContext(ctx, "starting unit", telemetry.KeyUnit, units[i].Name)
		r := start(ctx, units[i], ended)
		started = append(started, r)
		select {
		case <-r.ready:
		case e := <-ended:
			cause = endOf(e)
		case <-ctx.Done():
		}
	}
	if cause == nil && ctx.Err() == nil {
		waiting(nil)
		select {
		case e := <-ended:
			cause = endOf(e)
		case <-ctx.Done():
		}
	}
	return errors.Join(cause, stop(ctx, log, started))
}

// errEnded is the end of a unit that nobody asked to end and that gave no error.
var errEnded = errors.New("ended by itself")

// endOf says why the program ends when a unit did.
func endOf(r *running) error {
	err := r.err
	r.err = nil // said once
	if err == nil {
		err = errEnded
	}
	return fmt.Errorf("%s: %w", r.Name, err)
}

func stop(ctx context.Context, log *slog.Logger, started []*running) error {
	var errs []error
	for _, r := range slices.Backward(started) {
		limit := r.StopTimeout
		if limit == 0 {
			limit = DefaultStopTimeout
		}
		begin := time.Now()
		r.cancel()
		timer := time.NewTimer(limit)
		select {
		case <-r.done:
			if r.err != nil {
				errs = append(errs, fmt.Errorf("stop %s: %w", r.Name, r.err))
			}
			log.DebugContext(ctx, "stopped unit", telemetry.KeyUnit, r.Name, telemetry.KeyDuration, time.Since(begin))
		case <-timer.C:
			errs = append(errs, fmt.Errorf("stop %s: not done within %s", r.Name, limit))
		}
		timer.Stop()
	}
	return errors.Join(errs...)
}
