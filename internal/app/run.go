package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/dr-syncer/dr-syncer/telemetry"
)

// Settings is what a program gives the frame beside its units.
type Settings struct {
	// Name is the program's.
	Name    string
	Options Options
	Log     *slog.Logger
	// Health is where the program's units add their checks; nil if they have none.
	Health *Health
}

// Run runs the units until ctx ends, SIGINT or SIGTERM arrives, or a unit ends,
// then stops them in reverse order. A second signal has its usual effect: the
// process dies at once. Nil means that everything was stopped as asked.
func Run(ctx context.Context, s Settings, units ...Unit) error {
	if err := s.Options.Validate(); err != nil {
		return err
	}
	ctx, release := untilSignal(ctx, s.Log)
	defer release()

	tel, err := telemetry.Setup(ctx, telemetry.Settings{Service: s.Name, Version: Version(), Log: s.Log})
	if err != nil {
		return err
	}
	health := s.Health
	if health == nil {
		health = &Health{}
	}
	var waiting atomic.Pointer[Unit]
	health.Ready("started", func(context.Context) error {
		if u := waiting.Load(); u != nil && !u.Standby {
			return fmt.Errorf("waiting for the %s to start", u.Name)
		}
		return nil
	})
	if s.Options.Listen != "" {
		side, err := serving(ctx, s.Log, s.Options.Listen, routes(health, tel.Handler()))
		if err != nil {
			return errors.Join(err, tel.Shutdown(ctx))
		}
		units = append([]Unit{side}, units...)
	}
	err = supervise(ctx, s.Log, func(u *Unit) {
		if waiting.Store(u); u == nil {
			s.Log.InfoContext(ctx, "running")
		}
	}, units)
	s.Log.InfoContext(ctx, "stopped")
	// The context has ended; what is left to export gets a moment of its own.
	flush, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return errors.Join(err, tel.Shutdown(flush))
}

// untilSignal returns a context that ends at the first signal. From then on
// signals have their usual effect again.
func untilSignal(ctx context.Context, log *slog.Logger) (signaled context.Context, release func()) {
	ctx, cancel := context.WithCancel(ctx)
	got := make(chan os.Signal, 1)
	signal.Notify(got, os.Interrupt, syscall.SIGTERM)
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case sig := <-got:
			log.InfoContext(ctx, "got signal", telemetry.KeySignal, sig.String())
		case <-ctx.Done():
		}
		signal.Stop(got)
		cancel()
	}()
	return ctx, func() {
		cancel()
		<-done
	}
}
