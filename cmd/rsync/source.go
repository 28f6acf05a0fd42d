package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dr-syncer/dr-syncer/transfer/rsync"
	"github.com/dr-syncer/dr-syncer/transfer/stream"
)

// atOnce is how many streams are served at a time: a pass and what may still be
// ending of the one before, and some for strangers to be thrown out of.
const atOnce = 8

// serveSource serves the volume until ctx ends, or the session has expired and
// nobody copies.
func serveSource(ctx context.Context, m *mover) error {
	server := &rsync.Server{Program: m.config.Rsync, Root: m.config.Root, Block: m.config.Settings.Block, Log: m.log}
	if err := server.Check(ctx); err != nil {
		return m.report.fail(rsync.Permanent, err)
	}
	carriers, err := m.carriers(ctx)
	if err != nil {
		return m.report.fail(rsync.Transient, err)
	}
	m.report.set(func(s *status) { s.Phase = phaseServing })
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var active atomic.Int64
	handle := func(ctx context.Context, s *stream.Stream) {
		active.Add(1)
		defer active.Add(-1)
		forget := m.report.watch(s)
		defer forget()
		s.Limit(ctx, m.limiter)
		server.Serve(ctx, s)
	}
	var wg sync.WaitGroup
	errs := make(chan error, len(carriers))
	for _, c := range carriers {
		wg.Go(func() { errs <- stream.Serve(ctx, m.end, c, atOnce, m.log, handle) })
	}
	wg.Go(func() { endWhenExpired(ctx, m.config.Session.Expires, &active, cancel) })
	for range carriers {
		if serveErr := <-errs; serveErr != nil && err == nil {
			err = serveErr
			cancel()
		}
	}
	cancel()
	wg.Wait()
	if closeErr := closeAll(carriers); err == nil {
		err = closeErr
	}
	if err != nil {
		return m.report.fail(rsync.Transient, fmt.Errorf("serve the volume: %w", err))
	}
	m.report.finish(rsync.Verdict{Class: rsync.Done, Reason: "stopped serving"}, nil)
	return nil
}

// endWhenExpired calls end when nothing can be opened any more and nothing is open.
func endWhenExpired(ctx context.Context, expires time.Time, active *atomic.Int64, end func()) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			if now.After(expires) && active.Load() == 0 {
				end()
				return
			}
		}
	}
}
