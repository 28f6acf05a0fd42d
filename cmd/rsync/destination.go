package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"github.com/dr-syncer/dr-syncer/internal/app"
	"github.com/dr-syncer/dr-syncer/telemetry"
	"github.com/dr-syncer/dr-syncer/transfer/rsync"
	"github.com/dr-syncer/dr-syncer/transfer/stream"
)

const (
	// directPatience is how long the direct way is tried before the relay.
	directPatience = 5 * time.Second
	// openPatience is how long the peer is waited for in one attempt.
	openPatience = 2 * time.Minute
)

// copyDestination copies the source's volume, again from where it was while the
// connection breaks.
func copyDestination(ctx context.Context, m *mover) (err error) {
	work := m.options.work
	if work == "" {
		if work, err = os.MkdirTemp("", "mover-"); err != nil {
			return m.report.fail(rsync.Transient, fmt.Errorf("make a working directory: %w", err))
		}
		defer func() { _ = os.RemoveAll(work) }()
	}
	self, err := os.Executable()
	if err != nil {
		return m.report.fail(rsync.Permanent, fmt.Errorf("find the shim: %w", err))
	}
	carriers, err := m.carriers(ctx)
	if err != nil {
		return m.report.fail(rsync.Transient, err)
	}
	defer func() { err = errors.Join(err, closeAll(carriers)) }()
	opener, err := stream.NewOpener(m.end, directPatience, carriers...)
	if err != nil {
		return app.Usage(m.report.fail(rsync.Permanent, err))
	}
	copier := &rsync.Copier{
		Program: m.config.Rsync, Root: m.config.Root, Work: work, Shim: []string{self}, Settings: m.config.Settings,
		Open:       func(ctx context.Context) (rsync.Stream, error) { return m.open(ctx, opener) },
		OnPass:     m.report.pass,
		OnProgress: m.report.progress,
	}
	for attempt := 1; ; attempt++ {
		m.report.set(func(s *status) { s.Attempts = attempt })
		verdict, reports, err := copier.Copy(ctx)
		again := verdict.Class == rsync.Transient && attempt < m.options.attempts && ctx.Err() == nil
		if again {
			m.log.WarnContext(ctx, "the copy broke off, going on from there", telemetry.KeyAttempt, attempt, telemetry.KeyReason, verdict.Reason, telemetry.KeyError, err)
			if pause(ctx, attempt) == nil {
				continue
			}
			verdict = rsync.Verdict{Class: rsync.Canceled, Reason: "it was asked to stop"}
		}
		if verdict.Reason == "" && err != nil {
			verdict.Reason = err.Error()
		}
		m.report.finish(verdict, reports)
		return failure(verdict, err)
	}
}

// failure is the error of a copy that did not end well. Its exit code says whether
// the same again may help.
func failure(v rsync.Verdict, err error) error {
	if v.Class == rsync.Done {
		return nil
	}
	if err == nil {
		err = errors.New(v.Reason)
	}
	err = fmt.Errorf("copy the volume: %s: %w", v.Class, err)
	switch v.Class {
	case rsync.Permanent, rsync.TooManyDeletions, rsync.Different:
		return app.Usage(err)
	case rsync.Done, rsync.Transient, rsync.Storage, rsync.Partial, rsync.Vanished, rsync.Canceled, rsync.Memory:
	}
	return err
}

// open opens a stream that is paced and watched.
func (m *mover) open(ctx context.Context, o *stream.Opener) (rsync.Stream, error) {
	// The stream ends with the context that it was opened by, so only the opening is bounded.
	open, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(openPatience, func() { cancel(fmt.Errorf("the source did not answer within %s", openPatience)) })
	s, err := o.Open(open)
	if !timer.Stop() && err == nil {
		err = errors.Join(context.Cause(open), s.Close())
	}
	if err != nil {
		cancel(nil)
		return nil, err
	}
	s.Limit(ctx, m.limiter)
	return &watched{Stream: s, forget: m.report.watch(s), cancel: cancel}, nil
}

// watched is a stream that the report counts until it is closed.
type watched struct {
	*stream.Stream
	forget func()
	cancel context.CancelCauseFunc
}

func (w *watched) Close() error {
	err := w.Stream.Close()
	w.forget()
	w.cancel(nil)
	return err
}

// pause waits before another attempt: longer each time, with jitter.
func pause(ctx context.Context, attempt int) error {
	wait := time.Second << min(attempt, 5)
	t := time.NewTimer(wait/2 + rand.N(wait/2)) //nolint:gosec // G404: jitter, not a secret
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
