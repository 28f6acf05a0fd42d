package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/dr-syncer/dr-syncer/collect"
	"github.com/dr-syncer/dr-syncer/internal/app"
	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/pipeline/natslog"
	"github.com/dr-syncer/dr-syncer/telemetry"
)

// program is a collector put together.
type program struct {
	options options
	log     *slog.Logger
	client  *kube.Client
	config  configFile
	conn    *natslog.Conn
}

// run runs the parts in order: the log, the lead, the collector.
func (p *program) run(ctx context.Context) error {
	health := &app.Health{}
	units := []app.Unit{{Name: "log", Run: p.connect}}
	if p.options.leaderElect {
		lease := "dr-syncer-collector-" + p.options.site
		units = append(units, app.Leading(func(ctx context.Context, elected func()) error {
			return p.client.Lead(ctx, p.options.namespace, lease, elected)
		}))
	}
	units = append(units, app.Unit{Name: "collector", Run: func(ctx context.Context, ready func()) error {
		return p.collect(ctx, health, ready)
	}})
	return app.Run(ctx, app.Settings{
		Name: "collector", Options: p.options.app, Log: p.log, Health: health,
	}, units...)
}

// The delays between two attempts to reach the log at the start.
const (
	firstDelay = time.Second
	lastDelay  = 30 * time.Second
)

// connect connects to the log and holds the connection until ctx ends. It waits for a log that cannot be
// reached yet, since the other site may be started later; what waiting does not
// mend ends the program.
func (p *program) connect(ctx context.Context, ready func()) error {
	cfg := p.options.nats
	cfg.Log = p.log
	for delay := firstDelay; p.conn == nil; delay = min(2*delay, lastDelay) {
		conn, err := natslog.Connect(ctx, cfg)
		switch {
		case err == nil:
			p.conn = conn
		case !errors.Is(err, natslog.ErrUnreachable):
			return fmt.Errorf("%w: check --nats-url and the credentials and certificates given with --nats-…", err)
		default:
			p.log.WarnContext(ctx, "waiting for the log: check --nats-url and the network if it should be there",
				telemetry.KeyError, err, telemetry.KeyDuration, delay)
			if !sleep(ctx, delay) {
				return nil
			}
		}
	}
	ready()
	<-ctx.Done()
	return p.conn.Close()
}

// collect runs the collector, anew whenever another has written, until ctx ends.
func (p *program) collect(ctx context.Context, health *app.Health, ready func()) error {
	collector, err := collect.New(collect.Settings{
		Site: p.options.site, OwnNamespace: p.options.namespace, Source: p.client,
		OpenWriter: func(ctx context.Context) (pipeline.Writer, error) {
			return p.conn.Writer(ctx, p.options.site, p.options.streams)
		},
		History: p.conn.History(p.options.site), Config: p.config.parsed, Log: p.log,
	})
	if err != nil {
		return err
	}
	health.Ready("log", func(context.Context) error { return p.conn.Healthy() })
	health.Ready("collector", func(context.Context) error {
		if !collector.Started() {
			return errors.New("has not written to the log yet")
		}
		return nil
	})
	ready()

	reloading := make(chan struct{})
	watching, stop := context.WithCancel(ctx)
	go func() {
		defer close(reloading)
		p.config.watch(watching, p.log, collector.Configure)
	}()
	defer func() {
		stop()
		<-reloading
	}()
	for delay := firstDelay; ; delay = min(2*delay, lastDelay) {
		begin := time.Now()
		err := collector.Run(ctx)
		if !errors.Is(err, pipeline.ErrFenced) {
			return err
		}
		p.log.ErrorContext(ctx, "another collector writes to the history of this site, starting over: "+
			"give every cluster a --site of its own, and let replicas use --leader-elect", telemetry.KeySite, p.options.site)
		if time.Since(begin) > 2*lastDelay {
			delay = firstDelay
		}
		if !sleep(ctx, delay) {
			return nil
		}
	}
}

// sleep waits and returns true, or false if ctx ends. It waits up to a fifth more or less than d, so
// that collectors which lost the log together do not come back together.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(time.Duration((0.8 + 0.4*rand.Float64()) * float64(d))) //nolint:gosec // not for secrets
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
