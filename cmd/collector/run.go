package main

import (
	"context"
	"errors"
	"log/slog"
	"runtime/debug"
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
	health  *app.Health
	server  *natslog.Server // if the log is held here
	conn    *natslog.Conn
	// rules are those of stage source; nil if they are switched off.
	rules *sourceRules
	// readable says which volumes may be read.
	readable *readable
}

// run runs the parts in order: the log, the lead, the rules, the collector. A log
// that is held here comes after the lead: there must not be two of one site.
func (p *program) run(ctx context.Context) error {
	health := p.health
	units := []app.Unit{{Name: "log", Run: p.connect}}
	if p.options.embedded() {
		units = append([]app.Unit{{Name: "embedded log", Run: p.serve, StopTimeout: storeStopTimeout}}, units...)
	}
	if p.options.leaderElect {
		lease := "dr-syncer-collector-" + p.options.site
		leading := app.Leading(func(ctx context.Context, elected func()) error {
			return p.client.Lead(ctx, p.options.namespace, lease, elected)
		})
		if p.options.embedded() {
			units = append([]app.Unit{leading}, units...)
		} else {
			units = append(units, leading)
		}
	}
	if p.options.sourceRules {
		p.rules = newSourceRules(p.client, p.options.site, p.options.namespace, p.log)
		health.Ready("source rules", p.rules.check)
		units = append(units, app.Unit{Name: "source rules", Run: p.rules.run})
	}
	units = append(units, app.Unit{Name: "collector", Run: func(ctx context.Context, ready func()) error {
		return p.collect(ctx, health, ready)
	}})
	if p.options.movers.Enabled() {
		units = append(units, app.Simple("volumes", p.serveVolumes))
	}
	if p.options.embedded() {
		units = append(units, app.Simple("retention of history", p.retain))
	}
	return app.Run(ctx, app.Settings{
		Name: "collector", Options: p.options.app, Log: p.log, Health: health,
	}, units...)
}

// connect connects to the log and holds the connection until ctx ends. It waits for a log that cannot be
// reached yet, since the other site may be started later.
func (p *program) connect(ctx context.Context, ready func()) (err error) {
	cfg := p.options.nats
	cfg.Log, cfg.InProcess = p.log, p.server
	if p.conn, err = app.ConnectLog(ctx, cfg); err != nil {
		return err
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
		Tidy: func(ctx context.Context) (int, error) {
			return p.conn.CollectClaims(ctx, p.options.site)
		},
		Settled: debug.FreeOSMemory, // what the bodies of the first lists took is given back
	})
	if err != nil {
		return err
	}
	if p.rules != nil {
		p.rules.attach(collector.UseRules)
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
		p.config.watch(watching, p.log, func(c collect.Config) error {
			if err := collector.Configure(c); err != nil {
				return err
			}
			return p.readable.configure(c)
		})
	}()
	defer func() {
		stop()
		<-reloading
	}()
	var delay app.Delay
	for {
		begin := time.Now()
		err := collector.Run(ctx)
		if !errors.Is(err, pipeline.ErrFenced) {
			return err
		}
		if errors.Is(err, natslog.ErrCopyBroken) {
			continue // the next writer begins a whole epoch
		}
		p.log.ErrorContext(ctx, "another collector writes to the history of this site, starting over: "+
			"give every cluster a --site of its own, and let replicas use --leader-elect", telemetry.KeySite, p.options.site)
		if !app.Wait(ctx, delay.NextAfter(begin)) {
			return nil
		}
	}
}
