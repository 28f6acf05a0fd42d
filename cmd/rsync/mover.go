package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/dr-syncer/dr-syncer/internal/app"
	"github.com/dr-syncer/dr-syncer/telemetry"
	"github.com/dr-syncer/dr-syncer/transfer/stream"
)

// mover is one end at work.
type mover struct {
	options options
	config  config
	end     stream.End
	log     *slog.Logger
	limiter *stream.Limiter
	report  *reporter
}

// configPoll is how often the configuration is looked at for another limit.
const configPoll = 2 * time.Second

// run runs one end within the frame of a program, until it is done or told to stop.
func (m *mover) run(ctx context.Context, end func(context.Context, *mover) error) error {
	ctx, finish := context.WithCancel(ctx)
	defer finish()
	var result error
	work := app.Simple("mover", func(ctx context.Context) error {
		var wg sync.WaitGroup
		beside, stop := context.WithCancel(ctx)
		wg.Go(func() { m.watchLimit(beside) })
		wg.Go(func() { m.report.run(beside) })
		result = end(ctx, m)
		stop()
		wg.Wait()
		finish() // the work is done: that ends the program, and is no failure
		<-ctx.Done()
		return nil
	})
	work.StopTimeout = 30 * time.Second // rsync is asked to end first, and killed when it does not
	err := app.Run(ctx, app.Settings{Name: "mover", Options: m.options.app, Log: m.log}, work)
	return errors.Join(err, result)
}

// watchLimit applies the limit of the configuration whenever it changes.
func (m *mover) watchLimit(ctx context.Context) {
	tick := time.NewTicker(configPoll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		c, err := parseConfig(m.options.config)
		if err != nil || c.Limit < 0 || c.Limit == m.limiter.Rate() {
			continue // half written, or as before
		}
		m.limiter.Set(c.Limit)
		m.log.InfoContext(ctx, "bandwidth limit changed", telemetry.KeyLimitBytes, c.Limit)
	}
}

// carriers opens the ways to the peer, the direct one first. The caller closes them.
func (m *mover) carriers(ctx context.Context) (out []stream.Carrier, err error) {
	switch {
	case m.config.Listen != "":
		d, err := stream.Listen(ctx, m.end.Role, m.config.Listen)
		if err != nil {
			return nil, err
		}
		m.log.InfoContext(ctx, "listening for the peer", telemetry.KeyAddress, d.Address().String())
		out = append(out, d)
	case len(m.config.Dial) > 0:
		out = append(out, stream.Dial(m.end.Role, m.config.Dial...))
	}
	if m.config.Relay == nil {
		return out, nil
	}
	relay := *m.config.Relay
	relay.Log = m.log
	r, err := stream.NewRelay(ctx, m.config.Session, m.end.Role, relay)
	if err != nil {
		if len(out) > 0 { // the direct way may do
			m.log.WarnContext(ctx, "no relay", telemetry.KeyError, err)
			return out, nil
		}
		return nil, fmt.Errorf("open the ways to the peer: %w", err)
	}
	return append(out, r), nil
}

func closeAll(carriers []stream.Carrier) error {
	var errs []error
	for _, c := range carriers {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}
